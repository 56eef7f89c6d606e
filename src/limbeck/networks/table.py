"""The columns of a table as a network reads them: numbers standardised, categories as units of their own.

    encoder = TableEncoder.fit(sets["train"])               # of the training part
    student = mlp([encoder.width, 128, classes])
    student.table_encoder = encoder                         # kept with the student, and in its ONNX file

Batches hold a table as numbers `inputs [n, F]`, one per column: numbers as they are, dates as days, categories by their
place in `Feature.categories`, and nan where a value is missing. Each network encodes them for itself.

What this file does not know: files of tables, transfer sets, training.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from limbeck.errors import ConfigError, DataError, ModelError
from limbeck.networks.pixels import innermost

INPUTS = "inputs"
"""The column of a batch that holds a table's values."""

FILE = "table_encoder.json"
KINDS = ("number", "date", "category")
SCALES = ("standard", "none")

UNKNOWN = -1.0
"""The number of a category that the training part does not have."""

NO_UNIT = -1

MOST_UNITS = 100
"""The most units of a category column; its rarer categories share one."""


N = TypeVar("N", bound=nn.Module)


@dataclass(frozen=True)
class Feature:
    """A column of a table.

    kind: "number"; "date", in days since 1970-01-01; or "category", as a place in `categories`.
    """

    name: str
    kind: str = "number"
    categories: tuple[str, ...] = ()


class TableExamples(Protocol):
    """The examples of a table, such as a TransferSet that has `features`."""

    @property
    def features(self) -> tuple[Feature, ...] | None:
        """The columns of `inputs [n, F]`."""
        ...

    def __len__(self) -> int: ...

    def __getitems__(self, places: Sequence[int], /) -> dict[str, Any]:
        """The batch of the examples at these places."""
        ...


@dataclass(frozen=True)
class EncodedColumn:
    """How a column is encoded.

    fill: takes the place of a missing number. mean, scale: a number becomes (number - mean) / scale.
    gaps: whether a unit of its own tells that a value is missing. units: the unit of each category, or -1 for none.
    """

    feature: Feature
    fill: float = 0.0
    mean: float = 0.0
    scale: float = 1.0
    gaps: bool = False
    units: tuple[int, ...] = ()


@dataclass(frozen=True)
class TableEncoder:
    """Encodes `[n, F]` values of a table as `[n, width]` float32, as scikit-learn's ColumnTransformer would.

    The numbers and dates come first, imputed by the median and standardised; then a unit for each of them that had
    missing values in the training part (MissingIndicator); then the units of each category column (OneHotEncoder), of
    which the last is for missing values where there were any. A category that the training part does not have has no
    unit, or that of the rare ones.
    """

    columns: tuple[EncodedColumn, ...]

    @classmethod
    def fit(cls, examples: TableExamples, scale: str = "standard") -> "TableEncoder":
        """The encoder of the examples of a table, which should be the training part alone.

        examples: a transfer set of `limbeck.table`, with `features`. scale: "standard", or "none" to leave numbers as
        they are. DataError where the examples are no table, or a column has no value.
        """
        if scale not in SCALES:
            raise ConfigError(f"scale is one of {', '.join(SCALES)}, not {scale!r}.")
        features = table_columns(examples)
        if not features:
            raise DataError("A table's encoder is fitted on a transfer set of limbeck.table that has feature columns.")
        values = examples.__getitems__(range(len(examples)))[INPUTS].double().numpy()
        return cls(tuple(_fit(f, values[:, i], scale) for i, f in enumerate(features)))

    @property
    def features(self) -> tuple[Feature, ...]:
        """The columns that it reads, in order."""
        return tuple(column.feature for column in self.columns)

    @property
    def width(self) -> int:
        """The number of units of its result."""
        layout = self._layout
        return len(layout.numbers) + len(layout.with_gaps) + sum(layout.widths)

    def __call__(self, inputs: Tensor) -> Tensor:
        """The encoded values `[n, width]` float32 of `inputs [n, F]`."""
        if inputs.ndim != 2 or inputs.shape[1] != len(self.columns):
            raise DataError(
                f"This network reads a table of {len(self.columns)} columns, but the inputs are {list(inputs.shape)}."
            )
        layout, parts = self._layout, []
        missing = inputs.isnan()
        if layout.numbers:
            numbers = [self.columns[i] for i in layout.numbers]
            fill, mean, scale = (
                torch.tensor([getattr(c, name) for c in numbers], dtype=torch.float32, device=inputs.device)
                for name in ("fill", "mean", "scale")
            )
            found = torch.where(missing[:, layout.numbers], fill, inputs[:, layout.numbers].float())
            parts.append((found - mean) / scale)
        if layout.with_gaps:
            parts.append(missing[:, layout.with_gaps].float())
        for i, width in zip(layout.categories, layout.widths, strict=True):
            units = torch.tensor(layout.units[i], device=inputs.device)
            known = len(self.columns[i].units)
            place = torch.where(missing[:, i], known + 1, inputs[:, i].nan_to_num(0).long())
            place = torch.where((place < 0) | (place > known + 1), known, place)
            parts.append((units[place][:, None] == torch.arange(width, device=inputs.device)).float())
        return torch.cat(parts, 1)

    def example(self, count: int) -> Tensor:
        """Random values `[count, F]` such as it reads."""
        drawn = torch.Generator().manual_seed(0)
        values = torch.randn(count, len(self.columns), generator=drawn)
        for i, column in enumerate(self.columns):
            if column.feature.kind == "category":
                values[:, i] = torch.randint(len(column.feature.categories), (count,), generator=drawn).float()
            else:
                values[:, i] = values[:, i] * column.scale + column.mean
        return values

    @cached_property
    def _layout(self) -> "_Layout":
        kinds = [column.feature.kind for column in self.columns]
        numbers = [i for i, kind in enumerate(kinds) if kind != "category"]
        categories = [i for i, kind in enumerate(kinds) if kind == "category"]
        widths = [_width(self.columns[i]) for i in categories]
        units = {i: _units(self.columns[i]) for i in categories}
        return _Layout(numbers, [i for i in numbers if self.columns[i].gaps], categories, widths, units)

    def to_json(self) -> str:
        """The text of its file."""
        return json.dumps({"columns": [asdict(column) for column in self.columns]}, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str, file: str) -> "TableEncoder":
        """The encoder in the text of a file; ModelError that names the file, where it is none."""
        try:
            return cls(tuple(_column_of(values) for values in json.loads(text)["columns"]))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ModelError(f"{file} does not describe the columns of a table: {error}.") from error


