"""A column of labels, of whatever type, as the numbers 0 to C - 1: the same classes in every split.

Numbers written as text are numbers. Whole numbers are a network's classes as they are, unless they cannot be: 1 to C,
or a few large ids, become 0 to C - 1 in their order, and a warning names the mapping.
What this file does not know: inputs, and how many labels an example has.
"""

import logging
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import datasets
import pyarrow.compute as pc
import torch
from torch import Tensor

from limbeck.errors import DataError
from limbeck.losses.numbers import NO_LABEL
from limbeck.transfer import arrow

log = logging.getLogger("limbeck")

MOST_ABSENT = 1000
"""Up to so many classes, ids stay as they are even where few of them occur: a part of a larger data set."""

Label = str | float | None
"""A label as a file has it: a name, a number (bool and int too), or nothing."""

_DEFAULT_NAME = re.compile(r"LABEL_(\d+)")  # what transformers calls a class without a name
_MISSING_WORDS = frozenset({"", "na", "n/a", "nan", "null", "none", "-", "?"})


@dataclass(frozen=True)
class Classes:
    """The classes of a label column, taken from the training split by `classes_of`.

    names: in order, where the classes have names.
    count: the number of classes; None where the training split has no label.
    missing: the values that mean that there is no label.
    by_name: whether labels are names; else they are whole numbers.
    places: the class of each name, or of each number where these are mapped; None where numbers are classes already.
    """

    names: tuple[str, ...] | None
    count: int | None
    missing: frozenset[Label] = frozenset({None})
    by_name: bool = False
    places: Mapping[Label, int] | None = None

    def encode(self, values: Iterable[Label], where: str) -> Tensor:
        """`[n]` int64: the class of each value, and -100 where there is none. where: for messages."""
        return torch.tensor([self._number(value, where) for value in values], dtype=torch.int64)

    def _number(self, value: Label, where: str) -> int:
        if value in self.missing or (isinstance(value, float) and math.isnan(value)):
            return NO_LABEL
        key = str(value) if self.by_name else whole_number(value, where)
        if key in self.missing:  # -100 that is written as text
            return NO_LABEL
        if self.places is not None:
            if key not in self.places:
                known = _some(self.names)
                raise DataError(f"The label {value!r} in {where} is not one of the training split's: {known}.")
            return self.places[key]
        number = int(key)
        if self.count is not None and not 0 <= number < self.count:
            raise DataError(
                f"The label {number} in {where} is not a class: by the training split they are 0 to {self.count - 1}, "
                f"and {NO_LABEL} where there is none."
            )
        return number


def classes_of(
    splits: Mapping[str, datasets.Dataset], column: str, training: str, num_classes: int | None = None
) -> Classes:
    """The classes of a label column of whole numbers, strings or ClassLabel, or of lists of them.

    A ClassLabel keeps its names, and its -1 is no label. Strings become classes in sorted order; where they differ in
    a number only, in the order of the numbers. An empty value is no label.

    training: the split whose labels are the classes.
    num_classes: the number of classes where labels are numbers, which are then 0 to num_classes - 1 as they are.
    """
    feature = _inner(splits[training].features[column])
    if isinstance(feature, datasets.ClassLabel):
        if num_classes not in (None, len(feature.names)):
            raise DataError(f"{column!r} has {len(feature.names)} named classes, but num_classes is {num_classes}.")
        return _of_class_label(feature, splits, column, training)
    where = f"{column!r} of {training}"
    if not isinstance(feature, datasets.Value):
        raise DataError(f"Labels must be whole numbers or names, but {column!r} has the type {feature}.")
    present = _distinct(splits[training], column)
    texts = [value for value in present if isinstance(value, str)]
    if len(texts) < len(present) and not all(isinstance(value, int | float) for value in present):
        raise DataError(f"Labels must be whole numbers or names, but {column!r} has the type {feature}.")
    named = [value for value in texts if _as_number(value) is None]
    if named and num_classes is not None:
        raise DataError(f"num_classes is for labels that are numbers, but {where} has {named[0]!r}.")
    if named:
        return _of_names(texts, named, where)
    return _of_numbers(present, where, num_classes)


def in_order_of(classes: Classes, names: Sequence[str], required: bool) -> Classes:
    """The same labels as the classes `names`: by their names, or as numbers where labels have no names.

    A name matches one that is equal, or the only one that differs in upper and lower case alone. Where the order or the
    case differ, a warning says so. The names may have more classes than the labels.

    required: whether it is an error if a label's name matches none of them; else the classes stay as they are.
    """
    if classes.names is None or (not classes.by_name and classes.places is not None):
        if not required:
            return classes
        if classes.count is not None and classes.count > len(names):
            raise DataError(
                f"label_names must be a name per class, but there are {classes.count} classes: {_some(names)}."
            )
        return replace(classes, names=tuple(names), count=len(names))
    by_case: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        by_case.setdefault(name.casefold(), []).append(place)
    exact = {name: place for place, name in enumerate(names)}
    alike = {name.casefold() for name in classes.names}
    found: dict[str, int] = {}
    for name in classes.names:
        places = by_case.get(name.casefold(), [])
        if name in exact:
            found[name] = exact[name]
        elif len(places) == 1 and len(alike) == len(classes.names):
            found[name] = places[0]
        elif required:
            raise DataError(
                f"The label {name!r} is none of label_names, {_some(names)}; correct the labels or the names."
            )
        else:
            return classes
    if tuple(names) != classes.names:
        changed = [f"{name!r} is class {place}, {names[place]!r}" for name, place in found.items()]
        log.warning("The labels are matched with the classes of the model by name: %s.", _some(changed))
    # the labels of a ClassLabel are numbers
    keys: Sequence[Label] = classes.names if classes.by_name else range(len(classes.names))
    places_of = {key: found[name] for key, name in zip(keys, classes.names, strict=True)}
    return replace(classes, names=tuple(names), count=len(names), places=places_of)


