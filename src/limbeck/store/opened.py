"""A stored set, opened: batches of examples with the teacher's targets.

    stored = limbeck.open("runs/stored")
    stored = stored.with_dataset(stored.dataset.shuffle(seed=0).filter(long_enough))
    DistillTrainer(student, stored.teacher, objective, config, train_dataset=stored)

Targets are columns beside the inputs, so whatever is done to the rows applies to both.
What this file does not know: how the files are written, models, losses.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import datasets
import numpy as np
import pyarrow.compute as pc
import torch
from torch import Tensor
from torch.utils.data import Dataset

from limbeck.errors import DataError
from limbeck.networks.asking import TARGET_PREFIX, TEACHER_PREFIX
from limbeck.networks.outputs import CLASSES, Task
from limbeck.networks.table import Feature
from limbeck.store.columns import Chunks, ColumnFormat, to_numpy
from limbeck.store.folder import Folder, Location
from limbeck.store.manifest import Manifest
from limbeck.store.reading import read_head, read_manifest, read_rows, require_files
from limbeck.store.teacher import StoredTeacher
from limbeck.transfer.rows import Values, as_input, random_part
from limbeck.transfer.text.collate import Pad

Read = Callable[[str], tuple[np.ndarray, np.ndarray | None]]
"""A column's name -> its values and, of lists, the length of each: what `to_numpy` returns."""

_AT_ONCE = 2**16  # rows of one column


def open_stored(path: Location, cache_dir: str | None = None) -> "Labelled":
    """Opens the stored set in a folder, or behind an fsspec URL; `limbeck.open` is the same function.

    cache_dir: where datasets writes the copy of the rows that it maps into memory; by default its own cache.

    DataError, naming file or field, where the set is unfinished, from a newer Limbeck, lacks a file or a part of one,
    or has a changed manifest. The bytes of the files are checked when they are first read; `verify` checks everything.
    """
    folder = Folder(path)
    manifest = read_manifest(folder)
    require_files(folder, manifest)
    return Labelled(folder, manifest, cache_dir)


open = open_stored  # limbeck.open


