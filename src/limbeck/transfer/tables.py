"""Transfer sets from Hugging Face datasets: the hub, image folders, Parquet, CSV, TSV and JSON files.

    sets = table("stanfordnlp/sst2", tokenizer=tokenizer)
    sets = table("photos/", image_size=64)               # photos/train/cat/*.png, photos/test/cat/*.png, ...
    sets = table("train.tsv", column_names=("text", "label"), tokenizer=tokenizer)

A guess is made only where one column fits; else an error lists the columns and the option to give.
What this file does not know: models, training.
"""

import csv
import glob
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from torch import Tensor

from limbeck.errors import DataError
from limbeck.losses.numbers import NO_LABEL
from limbeck.networks.asking import TEACHER_PREFIX
from limbeck.transfer import arrow
from limbeck.transfer.classes import Classes, classes_of, label_values
from limbeck.transfer.images import image_columns
from limbeck.transfer.rows import TransferSet, distinct_row_ids
from limbeck.transfer.text.tokens import encode, position_labels, without_words


def table(
    source: Any,
    *,
    split: str | None = None,
    text_column: str | Sequence[str] | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    feature_columns: Sequence[str] | None = None,
    tokenizer: Any = None,
    teacher_tokenizer: Any = None,
    max_length: int = 128,
    image_size: int | tuple[int, int] | None = None,
    column_names: Sequence[str] | None = None,
) -> dict[str, TransferSet]:
    """The transfer sets of a source, by split ("train", "validation", "test", ...).

    source: a hub name (`name`, or `name:configuration`); a folder of images, one folder per class; a file of
        Parquet, CSV, TSV (without quoting), JSON or JSON lines, a folder or a glob of them (train.*, dev.*,
        test.*); or a loaded Dataset or DatasetDict.
    split: only this one.
    text_column: strings, or lists of words with a label each; two names for pairs. Guessed: `text`, `sentence`,
        `tokens`, or the only column of strings. Becomes `input_ids`, `attention_mask`, ... `[n, L]` by `tokenizer`,
        cut to max_length tokens; where `teacher_tokenizer` says otherwise, `teacher_input_ids`, ... too.
    image_column: guessed where there is one. Becomes `pixel_values` `[n, C, H, W]` float32 in [0, 1].
    feature_columns: numbers; guessed: all but the label's. Becomes `inputs` `[n, F]` float32.
    label_column: guessed: `label`, `labels`, `ner_tags`, or the only ClassLabel; "" = there are no labels.
    column_names: the names of the columns of CSV and TSV files that have no header line.

    Classes are those of the training split (the first one where none is called train): strings in sorted order,
    ClassLabels with their names, whole numbers as they are. DataError where anything is missing or ambiguous.
    """
    splits = load_splits(source, column_names)
    training = "train" if "train" in splits else next(iter(splits))
    roles = _roles(splits[training], _as_names(text_column), image_column, label_column, feature_columns, tokenizer)
    labelled = {name: data for name, data in splits.items() if roles.label in data.column_names}
    classes = classes_of(labelled, roles.label, training) if roles.label else None
    if split is not None and split not in splits:
        raise DataError(f"There is no split {split!r}; there are {list(splits)}.")
    wanted = splits if split is None else {split: splits[split]}
    for name, data in wanted.items():
        _check_split(data, name, [*roles.text, *roles.features, *([roles.image] if roles.image else [])])
    images = image_columns(wanted, roles.image, image_size) if roles.image else {}
    training_first = sorted(splits, key=lambda name: name != training)
    ids = distinct_row_ids({name: len(splits[name]) for name in training_first})
    sets = {}
    for name, data in wanted.items():
        own_classes = classes if name in labelled else None
        if roles.text:
            sets[name] = _texts(data, roles, own_classes, tokenizer, teacher_tokenizer, max_length, name)
        else:
            made = images[name] if roles.image else _features(data, roles.features, name)
            columns = {"pixel_values" if roles.image else "inputs": made}
            sets[name] = _transfer_set(columns, _row_labels(data, roles, own_classes, name), classes)
        sets[name].row_ids = ids[name]
    return sets


@dataclass(frozen=True)
class _Roles:
    """Which columns are what; of text, image and features one is given."""

    label: str | None
    text: tuple[str, ...] = ()
    image: str | None = None
    features: tuple[str, ...] = ()


