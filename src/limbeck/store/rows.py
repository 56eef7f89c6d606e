"""The rows of a transfer set as Arrow tables, one example per row, to be stored beside their targets.

What this file does not know: teachers, files.
"""

from abc import ABC, abstractmethod
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
from torch import Tensor

from limbeck.errors import DataError
from limbeck.losses.numbers import NO_LABEL
from limbeck.networks.asking import TARGET_PREFIX
from limbeck.store.columns import ColumnFormat, Digest, format_of, to_arrow, to_numpy
from limbeck.store.manifest import NEXT_TOKENS
from limbeck.transfer.features import TableRows
from limbeck.transfer.rows import TransferSet
from limbeck.transfer.text.tokens import Ragged

TABLE_BYTES = 64 * 2**20  # read at a time


def rows_of(transfer_set: object) -> "Rows":
    """The rows of a TransferSet, or of a `datasets.Dataset` of `tokenise`; DataError for anything else."""
    if isinstance(transfer_set, TransferSet):
        return _Examples(transfer_set)
    if isinstance(transfer_set, datasets.Dataset):
        return _Texts(transfer_set)
    raise DataError(
        "limbeck.label needs a TransferSet, or the rows that limbeck.tokenise returns, but got "
        f"{type(transfer_set).__name__}."
    )


class Rows(ABC):
    """Rows in order.

    columns: the format of each column. is_language: whether they are rows of `tokenise`.
    """

    columns: dict[str, ColumnFormat]
    is_language: bool

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def table(self, places: range) -> pa.Table:
        """The rows at these places."""

    def rows_of_table(self, places: range) -> TableRows | None:
        """The rows of a table as they were read, for teachers that read columns by name; None for other rows."""
        return None

    def survey(self, positions_are: str) -> tuple[str, int]:
        """A hash of all rows with their ids, and the number of their positions; DataError where ids repeat."""
        digest, positions, ids = Digest(), 0, []
        step = max(1, int(TABLE_BYTES * len(self) / max(1, self._nbytes())))
        for start in range(0, len(self), step):
            table = self.table(range(start, min(start + step, len(self))))
            digest.update(table)
            ids.append(to_numpy(table.column("row_id"), self.columns["row_id"])[0])
            positions += int(self.positions(table, positions_are).sum())
        known, times = np.unique(np.concatenate(ids), return_counts=True)
        if len(known) < len(self):
            raise DataError(
                f"Row ids must be distinct, but row_id {known[times > 1][0]} is given to several; number the "
                "rows, or leave the ids to limbeck.tokenise."
            )
        return digest.hexdigest(), positions

    def positions(self, table: pa.Table, positions_are: str) -> np.ndarray:
        """The number of positions of each row, `[n]`; for next tokens an upper bound (the first has none)."""
        if positions_are == "examples":
            return np.ones(len(table), np.int64)
        name = "labels" if positions_are == NEXT_TOKENS else next(iter(self.columns))
        values, lengths = to_numpy(table.column(name), self.columns[name])
        if lengths is None:
            return np.full(len(table), values.shape[1])
        if positions_are == "tokens":
            return lengths
        before = np.concatenate([[0], np.cumsum(values != NO_LABEL)])  # learned ones before each token
        ends = np.cumsum(lengths)
        return np.asarray(before[ends] - before[ends - lengths])

    def _nbytes(self) -> int:
        """The estimated bytes of all rows."""
        some = self.table(range(min(16, len(self))))
        return int(some.nbytes / len(some) * len(self))


class _Examples(Rows):
    is_language = False

    def __init__(self, transfer_set: TransferSet):
        self.transfer_set = transfer_set
        self.columns = {name: _format_of_values(name, values) for name, values in transfer_set.as_stored([0]).items()}
        if transfer_set.transform is not None and any(
            layout.dtype == "uint8" for name, layout in self.columns.items() if name not in ("labels", "row_id")
        ):
            raise DataError("The set's transform gives uint8, which is read again as pixels; let it give float32.")
        _require_names(list(self.columns))

    def __len__(self) -> int:
        return len(self.transfer_set)

    def table(self, places: range) -> pa.Table:
        arrays = {}
        for name, values in self.transfer_set.as_stored(places).items():
            layout = self.columns[name]
            if isinstance(values, Ragged):
                arrays[name] = to_arrow(values.values.numpy(), layout, values.lengths.numpy())
            elif tuple(values.shape[1:]) == layout.shape:
                arrays[name] = to_arrow(values.numpy(), layout)
            else:
                raise DataError(
                    f"Rows of {name!r} must have one shape, but have {list(layout.shape)} and "
                    f"{list(values.shape[1:])}; pass columns, without a transform that pads each batch."
                )
        return pa.table(arrays)

    def rows_of_table(self, places: range) -> TableRows | None:
        return self.transfer_set.rows_of_table(places)


class _Texts(Rows):
    is_language = True

    def __init__(self, dataset: Any):
        missing = [name for name in ("row_id", "input_ids", "labels") if name not in dataset.column_names]
        if missing:
            raise DataError(
                f"The rows of a language model need {missing[0]!r}, but have {dataset.column_names}; make them by "
                "limbeck.tokenise."
            )
        if "position_ids" in dataset.column_names:
            raise DataError(
                "limbeck.label needs one example per row, but these rows are packed; label them before packing."
            )
        if len(dataset) == 0:
            raise DataError("The dataset has no rows, but limbeck.label needs at least one.")
        _require_names(dataset.column_names)
        self.dataset = dataset.with_format("arrow")
        schema = dataset.features.arrow_schema
        self.columns = {name: format_of(schema.field(name).type) for name in dataset.column_names}

    def __len__(self) -> int:
        return len(self.dataset)

    def table(self, places: range) -> pa.Table:
        rows: pa.Table = self.dataset[places.start : places.stop]
        return rows.replace_schema_metadata(None)


def _format_of_values(name: str, values: Any) -> ColumnFormat:
    if isinstance(values, Ragged):
        return ColumnFormat(str(values.values.numpy().dtype), (None,), values.padding)
    assert isinstance(values, Tensor)
    try:
        return ColumnFormat(str(values.numpy().dtype), tuple(values.shape[1:]))
    except TypeError as error:
        raise DataError(f"Column {name!r} is {values.dtype}, which cannot be stored; convert it first.") from error


def _require_names(names: list[str]) -> None:
    taken = [name for name in names if name.startswith(TARGET_PREFIX)]
    if taken:
        raise DataError(
            f"Columns {TARGET_PREFIX}... are a teacher's targets, but the rows have {taken[0]!r} already; rename it, "
            "or label rows without stored targets."
        )
