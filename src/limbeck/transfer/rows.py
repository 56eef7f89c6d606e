"""The transfer set: examples in columns, gathered a whole batch at a time.

    examples = arrays(images, labels)                  # NumPy or torch, [N, ...] and [N]
    batch = examples.__getitems__([5, 2, 9])           # {"inputs": [3, ...], "labels": [3], "row_id": [3]}
    loader = DataLoader(examples, batch_size=128, collate_fn=collate)

Every example has a row id that stays with it through `select` and `split`: its random numbers and its stored
targets are found by that id and never by its place.

What this file does not know: files, tokenizers, models, losses.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.utils.data import Dataset

from limbeck.errors import DataError
from limbeck.losses.numbers import NO_LABEL
from limbeck.networks.asking import Batch
from limbeck.networks.checks import out_of_range
from limbeck.networks.outputs import CLASSES, Task
from limbeck.networks.table import Feature
from limbeck.transfer import draws
from limbeck.transfer.features import TableRows
from limbeck.transfer.labels import as_tensor, labels_by_task, whole_numbers

MOST_CLASSES = 1_000_000
"""The most classes that labels alone may ask for: one label can be an id, and a network has an output per class."""


Values: TypeAlias = ArrayLike | Tensor
"""Numbers, one or an array of them per example: NumPy's, torch's, or lists."""


class Column(Protocol):
    """A column that is not simply an array: tokens, images in files."""

    def __len__(self) -> int: ...

    def gather(self, rows: Tensor) -> Tensor:
        """The values of the given rows, `[n, ...]`, for `rows` `[n]` int64."""
        ...


def arrays(
    inputs: Values,
    labels: Values | None = None,
    *,
    label_names: Sequence[str] | None = None,
    column: str = "inputs",
    task: Task | str | None = None,
) -> "TransferSet":
    """A transfer set of one input column, from NumPy or torch: inputs `[N, ...]`, labels as TransferSet takes them.

    NumPy's float64 becomes float32, as models are; a torch tensor keeps its type.
    """
    if not isinstance(inputs, Tensor):
        inputs = np.asarray(inputs)
        inputs = inputs.astype(np.float32) if inputs.dtype == np.float64 else inputs
    return TransferSet({column: inputs}, labels, label_names=label_names, task=task)


def collate(batch: Batch) -> Batch:
    """The `collate_fn` of a DataLoader over a TransferSet: returns the batch, which is gathered already."""
    return batch


def distinct_row_ids(lengths: Mapping[str, int]) -> dict[str, Tensor]:
    """Row ids `[N]` of each split of one source, distinct across the splits.

    So a stored target or a random number of a training example is never taken for a test example's.
    """
    ids = torch.split(torch.arange(sum(lengths.values())), list(lengths.values()))
    return dict(zip(lengths, ids, strict=True))


class TransferSet(Dataset):
    """Examples with or without labels, as columns.

    columns: name -> array or tensor `[N, ...]` (or a Column). Not copied or converted; uint8 becomes float32
        in [0, 1], divided by 255, when it is gathered.
    labels: by the task. Classes: whole numbers `[N]`, or `[N, L]` of tokens (gathered as wide as the first column).
        multi_label: 0 or 1 of each label, `[N, L]`. segmentation: the class of each pixel, `[N, H, W]`. For all of
        these, -100 = no label. regression: numbers `[N]` or `[N, D]`; nan = no label.
    task: "classification", "multi_label", "segmentation" or "regression", or a `limbeck.Task`, which a set without
        labels needs to be told from one of classes. By default that of classes, or of pixels for labels `[N, H, W]`.
    label_names: the names, in order, of the classes, of several labels or of numbers. num_classes: how many, where
        there are no names; by default the highest label + 1.
    row_ids: int64 `[N]`, distinct; by default 0 to N - 1.
    features: what the columns of a table are, `[F]` of them in `inputs [N, F]`. table_rows: its rows as they were read,
        for teachers that read columns by name; batches have them as `table_rows`.
    transform: a pure function `batch -> batch` applied to each gathered batch.

    DataError where columns, labels, names and ids do not fit together.
    """

    def __init__(
        self,
        columns: Mapping[str, Values | Column],
        labels: Values | None = None,
        *,
        label_names: Sequence[str] | None = None,
        num_classes: int | None = None,
        row_ids: Values | None = None,
        transform: Callable[[Batch], Batch] | None = None,
        features: Sequence[Feature] | None = None,
        table_rows: TableRows | None = None,
        task: Task | str | None = None,
    ) -> None:
        self._columns = {name: _as_column(name, values) for name, values in columns.items()}
        length = _common_length(self._columns)
        self.label_names = _distinct_names(label_names)
        self.labels, self._task = labels_by_task(labels, task, length)
        counted = self._task is None or self._task.outputs is None  # several labels, and numbers, are not classes
        self.num_classes = None
        if counted:
            self.num_classes = len(self.label_names) if self.label_names is not None else num_classes
            if self.labels is not None:
                self.num_classes = _num_classes(self.labels, self.num_classes)
        elif self._task is not None and self.label_names and len(self.label_names) != self._task.outputs:
            raise DataError(
                f"label_names must name the {self._task.outputs} labels or numbers of an example, but are "
                f"{len(self.label_names)}."
            )
        self.row_ids = torch.arange(length) if row_ids is None else _distinct_ids(row_ids, length)
        self.transform = transform
        self.features = None if features is None else tuple(features)
        self.table_rows = table_rows
        if table_rows is not None and len(table_rows) != length:
            raise DataError(f"table_rows must be the {length} rows of the columns, but are {len(table_rows)}.")
        self._rows: Tensor | None = None  # where a set is a part of another: its rows in the shared columns

    def __len__(self) -> int:
        return len(self.row_ids)

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """The batch of these examples: every column `[n, ...]`, `row_id` `[n]`, `labels` `[n]` where there are any."""
        return self._gather(torch.as_tensor(indices, dtype=torch.int64))

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """One example, without the batch axis."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"Example {index} of a transfer set of {len(self)}.")
        batch = self._gather(torch.tensor([index % len(self)]))
        return {name: values[0] for name, values in batch.items() if name != "table_rows"}

    def _gather(self, indices: Tensor) -> dict[str, Tensor]:
        rows = indices if self._rows is None else self._rows[indices]
        batch: dict[str, Any] = {name: as_input(column.gather(rows)) for name, column in self._columns.items()}
        if self.labels is not None:
            labels = self.labels[indices]
            of_tokens = labels.dim() == 2 and self.task == CLASSES
            batch["labels"] = labels[:, : next(iter(batch.values())).shape[1]] if of_tokens else labels
        batch["row_id"] = self.row_ids[indices]
        if self.table_rows is not None:
            batch["table_rows"] = self.table_rows.at(rows)
        return batch if self.transform is None else dict(self.transform(batch))

    def as_stored(self, indices: Sequence[int]) -> dict[str, Any]:
        """The columns of these examples as stored, with `labels` and `row_id`: uint8 stays uint8, tokens stay Ragged.

        With a transform, the columns that it returns for the batch.
        """
        if self.transform is not None:
            return {name: x for name, x in self.__getitems__(indices).items() if name != "table_rows"}
        places = torch.as_tensor(indices, dtype=torch.int64)
        rows = places if self._rows is None else self._rows[places]
        kept = {name: c.part(rows) if hasattr(c, "part") else c.gather(rows) for name, c in self._columns.items()}
        if self.labels is not None:
            kept["labels"] = self.labels[places]
        return kept | {"row_id": self.row_ids[places]}

    def select(self, indices: Values) -> "TransferSet":
        """The examples at these places (numbers, or a bool mask `[N]`), in this order, with their row ids.

        Columns are shared with this set, not copied; the number of classes stays.
        """
        places = _places(indices, len(self))
        if len(places) == 0:
            raise DataError("A transfer set needs at least one example, but the selection is empty.")
        if int(places.bincount().max()) > 1:
            place = int(places.bincount().argmax())
            raise DataError(f"An example can be selected once, but place {place} is named several times.")
        part = self._copy()
        part._rows = places if self._rows is None else self._rows[places]
        part.row_ids = self.row_ids[places]
        part.labels = None if self.labels is None else self.labels[places]
        return part

    def split(self, fraction: float, seed: int = 0) -> tuple["TransferSet", "TransferSet"]:
        """`(rest, part)`: a random `part` of round(fraction * N) examples, each class in its share (+-1).

        Which examples of a class go into the part depends on the seed and on the row ids in the set only.
        """
        chosen = random_part(self.row_ids, self.labels, fraction, seed)
        return self.select(~chosen), self.select(chosen)

    def without_labels(self, except_rows: Values | None = None) -> "TransferSet":
        """The same examples with no labels; or with those at the places `except_rows` only, -100 or nan elsewhere.

        The number of classes, their names and the task stay.
        """
        bare = self._copy()
        bare._task = self.task
        bare.labels = None
        if except_rows is not None and self.labels is not None:
            places = _places(except_rows, len(self))
            bare.labels = torch.full_like(self.labels, math.nan if self.labels.is_floating_point() else NO_LABEL)
            bare.labels[places] = self.labels[places]
        return bare

    @property
    def task(self) -> Task | None:
        """What the labels are; None where there are none and nothing else tells."""
        return CLASSES if self._task is None and self.labels is not None else self._task

    @property
    def column_names(self) -> tuple[str, ...]:
        """The columns of a batch, `labels` and `row_id` aside."""
        return tuple(self._columns)

    @property
    def pixel_columns(self) -> tuple[str, ...]:
        """The columns of images that are stored in 8 bits, and gathered as float in [0, 1]."""
        return tuple(name for name, column in self._columns.items() if getattr(column, "is_pixels", False))

    def rows_of_table(self, places: Sequence[int]) -> TableRows | None:
        """The rows of these examples as they were read; None where the set is no table."""
        if self.table_rows is None:
            return None
        indices = torch.as_tensor(places, dtype=torch.int64)
        return self.table_rows.at(indices if self._rows is None else self._rows[indices])

    @property
    def columns_with_gaps(self) -> tuple[str, ...]:
        """The names of a table's columns in which a value is missing."""
        if self.features is None:
            return ()
        gaps = self.__getitems__(range(len(self)))["inputs"].isnan().any(0).tolist()
        return tuple(feature.name for feature, gap in zip(self.features, gaps, strict=True) if gap)

    def token_extent(self, column: str) -> tuple[int, int] | None:
        """The length of the longest text of a column in tokens and its highest token id; None for other columns."""
        tokens: Any = self._columns.get(column)
        if not hasattr(tokens, "extent"):
            return None
        extent: tuple[int, int] | None = tokens.extent(torch.arange(len(tokens)) if self._rows is None else self._rows)
        return extent

    def __repr__(self) -> str:
        classes = "no classes" if self.num_classes is None else f"{self.num_classes} classes"
        if self._task is not None and self._task.outputs is not None:
            classes = f"{self._task.kind} of {self._task.outputs}"
        labels = "no labels" if self.labels is None else "labels"
        return f"TransferSet({len(self)} examples of {', '.join(self._columns)}; {labels}, {classes})"

    def _copy(self) -> "TransferSet":
        copy = object.__new__(type(self))
        copy.__dict__.update(self.__dict__)
        return copy


