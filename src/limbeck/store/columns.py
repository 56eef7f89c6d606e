"""The format of a column of examples in Arrow and Parquet: writing values and reading them back.

    ColumnFormat("int64")                 a number per row
    ColumnFormat("uint8", (28, 28))       fixed-size lists of 784, an image per row
    ColumnFormat("int32", (None,))        lists, whose length differs from row to row
    ColumnFormat("uint8", (None, 64))     lists of lists of 64

`to_numpy` reads all rows of a column, `Chunks` any of them.
What this file does not know: the meaning of the columns, files.
"""

import hashlib
import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from limbeck.errors import DataError

_COPIED = 2**27  # bytes: a smaller column is copied into one array


@dataclass(frozen=True)
class ColumnFormat:
    """How the values of a column are stored.

    dtype: NumPy's name, or Arrow's where the values are not numbers.
    shape: of a row, with None for a length that differs from row to row.

    padding: what fills rows of different lengths up to the longest of a batch.
    """

    dtype: str
    shape: tuple[int | None, ...] = ()
    padding: int | None = None

    @property
    def width(self) -> int:
        """Numbers per row, or per entry of its list."""
        return math.prod(size for size in self.shape if size is not None)

    @property
    def is_list(self) -> bool:
        """Whether the length differs from row to row."""
        return None in self.shape

    @property
    def bytes(self) -> int:
        """Per row, or per entry of its list, uncompressed."""
        return self.width * np.dtype(self.dtype).itemsize


def format_of(kind: pa.DataType) -> ColumnFormat:
    """The format of a column that is in Arrow already."""
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        inner = format_of(kind.value_type)
        return ColumnFormat(inner.dtype, (None,)) if inner.shape == () else ColumnFormat(str(kind))
    return ColumnFormat(str(np.dtype(kind.to_pandas_dtype())) if _is_number(kind) else str(kind))


def to_arrow(values: np.ndarray, layout: ColumnFormat, lengths: np.ndarray | None = None) -> pa.Array:
    """`values [n, *shape]`, or `[sum of lengths, ...]` with `lengths [n]`, as an Arrow array of n rows."""
    flat = pa.array(np.ascontiguousarray(values, dtype=layout.dtype).reshape(-1))
    in_rows = layout.shape if lengths is None else layout.shape[1:]
    if in_rows:
        flat = pa.FixedSizeListArray.from_arrays(flat, layout.width)
    if lengths is None:
        return flat
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), flat)


def to_numpy(column: pa.ChunkedArray, layout: ColumnFormat) -> tuple[np.ndarray, np.ndarray | None]:
    """The values of a column and, of lists, the length of each: what `to_arrow` was given."""
    rows = column.combine_chunks()
    lengths = None
    if layout.is_list:
        lengths = rows.value_lengths().to_numpy(zero_copy_only=False).astype(np.int64)
        rows = rows.flatten()
        if len(layout.shape) > 1:
            rows = rows.flatten()
        return _numbers(rows).reshape(-1, *(size or -1 for size in layout.shape[1:])), lengths
    if layout.shape:
        rows = rows.flatten()
    return _numbers(rows).reshape(len(column), *(size or -1 for size in layout.shape)), lengths


class Chunks:
    """Random access to the rows of a column: a copy of it, or, for lists and above 128 MiB, views of the mapped file.

    DataError where a value is missing.
    """

    def __init__(self, column: pa.ChunkedArray, layout: ColumnFormat):
        self._views = [_view(chunk, layout) for chunk in column.chunks]
        self._starts = np.cumsum([0] + [len(chunk) for chunk in column.chunks])[:-1]
        if not layout.is_list and sum(view.nbytes for view, _ in self._views) <= _COPIED:
            self._views, self._starts = [(np.concatenate([view for view, _ in self._views]), None)], self._starts[:1]
        self._is_list = layout.is_list

    def at(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """A copy of these rows in the given order, as `to_numpy` returns it. places `[n]`, n at least 1."""
        if len(self._views) == 1 and not self._is_list:
            return self._views[0][0][places], None
        chunks = np.searchsorted(self._starts, places, side="right") - 1
        parts = []
        for chunk, row in zip(chunks.tolist(), (places - self._starts[chunks]).tolist(), strict=True):
            values, offsets = self._views[chunk]
            parts.append(values[row : row + 1] if offsets is None else values[offsets[row] : offsets[row + 1]])
        lengths = np.array([len(part) for part in parts]) if self._is_list else None
        return np.concatenate(parts), lengths


class Digest:
    """SHA-256 of the names, types and values of rows, whatever tables they come in."""

    def __init__(self) -> None:
        self._columns: dict[str, tuple[Any, Any]] = {}

    def update(self, table: pa.Table) -> None:
        """Adds rows."""
        for field in table.schema:
            of_lengths, of_values = self._columns.setdefault(
                f"{field.name} {field.type}", (hashlib.sha256(), hashlib.sha256())
            )
            rows = table.column(field.name).combine_chunks()
            while _is_list(rows.type) and not rows.null_count:
                of_lengths.update(rows.value_lengths().to_numpy(zero_copy_only=False).astype(np.int64))
                rows = rows.flatten()
            if _is_number(rows.type) and not rows.null_count:
                of_values.update(np.ascontiguousarray(_numbers(rows)))
            else:
                of_values.update("".join(json.dumps(x, default=repr) + "\n" for x in rows.to_pylist()).encode())

    def hexdigest(self) -> str:
        """The digest of all rows so far."""
        parts = [f"{column} {n.hexdigest()} {v.hexdigest()}" for column, (n, v) in sorted(self._columns.items())]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _view(rows: pa.Array, layout: ColumnFormat) -> tuple[np.ndarray, np.ndarray | None]:
    """All values of a chunk, `[entries, *shape]`, and of lists where each row begins, `[n + 1]`."""
    offsets = None
    while _is_list(rows.type) and not rows.null_count:
        if not pa.types.is_fixed_size_list(rows.type):
            offsets = rows.offsets.to_numpy()  # into all values, also those of rows that were cut away
            rows = rows.values
        else:
            rows = rows.flatten()
    if rows.null_count or _is_list(rows.type):
        raise DataError("A column of a stored set has rows without a value; select rows that have all values.")
    return _numbers(rows).reshape(-1, *(size for size in layout.shape if size is not None)), offsets


def _numbers(rows: pa.Array) -> np.ndarray:
    return np.asarray(rows.to_numpy(zero_copy_only=False))


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))
