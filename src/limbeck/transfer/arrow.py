"""Columns of a Hugging Face `datasets.Dataset` as arrays, without a Python object per value."""

from collections.abc import Sequence

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as kinds

NUMBER = r"^\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*$"
"""A number written as text."""


def column(dataset: datasets.Dataset, name: str) -> pa.Array:
    """The whole column `name`, in the order of the dataset's rows."""
    return dataset.select_columns([name]).with_format("arrow")[:].column(0).combine_chunks()


def lists(dataset: datasets.Dataset, name: str) -> tuple[np.ndarray, np.ndarray]:
    """All values of a column of lists, one list after the other, and the length of each list `[N]` int64."""
    rows = column(dataset, name)
    lengths = rows.value_lengths().fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    return np.array(rows.flatten().to_numpy(zero_copy_only=False)), lengths


def kind(dataset: datasets.Dataset, name: str) -> pa.DataType:
    """The Arrow type of a column."""
    return dataset.data.schema.field(name).type  # that of dataset.features would be made anew for each column


def is_list(dataset: datasets.Dataset, name: str) -> bool:
    return _is_list(kind(dataset, name))


def is_words(dataset: datasets.Dataset, name: str) -> bool:
    found = kind(dataset, name)
    return _is_list(found) and _is_text(found.value_type)


def columns(dataset: datasets.Dataset, names: Sequence[str]) -> dict[str, pa.Array]:
    """Whole columns, in the order of the dataset's rows."""
    table = dataset.select_columns(list(names)).with_format("arrow")[:]
    return {name: table.column(name).combine_chunks() for name in names}


def share_of_numbers(values: pa.Array) -> float:
    """The share of a column of strings, missing values aside, that are numbers written as text."""
    shares = pc.mean(pc.match_substring_regex(values.drop_null(), NUMBER).cast("int8")).as_py()
    return float(shares or 0)


def is_text(dataset: datasets.Dataset, name: str) -> bool:
    return _is_text(kind(dataset, name))


def is_number(dataset: datasets.Dataset, name: str) -> bool:
    found = kind(dataset, name)
    return bool(kinds.is_integer(found) or kinds.is_floating(found) or kinds.is_boolean(found))


def _is_list(found: pa.DataType) -> bool:
    return bool(kinds.is_list(found) or kinds.is_large_list(found) or kinds.is_fixed_size_list(found))


def _is_text(found: pa.DataType) -> bool:
    return bool(kinds.is_string(found) or kinds.is_large_string(found))