class Labelled(Dataset):
    """A stored set: examples with a teacher's targets, as `limbeck.open` and `limbeck.label` return it.

    Its batches hold the inputs as the teacher read them (language models': padded), `labels`, `row_id`, and the
    columns `target_*`, one entry per compared position, which `teacher` reads.
    """

    def __init__(
        self, folder: Folder, manifest: Manifest, cache_dir: str | None = None, dataset: datasets.Dataset | None = None
    ):
        self.folder, self.manifest, self.cache_dir = folder, manifest, cache_dir
        self._dataset = dataset
        self._views: dict[str, Chunks] = {}  # of the columns that have been read

    @property
    def dataset(self) -> datasets.Dataset:
        """The rows as a `datasets.Dataset`, mapped into memory; read at the first use."""
        if self._dataset is None:
            self._dataset = read_rows(self.folder, self.manifest, self.cache_dir)
        return self._dataset

    @cached_property
    def teacher(self) -> StoredTeacher:
        """The teacher that reads the stored targets, to pass to the trainer."""
        return StoredTeacher(self.manifest, read_head(self.folder, self.manifest))

    @property
    def task(self) -> Task:
        """Classes: a stored set has one distribution over them for an example or a token."""
        return CLASSES

    @property
    def label_names(self) -> tuple[str, ...] | None:
        """The names of the classes, where they are known."""
        return self.manifest.label_names

    @property
    def features(self) -> tuple[Feature, ...] | None:
        """The columns of a table in `inputs`; None where the rows are no table."""
        return self.manifest.features

    @property
    def num_classes(self) -> int:
        """The number of classes of the targets."""
        return self.manifest.classes

    @property
    def pixel_columns(self) -> tuple[str, ...]:
        """The columns of images that are stored in 8 bits, and read as float in [0, 1]."""
        columns = self.manifest.columns.items()
        return tuple(
            name
            for name, kept in columns
            if kept.dtype == "uint8" and len(kept.shape) in (2, 3) and not name.startswith(TARGET_PREFIX)
        )

    @property
    def column_names(self) -> tuple[str, ...]:
        """The columns of a batch without `labels`, `row_id` and the targets."""
        left_out = ("labels", "row_id")
        return tuple(n for n in self.manifest.columns if n not in left_out and not n.startswith(TARGET_PREFIX))

    def token_extent(self, column: str) -> tuple[int, int] | None:
        """The length of the longest text of a column in tokens and its highest token id; None for other columns."""
        kept = self.manifest.columns.get(column)
        if kept is None or not kept.is_list or not np.issubdtype(np.dtype(kept.dtype), np.integer):
            return None
        lists = self.dataset.select_columns([column]).with_format("arrow")
        longest = highest = 0
        for table in lists.iter(_AT_ONCE):
            longest = max(longest, pc.max(pc.list_value_length(table[column])).as_py() or 0)
            highest = max(highest, pc.max(pc.list_flatten(table[column])).as_py() or 0)
        return longest, highest

    @cached_property
    def labels(self) -> Tensor | None:
        """`[N]`, or `[N, L]`; None where there are none, and for language models, whose labels are lists."""
        layout = self.manifest.columns.get("labels")
        return None if layout is None or layout.is_list else self._column("labels")

    @cached_property
    def row_ids(self) -> Tensor:
        """int64 `[N]`."""
        return self._column("row_id")

    def __len__(self) -> int:
        return self.manifest.rows if self._dataset is None else len(self._dataset)

    def __getitems__(self, places: Sequence[int]) -> dict[str, Tensor]:
        """The batch of the examples at these places; DataError where a place is out of range or none is given."""
        there = self._there(places)
        if not len(there):
            raise DataError(f"A batch needs at least one of the {len(self):,} examples, but got no place.")
        if self._rows is None:
            table = self._arrow[there.tolist()]
            return batch_of(
                lambda name: to_numpy(table.column(name), self.manifest.columns[name]), self.manifest.columns
            )
        rows = self._rows[there]
        return batch_of(lambda name: self._chunks(name).at(rows), self.manifest.columns)

    def __getitem__(self, place: int) -> dict[str, Tensor]:
        """One example, without the batch's axis; its targets `[positions, ...]` where it has several."""
        batch = self.__getitems__([range(len(self))[place]])
        whole = self.manifest.positions_are == "examples"
        return {n: v[0] if whole or not n.startswith(TARGET_PREFIX) else v for n, v in batch.items()}

    @cached_property
    def _arrow(self) -> Any:
        return self.dataset.with_format("arrow")

    def _chunks(self, name: str) -> Chunks:
        if name not in self._views:
            self._views[name] = Chunks(self.dataset.data.column(name), self.manifest.columns[name])
        return self._views[name]

    @cached_property
    def _rows(self) -> np.ndarray | None:
        """Each row's index in the dataset's table, `[N]`, found by row ids, since a shuffled dataset hides it.

        Several times faster than reading rows through datasets; None where an id occurs twice.
        """
        column = self.dataset.data.column("row_id")
        there = to_numpy(column, self.manifest.columns["row_id"])[0]
        order = np.argsort(there, kind="stable")
        ordered = there[order]
        if (ordered[1:] == ordered[:-1]).any():
            return None
        return np.asarray(order[np.searchsorted(ordered, self.row_ids.numpy())])

    def __getstate__(self) -> dict[str, Any]:
        """The state without views of mapped files, which a spawned worker would receive as copies."""
        return self.__dict__ | {"_views": {}}

    def with_dataset(self, changed: datasets.Dataset) -> "Labelled":
        """The same set with rows that `datasets` has shuffled, filtered, selected or repeated.

        changed: derived from `dataset`; use `joined` for the rows of other sets, which it checks. DataError where a
        column is missing or has another type.
        """
        found, wanted = changed.features.arrow_schema, self.dataset.features.arrow_schema
        for name in self.manifest.columns:
            have = found.field(name).type if name in found.names else "nothing"
            if have != wanted.field(name).type:
                raise DataError(
                    f"The changed rows must have {name!r} as {wanted.field(name).type}, but have {have}; shuffle, "
                    "filter, select and concatenate leave columns as they are."
                )
        if len(changed) == 0:
            raise DataError("A stored set needs at least one row, but the changed one has none.")
        return Labelled(self.folder, self.manifest, self.cache_dir, changed)

    def joined(self, *others: "Labelled") -> "Labelled":
        """The rows of this set, followed by those of other stored sets with the same settings.

        DataError, naming the field, where teacher, kind, tokenizer or augmentation differ.
        """
        for other in others:
            self.teacher.require_targets_in("transfer", other)
        return self.with_dataset(datasets.concatenate_datasets([self.dataset, *(other.dataset for other in others)]))

    def select(self, indices: Values) -> "Labelled":
        """The examples at these places (numbers, or a bool mask `[N]`), in this order; DataError if there is none."""
        places = torch.as_tensor(indices)
        if places.dtype == torch.bool:
            if places.shape != (len(self),):
                raise DataError(f"A bool mask has one entry per example, {len(self)}, but is {list(places.shape)}.")
            places = places.nonzero().squeeze(1)
        return self.with_dataset(self.dataset.select(self._there(places.tolist()).tolist()))

    def _there(self, places: Sequence[int]) -> np.ndarray:
        """The places as non-negative numbers, `[n]`; DataError where one is out of range."""
        there = np.asarray(places, np.int64)
        beyond = there[(there < -len(self)) | (there >= len(self))]
        if len(beyond):
            raise DataError(
                f"There are {len(self):,} examples, at the places 0 to {len(self) - 1:,}, but got {beyond[0]:,}."
            )
        return np.where(there < 0, there + len(self), there)

    def split(self, fraction: float, seed: int = 0) -> tuple["Labelled", "Labelled"]:
        """`(rest, part)` as TransferSet.split: chosen by row ids, with each class in its share."""
        chosen = random_part(self.row_ids, self.labels, fraction, seed)
        return self.select(~chosen), self.select(chosen)

    def __repr__(self) -> str:
        of = self.manifest
        what = ", ".join(f"{name}={value}" for name, value in of.kind.items() if name != "kind")
        return f"Labelled({len(self):,} examples, {of.kind['kind']}({what}) over {of.classes:,} classes, {self.folder})"

    def _column(self, name: str) -> Tensor:
        rows, layout = self.dataset.select_columns([name]).with_format("arrow"), self.manifest.columns[name]
        starts = range(0, len(rows), _AT_ONCE)  # datasets makes a table of each selected row
        return torch.from_numpy(
            np.concatenate([to_numpy(rows[start : start + _AT_ONCE].column(name), layout)[0] for start in starts])
        )


