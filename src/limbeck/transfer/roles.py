"""Which columns of a data set are the label and the inputs: as given, else guessed where only one guess is possible.

Numbers that only number the rows (`Unnamed: 0`, `row_id`, `PassengerId`, 0 to N - 1) are not guessed as features: a
model could learn a label from its row's place in the file.
What this file does not know: tokenizers, what the labels are.
"""

import logging
import re
from collections.abc import Sequence, Set
from dataclasses import dataclass

import datasets
import numpy as np
import pyarrow as pa

from limbeck.errors import DataError
from limbeck.transfer import arrow
from limbeck.transfer.features import is_category, is_date, mean_words
from limbeck.transfer.splits import HEADERS

log = logging.getLogger("limbeck")

_INDEX = re.compile(
    r"unnamed: ?\d+(_level_\d+|\.\d+)*|__index_level_\d+__"
    r"|(row|line|record|sample|example)?[ _-]?(id|ids|idx|index|uuid|guid)"
    r"|.*[ _.-](id|idx|uuid|guid)|(row|line)[ _-]?(no|nr|num|number)",
    re.IGNORECASE,
)
_CAMEL_INDEX = re.compile(r".*[a-z](Id|ID|Idx|Index)")
_WORDS_OF_A_TEXT = 5
"""The mean number of words from which on a column of different strings beside others is the text."""
_ENOUGH_ROWS = 20
"""Rows from which on numbers that are 0 to N - 1 in some order are not a coincidence."""


@dataclass(frozen=True)
class Roles:
    """Which columns are what; one of text, image and features is not empty. labels: none, one or several."""

    labels: tuple[str, ...]
    text: tuple[str, ...] = ()
    image: str | None = None
    features: tuple[str, ...] = ()

    @property
    def label(self) -> str | None:
        """The first label column; None where there is none."""
        return self.labels[0] if self.labels else None


def roles_of(
    data: datasets.Dataset,
    text: tuple[str, ...],
    image: str | None,
    label: str | Sequence[str] | None,
    features: Sequence[str] | None,
) -> Roles:
    """The roles of the columns. Each option is None or empty where it is to be guessed; label "" = there is none.

    label: one column, or several.

    DataError where a column is missing or no guess is possible.
    """
    columns = data.column_names
    given = {"text_column": text, "image_column": image, "feature_columns": features}
    if sum(bool(value) for value in given.values()) > 1:
        raise DataError(f"Give one of {list(given)}: a transfer set has texts, images or features.")
    named = (label,) if isinstance(label, str) else tuple(label or ())
    for name in [*text, *(features or []), *filter(None, [image, *named])]:
        if name not in columns:
            raise DataError(f"There is no column {name!r}; there are {columns}.")
    guessed = _guess_label(data) if label is None else None
    found = (guessed,) if guessed is not None else tuple(name for name in named if name)
    if copied := [name for name in found if name in {*text, *(features or []), image}]:
        raise DataError(
            f"{copied[0]!r} is the label, and as an input too it would be copied; remove it from the inputs, or name "
            'the label with label_column= ("" where there is none).'
        )
    rest = [name for name in columns if name not in found]
    if not any(given.values()):
        text, image, features = _guess_inputs(data, rest)
    roles = Roles(found, text, image, tuple(features or ()))
    used = {*text, *roles.features, image}
    if label is None and not found and (features or set(columns) - used):
        raise DataError(
            f'No label column could be guessed among {columns}; pass label_column=..., or "" where there are no '
            f"labels. {HEADERS}"
        )
    return roles


def _guess_label(data: datasets.Dataset) -> str | None:
    features = data.features  # a copy each time, which takes long where there are many
    named = [name for name in ("label", "labels", "ner_tags") if name in features]
    class_labels = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    if named:
        return named[0]
    return class_labels[0] if len(class_labels) == 1 else None