_HEADERS = "A CSV or TSV file without a header line needs column_names=."
_READERS = {".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}
_SPLITS = {
    "train": re.compile(r"train(ing)?([-_.].*)?"),
    "validation": re.compile(r"(dev|valid|validation|val)([-_.].*)?"),
    "test": re.compile(r"test(ing)?([-_.].*)?"),
}


def load_splits(source: Any, column_names: Sequence[str] | None = None) -> dict[str, Any]:
    """The splits of a source as `table` takes it, each a datasets.Dataset, in its order."""
    if isinstance(source, datasets.DatasetDict):
        return dict(source)
    if isinstance(source, datasets.Dataset):
        return {"train": source}
    text = str(source)
    path = Path(text).expanduser()
    files = [Path(name) for name in sorted(glob.glob(str(path)))] if not path.exists() else [path]
    if not files and (text.startswith((".", "/", "~")) or path.suffix in _READERS or glob.has_magic(text)):
        raise DataError(f"There is no file or folder {text}.")
    try:
        if not files:
            name, _, configuration = text.partition(":")
            return dict(datasets.load_dataset(name, configuration or None))
        if files == [path] and path.is_dir():
            return dict(datasets.load_dataset(str(path), **_csv_options([*path.glob("*.[ct]sv")], column_names)))
        return _load_files(files, column_names)
    except StopIteration as error:  # datasets finds no row to tell the columns from
        raise DataError(f"{text} cannot be read: there is nothing in it.") from error
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        if isinstance(error, DataError):
            raise
        what = f"{text} cannot be read" if files else f"{text} is no file or folder here, and no data set on the hub"
        cause = error.__cause__ or error  # datasets wraps what was wrong into "an error occurred"
        tabular = any(file.suffix in (".csv", ".tsv") or any(file.glob("*.[ct]sv")) for file in files)
        hint = _HEADERS if tabular else ""
        raise DataError(f"{what}: {cause}\n{hint}".rstrip()) from error


def _load_files(files: Sequence[Path], column_names: Sequence[str] | None) -> dict[str, Any]:
    readers = {_READERS.get(file.suffix) for file in files}
    if len(readers) > 1 or None in readers:
        raise DataError(
            f"Files must be of one kind out of {sorted(_READERS)}, but these are {[file.name for file in files[:5]]}."
        )
    by_split: dict[str, list[str]] = {}
    for file in files:
        fitting = [split for split, pattern in _SPLITS.items() if pattern.fullmatch(file.stem)]
        by_split.setdefault(fitting[0] if fitting else "train", []).append(str(file))
    options = _csv_options(files, column_names)
    return dict(datasets.load_dataset(readers.pop(), data_files=by_split, **options))


def _csv_options(files: Sequence[Path], column_names: Sequence[str] | None) -> dict[str, Any]:
    """What the reader of CSV and TSV must be told: a TSV has no quoting, so that a lone " is a character."""
    options: dict[str, Any] = {}
    if any(file.suffix == ".tsv" for file in files):
        options |= {"sep": "\t", "quoting": csv.QUOTE_NONE}
    if column_names is not None:
        options["names"] = list(column_names)
    return options


def _roles(
    data: Any,
    text: tuple[str, ...],
    image: str | None,
    label: str | None,
    features: Sequence[str] | None,
    tokenizer: Any,
) -> _Roles:
    """Which columns are what: as given, else guessed."""
    columns = data.column_names
    given = {"text_column": text, "image_column": image, "feature_columns": features}
    if sum(bool(value) for value in given.values()) > 1:
        raise DataError(f"Give one of {list(given)}: a transfer set has texts, images or features.")
    for name in [*text, *(features or []), *filter(None, [image, label])]:
        if name not in columns:
            raise DataError(f"There is no column {name!r}; there are {columns}.")
    found = _guess_label(data) if label is None else label or None
    rest = [name for name in columns if name != found]
    if not any(given.values()):
        text, image, features = _guess_inputs(data, rest)
    roles = _Roles(found, text, image, tuple(features or ()))
    used = {*text, *roles.features, image}
    if label is None and found is None and (features or set(columns) - used):
        raise DataError(
            f'No label column could be guessed among {columns}; give label_column=..., or "" where there are no '
            f"labels. {_HEADERS}"
        )
    if text and tokenizer is None:
        raise DataError(
            f"The text in {list(text)} needs a tokenizer, the student's (--tokenizer; in Python tokenizer=); or give "
            "feature_columns."
        )
    return roles


def _guess_label(data: Any) -> str | None:
    named = [name for name in ("label", "labels", "ner_tags") if name in data.column_names]
    class_labels = [name for name in data.column_names if isinstance(data.features[name], datasets.ClassLabel)]
    if named:
        return named[0]
    return class_labels[0] if len(class_labels) == 1 else None


def _guess_inputs(data: Any, columns: Sequence[str]) -> tuple[tuple[str, ...], str | None, list[str]]:
    """`(text, image, features)`, one of them filled."""
    images = [name for name in columns if isinstance(data.features[name], datasets.Image)]
    texts = [name for name in columns if arrow.is_text(data, name)]
    numbers = [name for name in columns if arrow.is_number(data, name)]
    if len(images) == 1:
        return (), images[0], []
    words = [name for name in columns if name == "tokens" and arrow.is_words(data, name)]
    named = words + [name for name in columns if name in ("text", "sentence") and name in texts]
    if not images and len(named or texts) == 1:
        return tuple(named or texts), None, []
    if not images and not texts and numbers:
        return (), None, numbers
    raise DataError(
        f"The inputs could not be guessed among {list(columns)} (images {images}, texts {texts}, numbers {numbers}); "
        "give image_column=, text_column= or feature_columns=."
    )


def _check_split(data: Any, split: str, needed: Sequence[str]) -> None:
    missing = [name for name in needed if name not in data.column_names]
    if missing:
        raise DataError(f"The split {split} has no column {missing[0]!r}; it has {data.column_names}.")
    if len(data) == 0:
        raise DataError(f"A transfer set needs at least one example, but the split {split} is empty.")


def _texts(
    data: Any,
    roles: _Roles,
    classes: Classes | None,
    tokenizer: Any,
    teacher_tokenizer: Any,
    max_length: int,
    split: str,
) -> TransferSet:
    own = encode(data, roles.text, tokenizer, max_length, split)
    columns = without_words(own)
    if teacher_tokenizer is not None and teacher_tokenizer is not tokenizer:
        theirs = without_words(encode(data, roles.text, teacher_tokenizer, max_length, f"{split} for the teacher"))
        same = theirs.keys() == columns.keys() and all(theirs[name].equals(columns[name]) for name in theirs)
        if not same:
            columns |= {TEACHER_PREFIX + name: column for name, column in theirs.items()}
    if roles.label is None or classes is None or not arrow.is_list(data, roles.label):
        return _transfer_set(columns, _row_labels(data, roles, classes, split), classes)
    if any(name.startswith(TEACHER_PREFIX) for name in columns):
        raise DataError(
            "Labels of words need one tokenizer for student and teacher, as each token is a position that both speak "
            "of, but teacher_tokenizer cuts these texts in another way."
        )
    if not arrow.is_list(data, roles.text[0]):
        raise DataError(f"{roles.label!r} has a label per word, so {roles.text[0]!r} must hold lists of words.")
    values, counts = label_values(data, roles.label)
    assert counts is not None  # it is a column of lists
    labels = position_labels(own, classes.encode(values, split), counts, split)
    return _transfer_set(columns, labels, classes)


def _features(data: Any, names: Sequence[str], split: str) -> Tensor:
    """`[N, F]` float32, in the order of `names`."""
    for name in names:
        if not arrow.is_number(data, name):
            raise DataError(f"Features must be numbers, but {name!r} in {split} has the type {arrow.kind(data, name)}.")
    columns = [arrow.column(data, name).cast("float64").to_numpy(zero_copy_only=False) for name in names]
    features = np.stack(columns, axis=1)
    bad = np.argwhere(~np.isfinite(features))
    if len(bad):
        row, place = bad[0]
        raise DataError(
            f"Features must be finite, but row {row} of {split} has {features[row, place]} in {names[place]!r} "
            f"({len(bad)} such in all); fill or remove them."
        )
    return torch.from_numpy(features.astype(np.float32))


def _row_labels(data: Any, roles: _Roles, classes: Classes | None, split: str) -> Tensor | None:
    if roles.label is None or classes is None:
        return None
    values, counts = label_values(data, roles.label)
    if counts is not None:
        raise DataError(f"{roles.label!r} has lists of labels; only words in lists can have one each.")
    return classes.encode(values, f"{roles.label!r} of {split}")


def _transfer_set(columns: Mapping[str, Any], labels: Tensor | None, classes: Classes | None) -> TransferSet:
    if labels is not None and bool((labels == NO_LABEL).all()):  # a test split whose labels are withheld
        labels = None
    names, count = (classes.names, classes.count) if classes else (None, None)
    return TransferSet(columns, labels, label_names=names, num_classes=count)


def _as_names(names: str | Sequence[str] | None) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names or ())