def label_values(dataset: datasets.Dataset, column: str) -> tuple[list[Label], Tensor | None]:
    """All labels of a column, and, where each row has a list of them, how many each row has `[N]`."""
    if not arrow.is_list(dataset, column):
        return arrow.column(dataset, column).to_pylist(), None
    rows = arrow.column(dataset, column)
    _, lengths = arrow.lists(dataset, column)
    return rows.flatten().to_pylist(), torch.from_numpy(lengths)


def whole_number(value: Label, where: str) -> int:
    """A label as a whole number; DataError where it is not one. where: for messages."""
    number = _as_number(value) if isinstance(value, str) else value
    if number is None or not math.isfinite(number) or number != int(number):
        raise DataError(f"Labels must be whole numbers or names, but {where} has {value!r}.")
    if not -(2**63) <= number < 2**63:
        raise DataError(f"Labels must be numbers of 64 bits, but {where} has {value!r}.")
    return int(number)


def _as_number(text: str) -> float | None:
    """The number that a text stands for, `LABEL_3` included; None where it is a name."""
    default = _DEFAULT_NAME.fullmatch(text.strip())
    digits = default[1] if default else text.strip()
    if re.fullmatch(arrow.NUMBER, digits) is None:
        return None
    return int(digits) if re.fullmatch(r"[+-]?\d+", digits) else float(digits)


def _of_class_label(
    feature: datasets.ClassLabel, splits: Mapping[str, datasets.Dataset], column: str, training: str
) -> Classes:
    for split, dataset in splits.items():
        other = _inner(dataset.features[column])
        if getattr(other, "names", None) != feature.names:
            raise DataError(
                f"The classes of {column!r} must be the same in all splits, but {training} has "
                f"{_some(feature.names)} and {split} {_some(getattr(other, 'names', None))}."
            )
    return Classes(tuple(feature.names), len(feature.names), missing=frozenset({None, -1}))


def _of_names(texts: Sequence[str], named: Sequence[str], where: str) -> Classes:
    """Classes that have names, in sorted order, or in that of the number in which alone they differ."""
    for text in texts:
        if any(not sign.isprintable() for sign in text):
            raise DataError(f"The label {text!r} in {where} has a sign that cannot be seen; remove it.")
    if len(named) < len(texts) and all(name.strip().lower() in _MISSING_WORDS for name in named):
        raise DataError(
            f"The labels in {where} are numbers but for {named[0]!r}; leave the cell empty where there is no label."
        )
    names = tuple(sorted(texts, key=_number_in) if _differ_in_a_number(texts) else sorted(texts))
    return Classes(names, len(names), by_name=True, places={name: place for place, name in enumerate(names)})


def _of_numbers(present: Sequence[Label], where: str, num_classes: int | None) -> Classes:
    """Classes that are whole numbers, as they are; or, where they cannot be a network's, in their order."""
    missing: frozenset[Label] = frozenset({None, NO_LABEL})
    numbers = sorted({whole_number(value, where) for value in present} - {NO_LABEL})
    if not numbers:
        return Classes(None, num_classes, missing)
    count = num_classes if num_classes is not None else numbers[-1] + 1
    if numbers[0] < 0 or numbers[-1] >= count:
        outside = numbers[0] if numbers[0] < 0 else numbers[-1]
        raise DataError(
            f"The label {outside} in {where} is not a class: classes are 0 to {count - 1}, and {NO_LABEL} means no "
            "label."
        )
    from_one = numbers[0] == 1 and len(numbers) == numbers[-1] > 1
    few = count > MOST_ABSENT and 2 * len(numbers) < count
    if num_classes is None and (from_one or few):
        log.warning(
            "The labels in %s are %s: these %d classes become 0 to %d, in this order, with the numbers as their names. "
            "If they are places in a larger set of classes, give num_classes, how many classes that has.",
            where,
            _some(numbers),
            len(numbers),
            len(numbers) - 1,
        )
        places: Mapping[Label, int] = {number: place for place, number in enumerate(numbers)}
        return Classes(tuple(str(number) for number in numbers), len(numbers), missing, places=places)
    if len(numbers) < count:
        absent = sorted(set(range(count)) - set(numbers))
        log.warning(
            "%d of the %d classes of %s have no example in the training split: %s.",
            len(absent),
            count,
            where,
            _some(absent),
        )
    return Classes(None, count, missing)


def _differ_in_a_number(names: Sequence[str]) -> bool:
    """Whether names are alike but for one number each, such as `class 2` and `class 10`."""
    around = {re.sub(r"\d+", "\0", name) for name in names}
    return (
        len(around) == 1 and around.pop().count("\0") == 1 and len({_number_in(name) for name in names}) == len(names)
    )


def _number_in(name: str) -> int:
    return int(re.findall(r"\d+", name)[0])


def _distinct(dataset: datasets.Dataset, column: str) -> list[Label]:
    """The distinct values of a column, or of the lists in it, that are not missing."""
    values = arrow.column(dataset, column)
    if arrow.is_list(dataset, column):
        values = values.flatten()
    found = pc.unique(values).to_pylist()
    return [value for value in found if value is not None and not (isinstance(value, float) and math.isnan(value))]


def _inner(feature: Any) -> Any:
    """The feature of the elements of a list; any other feature itself."""
    inner = feature[0] if isinstance(feature, list) else getattr(feature, "feature", None)
    return feature if inner is None else inner


def _some(values: Sequence[Any] | None) -> str:
    shown = list(values or [])
    return f"{shown[:10]}" + ("" if len(shown) <= 10 else f" and {len(shown) - 10} more")