def random_part(row_ids: Tensor, labels: Tensor | None, fraction: float, seed: int) -> Tensor:
    """`[N]` bool that selects round(fraction * N) examples at random by row id, each class in its share (+-1)."""
    size = round(fraction * len(row_ids))
    if not 0 < size < len(row_ids):
        raise DataError(
            f"A fraction of {fraction} of {len(row_ids)} examples is {size}; both parts need at least one example."
        )
    order = draws.bits(seed, draws.BEFORE_TRAINING, row_ids, 1).squeeze(1).argsort(stable=True)
    if labels is not None and labels.dim() == 1:
        order = order[labels[order].argsort(stable=True)]
    steps = torch.arange(len(row_ids) + 1) * size // len(row_ids)  # evenly through the classes, one after the other
    chosen = torch.zeros(len(row_ids), dtype=torch.bool)
    chosen[order] = steps[1:] > steps[:-1]
    return chosen


class _Array:
    """A column that is a tensor `[N, ...]` in memory."""

    def __init__(self, values: Tensor) -> None:
        self.values = values

    def __len__(self) -> int:
        return len(self.values)

    def extent(self, rows: Tensor) -> tuple[int, int] | None:
        """The length of these rows of tokens and their highest id; None for other arrays."""
        if self.values.ndim != 2 or self.values.is_floating_point() or not len(rows):
            return None
        return self.values.shape[1], int(self.values[rows].max())

    @property
    def is_pixels(self) -> bool:
        """Whether the values are images in 8 bits."""
        return self.values.dtype == torch.uint8 and self.values.ndim in (3, 4)

    def gather(self, rows: Tensor) -> Tensor:
        return self.values.index_select(0, rows)