def batch_of(read: Read, columns: Mapping[str, ColumnFormat]) -> dict[str, Tensor]:
    """The batch of some rows, the same for the teacher that answers once and for every student.

    read: a column's values and lengths, by name. columns: how each is stored; labels that are lists are a language
    model's. The batch has the inputs first, then `labels`, `row_id` and the targets `[positions, (views,) width]`,
    zero at positions that are padding.
    """
    is_language = "labels" in columns and columns["labels"].is_list
    batch = _padded(read, columns) if is_language else _examples(read, columns)
    for name, column in columns.items():
        if not name.startswith(TARGET_PREFIX):
            continue
        values, lengths = read(name)
        if column.shape in ((), (None,)):  # one number per position
            values = values[..., None]
        if lengths is not None and not is_language:
            values = _at_tokens(values, lengths, next(iter(batch.values())).shape[1])
        batch[name] = _tensor(values)
    return batch


_OF_TEXTS = ("input_ids", "labels", TEACHER_PREFIX + "input_ids", TEACHER_PREFIX + "labels")


def _padded(read: Read, columns: Mapping[str, ColumnFormat]) -> dict[str, Tensor]:
    """The padded batch of rows of `tokenise`."""
    rows: list[dict[str, Any]] = [{"row_id": i} for i in read("row_id")[0].tolist()]
    for name in _OF_TEXTS:
        if name in columns:
            values, lengths = read(name)
            assert lengths is not None  # each is a list
            for row, row_values in zip(rows, np.split(values, np.cumsum(lengths)[:-1]), strict=True):
                row[name] = row_values
    return Pad(0)(rows)  # the padding is masked


def _examples(read: Read, columns: Mapping[str, ColumnFormat]) -> dict[str, Tensor]:
    """The batch of rows of a TransferSet, as the set itself would give it."""
    batch: dict[str, Tensor] = {}
    for name, layout in columns.items():
        if name.startswith(TARGET_PREFIX):
            continue
        values, lengths = read(name)
        if lengths is None:
            tensor = _tensor(values)
            batch[name] = tensor if name in ("labels", "row_id") else as_input(tensor)
        else:
            wide = np.full((len(lengths), lengths.max()), layout.padding, np.int64)
            wide[np.arange(wide.shape[1]) < lengths[:, None]] = values
            batch[name] = torch.from_numpy(wide)
    if "labels" in batch and batch["labels"].ndim > 1:
        batch["labels"] = batch["labels"][:, : next(iter(batch.values())).shape[1]]
    return batch


def _tensor(values: np.ndarray) -> Tensor:
    """The values as a tensor; read-only views of Arrow's memory are copied."""
    return torch.from_numpy(np.require(values, requirements="W"))


def _at_tokens(values: np.ndarray, lengths: np.ndarray, width: int) -> np.ndarray:
    """Values of each example's tokens, `[sum of lengths, ...]`, spread over a padded batch, `[n * width, ...]`."""
    everywhere = np.zeros((len(lengths), width, *values.shape[1:]), values.dtype)
    everywhere[np.arange(width) < lengths[:, None]] = values
    return everywhere.reshape(-1, *values.shape[1:])