@dataclass(frozen=True)
class _Layout:
    """The places of the columns: numbers and dates, those of them with gaps, categories; and the latter's units."""

    numbers: list[int]
    with_gaps: list[int]
    categories: list[int]
    widths: list[int]
    units: dict[int, list[int]]


def table_columns(examples: object) -> tuple[Feature, ...] | None:
    """The columns of a transfer set that is a table; None for others (a Dataset has other `features`)."""
    found = getattr(examples, "features", None)
    return found if isinstance(found, tuple) and found else None


def table_encoder_of(model: object) -> TableEncoder | None:
    """The encoder of a network that reads tables; None for others. ModelError where the attribute is another object."""
    found = getattr(innermost(model), "table_encoder", None)
    if found is not None and not isinstance(found, TableEncoder):
        raise ModelError(f"table_encoder of a network is a TableEncoder, not a {type(found).__name__}.")
    return found


def with_table_encoder(network: N, encoder: TableEncoder | None) -> N:
    """The network, which from now on encodes a table by this encoder; as it is where there is none."""
    if encoder is not None:
        vars(innermost(network))["table_encoder"] = encoder
    return network


def with_encoded_table(model: object, inputs: dict[str, Any]) -> dict[str, Any]:
    """The inputs of a batch with its table encoded as the model reads it; unchanged where it has no encoder."""
    encoder = table_encoder_of(model)
    if encoder is None or INPUTS not in inputs:
        return inputs
    return inputs | {INPUTS: encoder(inputs[INPUTS])}


def require_table(model: object, examples: object, who: str) -> None:
    """DataError where a network reads other columns than the examples have, or values that it has no encoder for.

    who: the network's role, such as "student".
    """
    features = table_columns(examples)
    encoder = table_encoder_of(model)
    if not features:
        return
    if encoder is None:
        special = [f.name for f in features if f.kind == "category"]
        gaps = [name for name in getattr(examples, "columns_with_gaps", ()) if name not in special]
        if special or gaps:
            what = f"{special[0]!r} holds categories" if special else f"{gaps[0]!r} has missing values"
            raise DataError(
                f"The {who} reads numbers, but the column {what}; give it an encoder (student.table_encoder = "
                "limbeck.TableEncoder.fit(train)), or remove the column from feature_columns."
            )
        return
    for ours, theirs in zip(encoder.features, features, strict=False):
        if ours != theirs:
            what = f"{theirs.name!r} ({theirs.kind})"
            if ours.name == theirs.name and ours.kind == theirs.kind:
                what = f"{theirs.name!r} with other categories"
            raise DataError(
                f"The {who} reads the column {ours.name!r} ({ours.kind}), but the data has {what} in its place; read "
                "the data for this network: limbeck.table(..., features=network.table_encoder.features)."
            )
    if len(encoder.columns) != len(features):
        raise DataError(f"The {who} reads {len(encoder.columns)} columns, but the data has {len(features)}.")


