"""Columns of a Hugging Face `datasets.Dataset` as arrays, without a Python object per value."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.types as kinds


def column(dataset: Any, name: str) -> pa.Array:
    """A whole column, its rows in the dataset's order."""
    return dataset.select_columns([name]).with_format("arrow")[:].column(0).combine_chunks()


def lists(dataset: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    """A column of lists: all their values, one after the other, and the int64 length of each."""
    rows = column(dataset, name)
    lengths = rows.value_lengths().fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    return np.array(rows.flatten().to_numpy(zero_copy_only=False)), lengths


def kind(dataset: Any, name: str) -> pa.DataType:
    return dataset.features.arrow_schema.field(name).type


def is_list(dataset: Any, name: str) -> bool:
    return _is_list(kind(dataset, name))


def is_words(dataset: Any, name: str) -> bool:
    found = kind(dataset, name)
    return _is_list(found) and _is_text(found.value_type)


def is_text(dataset: Any, name: str) -> bool:
    return _is_text(kind(dataset, name))


def is_number(dataset: Any, name: str) -> bool:
    found = kind(dataset, name)
    return bool(kinds.is_integer(found) or kinds.is_floating(found) or kinds.is_boolean(found))


def _is_list(found: pa.DataType) -> bool:
    return bool(kinds.is_list(found) or kinds.is_large_list(found) or kinds.is_fixed_size_list(found))


def _is_text(found: pa.DataType) -> bool:
    return bool(kinds.is_string(found) or kinds.is_large_string(found))
