"""What the label columns of a data set are, and their values as the labels of a transfer set.

    answers = answers_of(splits, ("target",), "train", task=None)     # the task is guessed where one guess is possible
    answers.read(splits["test"], "test")                              # labels by the task, as TransferSet takes them

One column of whole numbers or names is a class; of numbers, regression; of lists, or of names joined by "|", several
labels; of images, classes of pixels. Several columns are several labels where all are 0 or 1, else numbers.

What this file does not know: inputs, models.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as kinds
import torch
from torch import Tensor

from limbeck.errors import DataError
from limbeck.losses.numbers import NO_LABEL
from limbeck.networks.outputs import CLASSIFICATION, KINDS, MULTI_LABEL, REGRESSION, SEGMENTATION, Task
from limbeck.networks.table import Feature
from limbeck.transfer import arrow
from limbeck.transfer.classes import Classes, classes_of, whole_number
from limbeck.transfer.features import read_features
from limbeck.transfer.images import read_masks

log = logging.getLogger("limbeck")

SEPARATORS = ("|", ";", ",")
"""What joins several labels in one text, the first of them that occurs."""

MANY_VALUES = 100
"""From so many different whole numbers on, a column may be numbers to predict: the task must be said then."""
FEW_EXAMPLES = 20
"""With fewer examples than this for each value, on average, a column of over SEVERAL_VALUES whole numbers too."""
SEVERAL_VALUES = 30


@dataclass(frozen=True)
class Answers:
    """The labels of a data set.

    kind: the task. columns: the label columns, in order.
    classes: of classification, its classes; None for other tasks. names: of several labels, and of several numbers.
    num_classes: of segmentation, where it is given.
    """

    kind: str
    columns: tuple[str, ...]
    classes: Classes | None = None
    names: tuple[str, ...] | None = None
    num_classes: int | None = None

    @property
    def task(self) -> Task:
        """The task, with the number of labels or numbers of an example."""
        if self.kind == MULTI_LABEL:
            return Task(MULTI_LABEL, outputs=len(self.names or ()))
        return Task(REGRESSION, outputs=len(self.columns)) if self.kind == REGRESSION else Task(self.kind)

    def read(self, data: datasets.Dataset, split: str, image_size: int | tuple[int, int] | None = None) -> Tensor:
        """The labels of a split by the task; of classification, those of examples.

        split: for messages. image_size: of segmentation, the size that images are resized to.
        """
        where = f"{', '.join(map(repr, self.columns))} of {split}"
        if self.kind == REGRESSION:
            numbers = read_features(data, [Feature(name) for name in self.columns], split, what="Labels")
            return numbers[:, 0] if len(self.columns) == 1 else numbers
        if self.kind == SEGMENTATION:
            return read_masks(data, self.columns[0], image_size, split)
        if self.kind == MULTI_LABEL:
            return self._several(data, where)
        assert self.classes is not None
        if arrow.is_list(data, self.columns[0]):
            raise DataError(
                f"{where} has lists of labels, which only words in lists can have one each of; where an example has "
                'several labels, pass task="multi_label" (--task).'
            )
        return self.classes.encode(arrow.column(data, self.columns[0]).to_pylist(), where)

    def _several(self, data: datasets.Dataset, where: str) -> Tensor:
        names = self.names or ()
        if len(self.columns) > 1:
            each = [_flags(arrow.column(data, name), f"{name!r}", where) for name in self.columns]
            return torch.stack(each, 1)
        values = arrow.column(data, self.columns[0])
        if _is_vector(data, self.columns[0], names):
            return torch.tensor([_vector(row, names, where) for row in values.to_pylist()], dtype=torch.int64)
        places = {name: place for place, name in enumerate(names)}
        labels = torch.zeros(len(values), len(names), dtype=torch.int64)
        for row, tags in enumerate(_tags(data, self.columns[0])):
            if tags is None:
                labels[row] = NO_LABEL
                continue
            for tag in tags:
                if tag not in places:
                    raise DataError(f"The label {tag!r} in {where}, row {row}, is not one of the training split's.")
                labels[row, places[tag]] = 1
        return labels


def answers_of(
    splits: Mapping[str, datasets.Dataset],
    columns: Sequence[str],
    training: str,
    task: str | None = None,
    num_classes: int | None = None,
    of_words: bool = False,
) -> Answers:
    """What the label columns are: by `task`, else by their types and values.

    splits: those that have the columns. training: the split whose labels decide. num_classes: as `classes_of` takes it;
        given, labels are classes. of_words: whether a text is a list of words, with a list of labels.
    DataError where nothing can be guessed, and for whole numbers of so many values that they may be numbers to predict.
    """
    if task is not None and task not in KINDS:
        raise DataError(f"task (--task) must be one of {', '.join(KINDS)}, but is {task!r}.")
    data = splits[training]
    kind = task or (CLASSIFICATION if num_classes is not None else _guess(data, columns, of_words))
    names = tuple(columns)
    if kind == REGRESSION:
        for name in names:
            if not arrow.is_number(data, name) and not arrow.is_text(data, name):
                raise DataError(
                    f"Regression needs a column of numbers, but {name!r} has the type {arrow.kind(data, name)}."
                )
        return Answers(REGRESSION, names, names=names)
    if kind == SEGMENTATION:
        _require_one(names, kind)
        return Answers(SEGMENTATION, names, num_classes=num_classes)
    if kind == MULTI_LABEL:
        return Answers(MULTI_LABEL, names, names=names if len(names) > 1 else _label_names(splits, names[0]))
    _require_one(names, kind)
    return Answers(CLASSIFICATION, names, classes_of(splits, names[0], training, num_classes))


def _guess(data: datasets.Dataset, columns: Sequence[str], of_words: bool) -> str:
    if len(columns) > 1:
        every = [arrow.column(data, name) for name in columns]
        if all(_is_flag(values) for values in every):
            return MULTI_LABEL
        if all(arrow.is_number(data, name) for name in columns):
            return REGRESSION
        raise DataError(
            f"The columns {list(columns)} are neither all 0 or 1 (or true and false), as several labels are, nor all "
            "numbers; correct them, or name one label column."
        )
    (name,) = columns
    feature = data.features[name]
    if isinstance(feature, datasets.Image):
        return SEGMENTATION
    if arrow.is_list(data, name):
        return CLASSIFICATION if of_words else MULTI_LABEL
    if isinstance(feature, datasets.ClassLabel):
        return CLASSIFICATION
    values = arrow.column(data, name)
    if arrow.is_text(data, name):
        if arrow.share_of_numbers(values) < 1:
            _require_classes(values, name)
            return CLASSIFICATION
        values = pc.cast(pc.utf8_trim_whitespace(values), "float64")
    if not (kinds.is_integer(values.type) or kinds.is_floating(values.type)):
        return CLASSIFICATION
    numbers = values.drop_null().to_numpy(zero_copy_only=False).astype(np.float64)
    numbers = numbers[np.isfinite(numbers)]
    if (numbers != np.round(numbers)).any():
        return REGRESSION
    distinct = len(np.unique(numbers))
    rare = distinct > SEVERAL_VALUES and len(numbers) < FEW_EXAMPLES * distinct
    if distinct >= MANY_VALUES or rare:
        raise DataError(
            f"{name!r} has {distinct:,} different whole numbers in {len(numbers):,} examples: are they numbers to "
            'predict, or classes? Pass task="regression" or task="classification" (--task).'
        )
    return CLASSIFICATION


def _require_classes(values: pa.Array, name: str) -> None:
    """DataError where names look like several labels each, or like texts that hardly ever come back."""
    known = pc.unique(values.drop_null()).to_pylist()
    tags = {tag.strip() for value in known for tag in value.split("|")}
    if sum("|" in value for value in known) >= 2 and len(tags) < len(known):
        raise DataError(
            f'{name!r} holds names joined by "|", such as {next(v for v in known if "|" in v)!r}: are they several '
            'labels, or the name of one class? Pass task="multi_label" or task="classification" (--task).'
        )
    if len(known) > SEVERAL_VALUES and len(values) < 2 * len(known):
        raise DataError(
            f"{name!r} has {len(known):,} different texts in {len(values):,} examples, such as {known[0]!r:.60}: for "
            'numbers remove signs and separators; if each is a class, pass task="classification" (--task).'
        )


def _require_one(columns: Sequence[str], kind: str) -> None:
    if len(columns) > 1:
        raise DataError(f"{kind} has one label column, but got {list(columns)}.")


def _is_flag(values: pa.Array) -> bool:
    """Whether a column holds nothing but 0, 1, true, false and gaps."""
    if kinds.is_boolean(values.type):
        return True
    if not (kinds.is_integer(values.type) or kinds.is_floating(values.type)):
        return False
    return set(pc.unique(values.drop_null()).to_pylist()) <= {0, 1, NO_LABEL}


def _flags(values: pa.Array, name: str, where: str) -> Tensor:
    """A column of 0 and 1 as `[N]` int64, -100 where there is none."""
    found = [
        NO_LABEL if value is None or value != value else whole_number(value, where) for value in values.to_pylist()
    ]
    if wrong := [value for value in found if value not in (0, 1, NO_LABEL)]:
        raise DataError(f"A column of several labels holds 0 and 1, but {name} has {wrong[0]} ({where}).")
    return torch.tensor(found, dtype=torch.int64)


def _label_names(splits: Mapping[str, datasets.Dataset], column: str) -> tuple[str, ...]:
    """The names of several labels in one column, over all splits: of lists or joined names, in sorted order."""
    first = next(iter(splits.values()))
    inner = getattr(first.features[column], "feature", None)
    if isinstance(inner, datasets.ClassLabel):
        return tuple(inner.names)
    widths = {len(row) for data in splits.values() for row in _rows(data, column) if isinstance(row, list)}
    if len(widths) == 1 and _all_flags(splits, column) and (width := next(iter(widths))) > 0:
        return tuple(f"label {i}" for i in range(width))
    names = {tag for data in splits.values() for tags in _tags(data, column) for tag in tags or ()}
    if not names:
        raise DataError(f"{column!r} has no label in any example.")
    return tuple(sorted(names, key=lambda name: (0, int(name), "") if name.isdigit() else (1, 0, name)))


def _all_flags(splits: Mapping[str, datasets.Dataset], column: str) -> bool:
    """Whether the lists are vectors of 0 and 1: some of them with a 0 or 1 more than once, or all of one length."""
    rows = [row for data in splits.values() for row in _rows(data, column) if isinstance(row, list)]
    values = {value for row in rows for value in row}
    repeated = any(len(set(row)) < len(row) for row in rows)
    return bool(rows) and values <= {0, 1} and repeated


def _is_vector(data: datasets.Dataset, column: str, names: Sequence[str]) -> bool:
    return bool(names) and all(name == f"label {i}" for i, name in enumerate(names)) and arrow.is_list(data, column)


def _vector(row: Any, names: Sequence[str], where: str) -> list[int]:
    if row is None:
        return [NO_LABEL] * len(names)
    if len(row) != len(names) or not set(row) <= {0, 1}:
        raise DataError(f"Each example needs {len(names)} labels of 0 and 1, but {where} has {row!r:.80}.")
    return [int(value) for value in row]


def _rows(data: datasets.Dataset, column: str) -> list[Any]:
    return list(arrow.column(data, column).to_pylist())


def _tags(data: datasets.Dataset, column: str) -> list[list[str] | None]:
    """The names of each example's labels; None where nothing is known of it."""
    rows = _rows(data, column)
    inner = getattr(data.features[column], "feature", None)
    if isinstance(inner, datasets.ClassLabel):
        return [None if row is None else [inner.names[place] for place in row] for row in rows]
    if arrow.is_list(data, column):
        return [None if row is None else [str(tag) for tag in row] for row in rows]
    if untagged := sum(row is None for row in rows):
        log.warning("%d of %d examples have an empty %r: they have none of the labels.", untagged, len(rows), column)
    texts = ["" if row is None else str(row) for row in rows]
    separator = next((s for s in SEPARATORS if any(text and s in text for text in texts)), SEPARATORS[0])
    return [[tag.strip() for tag in text.split(separator) if tag.strip()] for text in texts]
