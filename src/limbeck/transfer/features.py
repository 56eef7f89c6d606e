"""The feature columns of a table as `[N, F]` float32: numbers, dates, categories, gaps; and the rows as they were read.

    values, features = read_features(data, ["carat", "cut", "sold_on"], "train")

What this file does not know: labels, texts, networks' encodings.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as kinds
import torch
from torch import Tensor

from limbeck.errors import DataError
from limbeck.networks.table import UNKNOWN, Feature
from limbeck.transfer import arrow

DATE = r"^\s*\d{4}-\d{2}-\d{2}([ T]\d{2}:\d{2}(:\d{2}(\.\d+)?)?(Z|[+-]\d{2}:?\d{2})?)?\s*$"
"""A date, or a date and time, of ISO 8601 as text."""

LARGEST = float(np.finfo(np.float32).max)
MICROSECONDS_PER_DAY = 24 * 60 * 60 * 10**6


@dataclass(frozen=True, eq=False)
class TableRows:
    """Rows of a table as they were read, for teachers that read columns by name; nothing is copied before it is asked.

    table: the Arrow table of a whole split. rows: the places of these rows in it, int64 `[n]`, or None for all.
    texts: the columns that are the text of a data set of texts.
    """

    table: Any
    rows: Tensor | None = None
    texts: tuple[str, ...] = ()

    def __len__(self) -> int:
        return self.table.num_rows if self.rows is None else len(self.rows)

    @property
    def column_names(self) -> list[str]:
        """The columns, in the order of the file."""
        return list(self.table.column_names)

    def at(self, rows: Tensor) -> "TableRows":
        """The rows at these places among these."""
        return replace(self, rows=rows if self.rows is None else self.rows[rows])

    def __getitem__(self, place: int) -> dict[str, Any]:
        """One row, by the names of its columns."""
        row: dict[str, Any] = self.at(torch.tensor([range(len(self))[place]])).frame().iloc[0].to_dict()
        return row

    def __repr__(self) -> str:
        return f"TableRows({len(self)} rows of {', '.join(self.column_names)})"

    def to(self, *args: Any, **options: Any) -> "TableRows":
        """Itself: rows stay in the computer's memory, wherever a batch goes."""
        return self

    def frame(self, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """A DataFrame of these rows with the given columns, by default all of them."""
        table = self.table if columns is None else self.table.select(list(columns))
        frame: pd.DataFrame = self._taken(table).to_pandas()
        return frame

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        """Only these rows travel to another process."""
        return TableRows, (self._taken(self.table), None, self.texts)

    def _taken(self, table: Any) -> Any:
        return table if self.rows is None else table.take(pa.array(self.rows.numpy()))


def table_rows(data: datasets.Dataset, left_out: Sequence[str], texts: tuple[str, ...]) -> TableRows:
    """The rows of a split as they were read, without the columns `left_out` and without images and sounds."""
    names = [n for n, f in data.features.items() if n not in left_out and isinstance(f, datasets.Value)]
    return TableRows(data.select_columns(names).with_format("arrow")[:] if names else pa.table({}), texts=texts)


def features_of(data: datasets.Dataset, names: Sequence[str], split: str) -> tuple[Feature, ...]:
    """What the feature columns of a split are; DataError where one is neither numbers, dates nor categories."""
    found = []
    for name, column in arrow.columns(data, list(dict.fromkeys(names))).items():
        kind = _kind(data, name, column, split)
        categories: tuple[str, ...] = ()
        if kind == "category":
            categories = tuple(sorted(pc.unique(_as_text(data, name, column).drop_null()).to_pylist()))
        found.append(Feature(name, kind, categories))
    by_name = {feature.name: feature for feature in found}
    return tuple(by_name[name] for name in names)


def read_features(data: datasets.Dataset, features: Sequence[Feature], split: str, what: str = "Features") -> Tensor:
    """`[N, F]` float32 in the order of `features`; nan where a value is missing. DataError names a wrong value.

    A category that `features` does not list is -1. what: what the columns are, for messages.
    """
    columns = arrow.columns(data, list(dict.fromkeys(feature.name for feature in features)))
    values = [_values(data, feature, columns[feature.name], split, what) for feature in features]
    for feature, found in zip(features, values, strict=True):
        infinite, large = np.isinf(found), np.abs(found) > LARGEST
        if infinite.any():
            raise DataError(
                f"{what} must be finite, but row {int(infinite.argmax())} of {split} has an infinite "
                f"{feature.name!r} ({int(infinite.sum())} such in all); fill or remove them."
            )
        if large.any():
            row = int(large.argmax())
            raise DataError(
                f"{what} are read as float32, but row {row} of {split} has {found[row]:g} in {feature.name!r}; scale "
                "that column."
            )
    return torch.from_numpy(np.stack(values, axis=1).astype(np.float32))


def is_category(values: pa.Array) -> bool:
    """Whether a column of strings holds categories: short ones, of which one comes back twice on average."""
    known = values.drop_null()
    return len(known) > 0 and pc.count_distinct(known).as_py() <= len(known) / 2 and mean_words(known) < 4


def mean_words(values: pa.Array) -> float:
    """The mean number of words of a column of strings."""
    spaces = pc.mean(pc.count_substring_regex(pc.utf8_trim_whitespace(values.drop_null()), r"\s+")).as_py()
    return 0.0 if spaces is None else float(spaces) + 1


def is_date(data: datasets.Dataset, name: str, values: pa.Array | None) -> bool:
    """Whether a column holds dates, also as text of ISO 8601. values: of a column of text."""
    kind = arrow.kind(data, name)
    if kinds.is_temporal(kind):
        return bool(kinds.is_date(kind) or kinds.is_timestamp(kind))
    if values is None or not arrow.is_text(data, name):
        return False
    known = values.drop_null()
    return len(known) > 0 and bool(pc.all(pc.match_substring_regex(known, DATE)).as_py())


def _kind(data: datasets.Dataset, name: str, column: pa.Array, split: str) -> str:
    if arrow.is_number(data, name) and not isinstance(data.features[name], datasets.ClassLabel):
        return "number"
    if is_date(data, name, column):
        return "date"
    if arrow.is_text(data, name):
        return "number" if arrow.share_of_numbers(column) > 0.5 else "category"
    if kinds.is_dictionary(arrow.kind(data, name)) or isinstance(data.features[name], datasets.ClassLabel):
        return "category"
    raise DataError(
        f"Features must be numbers, dates or categories, but {name!r} in {split} has the type {arrow.kind(data, name)}."
    )


def _values(data: datasets.Dataset, feature: Feature, column: pa.Array, split: str, what: str) -> np.ndarray:
    """A column as float64 `[N]`, nan where a value is missing."""
    name = feature.name
    if feature.kind == "category":
        text = _as_text(data, name, column)
        places = pc.index_in(text, value_set=pa.array(list(feature.categories), text.type))
        found = places.cast("float64").to_numpy(zero_copy_only=False)
        return np.where(np.isnan(found) & text.is_valid().to_numpy(zero_copy_only=False), UNKNOWN, found)
    if feature.kind == "date":
        return _days(data, name, column, split)
    if arrow.is_text(data, name):
        return _numbers(column, name, split, what)
    if arrow.is_number(data, name):
        return np.asarray(column.cast("float64", safe=False).to_numpy(zero_copy_only=False))
    raise DataError(f"{name!r} in {split} must hold numbers, but has the type {arrow.kind(data, name)}.")


def _as_text(data: datasets.Dataset, name: str, column: pa.Array) -> pa.Array:
    """The names of a column of categories."""
    feature = data.features[name]
    if isinstance(feature, datasets.ClassLabel):
        return pc.take(pa.array(feature.names), column)
    return column.cast("string")


def _days(data: datasets.Dataset, name: str, column: pa.Array, split: str) -> np.ndarray:
    """Dates as days since 1970-01-01."""
    if not (arrow.is_text(data, name) or kinds.is_temporal(arrow.kind(data, name))):
        raise DataError(f"{name!r} in {split} must hold dates, but has the type {arrow.kind(data, name)}.")
    try:
        if arrow.is_text(data, name):
            parsed = pd.to_datetime(column.to_pandas(), format="ISO8601", utc=True)
            column = pa.array(parsed)
        return np.asarray(column.cast("timestamp[us]").cast("int64").cast("float64").to_numpy(zero_copy_only=False)) / (
            MICROSECONDS_PER_DAY
        )
    except ValueError as error:
        raise DataError(f"{name!r} in {split} must hold dates, such as 2026-11-27: {error}.") from error


def _numbers(values: pa.Array, name: str, split: str, what: str) -> np.ndarray:
    """A column of numbers written as text `[N]` float64, nan where it is empty."""
    words = pc.invert(pc.match_substring_regex(values, arrow.NUMBER)).fill_null(False)
    if pc.any(words).as_py():
        row = pc.index(words, True).as_py()
        raise DataError(
            f"{what} must be numbers, but {name!r} in {split} has {values[row].as_py()!r} in row {row} "
            f"({pc.sum(words.cast('int64')).as_py()} such in all); if it stands for a missing value, give missing "
            "(--missing); else correct it"
            + (
                ", or remove the column from feature_columns."
                if what == "Features"
                else ": a number has no currency sign and no separator of thousands."
            )
        )
    trimmed = pc.utf8_trim_whitespace(values)
    return np.asarray(pc.cast(pc.utf8_ltrim(trimmed, "+"), "float64").to_numpy(zero_copy_only=False))