def as_input(values: Tensor) -> Tensor:
    """A column as a network's input: uint8 becomes float32 in [0, 1]."""
    return values.to(torch.float32).div_(255) if values.dtype == torch.uint8 else values


def _as_column(name: str, values: Any) -> Column:
    if name in ("labels", "row_id"):
        raise DataError(f"{name!r} is not an input column; pass labels= and row_ids= instead.")
    if hasattr(values, "gather") and not isinstance(values, Tensor):
        column: Column = values
        return column
    tensor = as_tensor(f"Column {name!r}", values)
    if tensor.dim() == 0:
        raise DataError(f"Column {name!r} must have one value per example, [N, ...], but is the number {values}.")
    return _Array(tensor)


def _common_length(columns: Mapping[str, Column]) -> int:
    lengths = {name: len(column) for name, column in columns.items()}
    if not lengths:
        raise DataError("A transfer set needs at least one input column, but got none.")
    if len(set(lengths.values())) > 1:
        raise DataError(f"All columns must have the same number of examples, but they have {lengths}.")
    length = next(iter(lengths.values()))
    if length == 0:
        raise DataError(f"A transfer set needs at least one example, but the columns {list(lengths)} are empty.")
    return length


def _distinct_names(names: Sequence[str] | None) -> tuple[str, ...] | None:
    if names is None:
        return None
    texts = tuple(str(name) for name in names)
    repeated = [name for name, times in Counter(texts).items() if times > 1]
    if not texts or repeated:
        got = f"{repeated[0]!r} is given to several" if repeated else "there are none"
        raise DataError(f"label_names must be one distinct name per class, but {got}.")
    return texts


