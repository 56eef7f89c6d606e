"""A column of labels, of whatever type, as the numbers 0 to C - 1: the same classes in every split.

What this file does not know: inputs, and how many labels an example has.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import datasets
import torch
from torch import Tensor

from limbeck.errors import DataError
from limbeck.losses.numbers import NO_LABEL
from limbeck.transfer import arrow


@dataclass(frozen=True)
class Classes:
    """The classes of a label column; made by `classes_of`, from the training split.

    names: in order, where the labels have names. count: how many there are. missing: what stands for no label.
    """

    names: tuple[str, ...] | None
    count: int | None
    missing: frozenset[Any]
    numbers: Mapping[str, int] | None

    def encode(self, values: Iterable[Any], where: str) -> Tensor:
        """`[n]` int64 labels of these values; -100 where there is none. where: for messages."""
        return torch.tensor([self._number(value, where) for value in values], dtype=torch.int64)

    def _number(self, value: Any, where: str) -> int:
        if value in self.missing or (isinstance(value, float) and math.isnan(value)):
            return NO_LABEL
        if self.numbers is not None:
            if value not in self.numbers:
                raise DataError(f"The label {value!r} in {where} is none of the training split's: {_some(self.names)}.")
            return self.numbers[value]
        if value != int(value):
            raise DataError(f"Labels must be whole numbers or names, but {where} has {value!r}.")
        if self.count is not None and not 0 <= value < self.count:
            raise DataError(
                f"The label {int(value)} in {where} is no class: by the training split they are 0 to {self.count - 1}, "
                f"and {NO_LABEL} where there is none."
            )
        return int(value)


def classes_of(splits: Mapping[str, Any], column: str, training: str) -> Classes:
    """The classes of a label column, whole numbers, strings or ClassLabel; also where each row has a list of them.

    Strings become classes in sorted order; a ClassLabel keeps its names, and its -1 is no label; whole numbers
    stay. None is no label.
    """
    feature = _inner(splits[training].features[column])
    if isinstance(feature, datasets.ClassLabel):
        for split, dataset in splits.items():
            other = _inner(dataset.features[column])
            if getattr(other, "names", None) != feature.names:
                raise DataError(
                    f"The classes of {column!r} must be the same in all splits, but {training} has "
                    f"{_some(feature.names)} and {split} {_some(getattr(other, 'names', None))}."
                )
        return Classes(tuple(feature.names), len(feature.names), frozenset({None, -1}), None)
    if not isinstance(feature, datasets.Value):
        raise DataError(f"Labels must be whole numbers or names, but {column!r} has the type {feature}.")
    present = set(label_values(splits[training], column)[0]) - {None}
    if all(isinstance(value, str) for value in present):
        names = tuple(sorted(present))
        return Classes(names or None, len(names) or None, frozenset({None}), {name: i for i, name in enumerate(names)})
    if not all(isinstance(value, int | float) for value in present):
        raise DataError(f"Labels must be whole numbers or names, but {column!r} has the type {feature}.")
    unknown = Classes(None, None, frozenset({None, NO_LABEL}), None)
    highest = int(unknown.encode(present, f"{column!r} of {training}").max())
    return Classes(None, highest + 1 if highest >= 0 else None, unknown.missing, None)


def label_values(dataset: Any, column: str) -> tuple[list[Any], Tensor | None]:
    """All labels of a column, and, where each row has a list of them, how many each row has `[N]`."""
    if not arrow.is_list(dataset, column):
        return arrow.column(dataset, column).to_pylist(), None
    rows = arrow.column(dataset, column)
    _, lengths = arrow.lists(dataset, column)
    return rows.flatten().to_pylist(), torch.from_numpy(lengths)


def _inner(feature: Any) -> Any:
    """What a list is a list of."""
    inner = feature[0] if isinstance(feature, list) else getattr(feature, "feature", None)
    return feature if inner is None else inner


def _some(names: Any) -> str:
    shown = list(names or [])
    return f"{shown[:10]}" + ("" if len(shown) <= 10 else f" and {len(shown) - 10} more")