def _guess_inputs(data: datasets.Dataset, columns: Sequence[str]) -> tuple[tuple[str, ...], str | None, list[str]]:
    """`(text, image, features)`, one of them not empty."""
    features = data.features
    images = [name for name in columns if isinstance(features[name], datasets.Image)]
    strings = [name for name in columns if arrow.is_text(data, name)]
    numbers = [name for name in columns if arrow.is_number(data, name)]
    if len(images) == 1:
        return (), images[0], []
    words = [name for name in columns if name == "tokens" and arrow.is_words(data, name)]
    named = words + [name for name in columns if name in ("text", "sentence") and name in strings]
    if not images and len(named) == 1:
        return tuple(named), None, []
    values = arrow.columns(data, strings) if strings else {}
    mixed = [name for name in values if arrow.share_of_numbers(values[name]) > 0.5]
    dates = [name for name in columns if name not in mixed and is_date(data, name, values.get(name))]
    texts = [name for name in values if name not in mixed and name not in dates]
    categories = [name for name in texts if is_category(values[name])]
    free = [name for name in texts if name not in categories]
    indices = _indices(data, [*numbers, *strings, *dates])
    tabular = {*mixed, *dates, *(name for name in numbers if name not in indices)}
    if not images and len(texts) == 1 and not tabular:
        return tuple(texts), None, []
    long = [name for name in free if mean_words(values[name]) >= _WORDS_OF_A_TEXT]
    if not images and not named and len(long) == 1 and (tabular or len(free) == 1):
        return tuple(long), None, []
    if not images and not named and (tabular or (numbers and not free) or (categories and not free)):
        usable = {*numbers, *tabular, *categories}
        return (), None, _features(data, columns, [name for name in columns if name in usable], indices)
    raise DataError(
        f"The inputs could not be guessed among {list(columns)} (images {images}, texts {texts}, numbers {numbers}); "
        "pass image_column=, text_column= or feature_columns=."
        + (
            " Two texts are read as a pair: text_column=(first, second), or --text_column first,second."
            if len(texts) == 2
            else ""
        )
    )


def _indices(data: datasets.Dataset, names: Sequence[str]) -> set[str]:
    """The columns that just number the rows."""
    values = arrow.columns(data, list(dict.fromkeys(names))) if names else {}
    return {name for name, column in values.items() if _is_index(name, column)}


def _features(data: datasets.Dataset, columns: Sequence[str], usable: Sequence[str], numbering: Set[str]) -> list[str]:
    """The feature columns among `usable`, without those that just number the rows; logs which columns are left out."""
    indices = [name for name in usable if name in numbering]
    features = [name for name in usable if name not in numbering]
    known = set(usable)
    if not features:
        raise DataError(
            f"The only columns of numbers, {indices}, number the rows, and a label must not be learned from them; if "
            "they are features, give feature_columns=."
        )
    if indices:
        log.warning(
            "The columns %s number the rows and are left out of the features; to use them, give feature_columns.",
            indices,
        )
    others = {name: str(arrow.kind(data, name)) for name in columns if name not in known}
    if others:
        shown = ", ".join(f"{name!r} ({kind[:40]})" for name, kind in list(others.items())[:10])
        log.warning(
            "Features are %s; %d other columns are left out: %s.",
            f"the column {features[0]!r}" if len(features) == 1 else f"{len(features)} columns",
            len(others),
            shown + (", ..." if len(others) > 10 else ""),
        )
    return features


def _is_index(name: str, values: pa.Array) -> bool:
    """Whether a column numbers the rows: by its name, or because it has the numbers from 0 or 1 on, each once."""
    if _INDEX.fullmatch(name.strip()) or _CAMEL_INDEX.fullmatch(name.strip()):
        return True
    if not pa.types.is_integer(values.type) or len(values) < _ENOUGH_ROWS or values.null_count:
        return False
    numbers = np.sort(values.to_numpy(zero_copy_only=False))
    return bool(numbers[0] in (0, 1) and (np.diff(numbers) == 1).all())