def write_table_encoder(model: object, folder: Path) -> None:
    """Writes the encoder of a network into its folder; nothing where it has none."""
    encoder = table_encoder_of(model)
    if encoder is not None:
        (folder / FILE).write_text(encoder.to_json(), encoding="utf-8")


def read_table_encoder(folder: Path) -> TableEncoder | None:
    """The encoder in a network's folder; None where it has none."""
    if not (folder / FILE).is_file():
        return None
    try:
        text = (folder / FILE).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ModelError(f"{folder / FILE} is not text: {error}.") from error
    return TableEncoder.from_json(text, str(folder / FILE))


def feature_from(values: Mapping[str, Any]) -> Feature:
    """A feature from JSON; ValueError where it is none."""
    name, kind, categories = values["name"], values["kind"], values.get("categories", [])
    if not isinstance(name, str) or kind not in KINDS or not isinstance(categories, list | tuple):
        raise ValueError(f"a feature has a name and a kind out of {', '.join(KINDS)}, unlike {dict(values)}")
    if not all(isinstance(category, str) for category in categories):
        raise ValueError(f"the categories of {name!r} must be texts")
    return Feature(name, kind, tuple(categories))


def _column_of(values: Mapping[str, Any]) -> EncodedColumn:
    feature = feature_from(values["feature"])
    fill, mean, scale = (float(values[name]) for name in ("fill", "mean", "scale"))
    units = tuple(int(unit) for unit in values["units"])
    if not np.isfinite([fill, mean, scale]).all() or scale == 0:
        raise ValueError(f"fill, mean and scale of {feature.name!r} must be finite, and scale not 0")
    if len(units) != len(feature.categories) or (units and min(units) < NO_UNIT):
        raise ValueError(f"{feature.name!r} must have a unit for each of its {len(feature.categories)} categories")
    return EncodedColumn(feature, fill, mean, scale, bool(values["gaps"]), units)


def _fit(feature: Feature, values: np.ndarray, scale: str) -> EncodedColumn:
    """How a column `[N]` is encoded, by scikit-learn's own estimators."""
    from sklearn.impute import SimpleImputer
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    missing = np.isnan(values)
    if missing.all():
        raise DataError(
            f"The column {feature.name!r} has no value in the training part; remove it from feature_columns."
        )
    gaps = bool(missing.any())
    if feature.kind == "category":
        places = values[~missing & (values >= 0)].astype(np.int64)[:, None]
        hot = OneHotEncoder(max_categories=MOST_UNITS, handle_unknown="infrequent_if_exist", sparse_output=False)
        known = np.unique(places)
        units: dict[int, int] = dict(
            zip(known.tolist(), hot.fit(places).transform(known[:, None]).argmax(1).tolist(), strict=True)
        )
        rare = hot.infrequent_categories_[0]
        other = NO_UNIT if rare is None else units[int(rare[0])]  # of categories that only other parts of the data have
        return EncodedColumn(
            feature, gaps=gaps, units=tuple(units.get(i, other) for i in range(len(feature.categories)))
        )
    imputer, scaler = SimpleImputer(strategy="median"), StandardScaler()
    filled = imputer.fit_transform(values[:, None])
    fill = float(imputer.statistics_[0])
    if scale == "none":
        return EncodedColumn(feature, fill, gaps=gaps)
    scaler.fit(filled)
    return EncodedColumn(feature, fill, float(scaler.mean_[0]), float(scaler.scale_[0]), gaps)


def _width(column: EncodedColumn) -> int:
    return max(column.units, default=-1) + 1 + column.gaps


def _units(column: EncodedColumn) -> list[int]:
    """The unit of each category, then that of an unknown one (none: beyond the last) and of a missing one."""
    width = _width(column)
    shared = [unit for unit, times in Counter(column.units).items() if times > 1 and unit != NO_UNIT]
    units = [*column.units, next(iter(shared), NO_UNIT), width - 1 if column.gaps else NO_UNIT]
    return [width if unit == NO_UNIT else unit for unit in units]