def _num_classes(labels: Tensor, known: int | None) -> int | None:
    """The number of classes; DataError where a label is neither a class nor -100."""
    highest = int(labels.max())
    if known is None and highest >= MOST_CLASSES:
        raise DataError(
            f"labels must be classes numbered from 0, but one is {highest}, which would make {highest + 1:,} classes; "
            "number them from 0, or give num_classes."
        )
    count = known if known is not None else max(highest + 1, 0)
    bad = out_of_range(labels, count).nonzero()
    if len(bad):
        place = tuple(bad[0].tolist())
        where = f"row {place[0]}" + (f", position {place[1]}," if len(place) > 1 else "")
        raise DataError(
            f"labels must be classes in [0, {count}) or {NO_LABEL} (no label), but {where} has {int(labels[place])}"
            f" ({len(bad)} such in all)."
        )
    return count or None


def _distinct_ids(row_ids: Any, length: int) -> Tensor:
    ids = whole_numbers("row_ids", row_ids, length)
    ordered = ids.sort().values
    repeated = ordered[1:][ordered[1:] == ordered[:-1]]
    if len(repeated):
        raise DataError(f"row_ids must be distinct, but {int(repeated[0])} is given to several examples.")
    return ids


def _places(indices: Any, length: int) -> Tensor:
    places = torch.as_tensor(indices)
    if places.dtype == torch.bool:
        if places.shape != (length,):
            raise DataError(f"A bool mask must have one entry per example, {length}, but is {list(places.shape)}.")
        return places.nonzero().squeeze(1)
    places = places.to(torch.int64).reshape(-1)
    bad = places[(places < 0) | (places >= length)]
    if len(bad):
        raise DataError(f"The places of {length} examples are 0 to {length - 1}, but got {int(bad[0])}.")
    return places
