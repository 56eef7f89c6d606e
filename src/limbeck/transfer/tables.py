"""Transfer sets from Hugging Face datasets: the hub, image folders, Parquet, CSV, TSV and JSON files.

    sets = table("stanfordnlp/sst2", tokenizer=tokenizer)
    sets = table("photos/", image_size=64)               # photos/train/cat/*.png, photos/test/cat/*.png, ...
    sets = table("train.tsv", column_names=("text", "label"), tokenizer=tokenizer)

A guess is made only where one column fits; else an error lists the columns and the option to give.
What this file does not know: models, training.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import datasets
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from limbeck.errors import DataError
from limbeck.networks.asking import TEACHER_PREFIX
from limbeck.networks.outputs import MULTI_LABEL
from limbeck.networks.table import Feature
from limbeck.transfer import arrow
from limbeck.transfer.answers import Answers, answers_of
from limbeck.transfer.classes import in_order_of, label_values
from limbeck.transfer.features import features_of, read_features, table_rows
from limbeck.transfer.images import image_columns
from limbeck.transfer.labels import labelled_rows
from limbeck.transfer.roles import Roles, roles_of
from limbeck.transfer.rows import Column, TransferSet, distinct_row_ids
from limbeck.transfer.splits import Source, load_splits
from limbeck.transfer.text.tokens import encode, position_labels, without_words


def table(
    source: Source,
    *,
    split: str | None = None,
    text_column: str | Sequence[str] | None = None,
    image_column: str | None = None,
    label_column: str | Sequence[str] | None = None,
    task: str | None = None,
    feature_columns: Sequence[str] | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    teacher_tokenizer: PreTrainedTokenizerBase | None = None,
    max_length: int = 128,
    image_size: int | tuple[int, int] | None = None,
    column_names: Sequence[str] | None = None,
    num_classes: int | None = None,
    features: Sequence[Feature] | None = None,
    missing: Sequence[str] = (),
    with_rows: bool = False,
    label_names: Sequence[str] | None = None,
    model_names: Sequence[str] | None = None,
) -> dict[str, TransferSet]:
    """The transfer sets of a source, by split ("train", "validation", "test", ...).

    source: a hub name (`name`, or `name:configuration`); a folder of images, one folder per class; a file of
        Parquet, CSV, TSV (without quoting), JSON or JSON lines, a folder or a glob of them (train.*, dev.*,
        test.*); a loaded Dataset or DatasetDict; or a pandas DataFrame, or a dict of them by split.
    split: only this one.
    text_column: strings, or lists of words with a label each; two names for pairs. Guessed: `text`, `sentence`,
        `tokens`, or the only column of strings. Becomes `input_ids`, `attention_mask`, ... `[n, L]` by `tokenizer`,
        cut to max_length tokens; where `teacher_tokenizer` says otherwise, `teacher_input_ids`, ... too.
    image_column: guessed where there is one. Becomes `pixel_values` `[n, C, H, W]` float32 in [0, 1].
    feature_columns: numbers, dates and categories; guessed: all but the label, columns that number the rows (`row_id`,
        `Unnamed: 0`) and texts that differ from row to row. Becomes `inputs` `[n, F]` float32: dates in days, a
        category by its place among the sorted ones, nan where a value is missing. `TableEncoder` makes them a network's
        input; a teacher that reads columns by name (scikit-learn) gets them as they are in the source.
    label_column: guessed: `label`, `labels`, `ner_tags`, or the only ClassLabel; "" = there are no labels. Several
        columns are several labels where all are 0 or 1, else numbers.
    task: "classification", "multi_label", "segmentation" or "regression". Guessed: numbers with a fraction are
        regression, lists of labels multi_label, images (masks) segmentation; whole numbers of many different values are
        refused until it is said what they are. A text of several labels, "a|b", needs multi_label.
    column_names: the names of the columns of CSV and TSV files that have no header line.
    num_classes: where labels are numbers: how many classes there are. Labels are then 0 to num_classes - 1.
    features: the columns and categories that a network reads, `network.table_encoder.features`, in place of
        feature_columns. missing: words of CSV and TSV files that stand for a missing value, as an empty cell does.
    with_rows: whether batches of texts and images too have the rows as they were read, `table_rows`, for a teacher that
        reads texts or columns by name. Those of tables always have them.
    label_names: the names of the classes in order. Labels that are names are matched with them, also where they differ
        in upper and lower case alone; DataError where one has no match. Labels that are numbers get these names.
    model_names: the names of a model's classes in order, which labels are matched with where each of them has a match.

    Classes are those of the training split (the first one where none is called train): strings in sorted order,
    ClassLabels with their names, whole numbers as they are, also where they are written as text. Whole numbers from 1
    to C, and a few large ids, become 0 to C - 1, and a warning says so. In CSV and TSV files only an empty cell is
    missing. DataError where anything is missing or ambiguous.
    """
    if num_classes is not None and num_classes < 2:
        raise DataError(f"num_classes must be 2 or more, but is {num_classes}.")
    if max_length < 1:
        raise DataError(f"max_length must be 1 or more, but is {max_length}.")
    if features is not None:
        feature_columns = [feature.name for feature in features]
    splits = load_splits(source, column_names, missing)
    training = "train" if "train" in splits else next(iter(splits))
    roles = roles_of(splits[training], _as_names(text_column), image_column, label_column, feature_columns)
    if roles.text and tokenizer is None:
        raise DataError(
            f"The text in {list(roles.text)} needs a tokenizer, the student's (--tokenizer; in Python tokenizer=); or "
            "give feature_columns."
        )
    labelled = {name: data for name, data in splits.items() if {*roles.labels} <= {*data.column_names}}
    of_words = bool(roles.text) and arrow.is_list(splits[training], roles.text[0])
    answers = answers_of(labelled, roles.labels, training, task, num_classes, of_words) if roles.labels else None
    if answers is not None and answers.classes is None and label_names is not None:
        answers = _renamed(answers, label_names)
    classes = None if answers is None else answers.classes
    if classes is not None and label_names is not None:
        classes = in_order_of(classes, label_names, required=True)
    elif classes is not None and model_names is not None:
        classes = in_order_of(classes, model_names, required=False)
    if answers is not None:
        answers = replace(answers, classes=classes)
    if split is not None and split not in splits:
        raise DataError(f"There is no split {split!r}; there are {list(splits)}.")
    wanted = splits if split is None else {split: splits[split]}
    for name, data in wanted.items():
        _check_split(data, name, [*roles.text, *roles.features, *([roles.image] if roles.image else [])])
    images = image_columns(wanted, roles.image, image_size) if roles.image else {}
    columns_of: tuple[Feature, ...] | None = None if features is None else tuple(features)
    if roles.features and columns_of is None:
        columns_of = features_of(splits[training], roles.features, training)
    training_first = sorted(splits, key=lambda name: name != training)
    ids = distinct_row_ids({name: len(splits[name]) for name in training_first})
    sets = {}
    for name, data in wanted.items():
        its_answers = answers if name in labelled else None
        if roles.text:
            sets[name] = _texts(data, roles, its_answers, answers, tokenizer, teacher_tokenizer, max_length, name)
        else:
            inputs = images[name] if roles.image else read_features(data, columns_of or (), name)
            columns = {"pixel_values" if roles.image else "inputs": inputs}
            labels = None if its_answers is None else its_answers.read(data, name, image_size)
            sets[name] = _transfer_set(columns, labels, answers)
            sets[name].features = columns_of
        if with_rows or not (roles.image or roles.text):
            sets[name].table_rows = table_rows(data, roles.labels, roles.text)
        sets[name].row_ids = ids[name]
    return sets


def _check_split(data: datasets.Dataset, split: str, needed: Sequence[str]) -> None:
    columns = data.column_names
    missing = set(needed) - set(columns)
    if missing:
        first = next(name for name in needed if name in missing)
        raise DataError(f"The split {split} has no column {first!r}; it has {columns}.")
    if len(data) == 0:
        raise DataError(f"A transfer set needs at least one example, but the split {split} is empty.")


def _texts(
    data: datasets.Dataset,
    roles: Roles,
    own: Answers | None,
    answers: Answers | None,
    tokenizer: PreTrainedTokenizerBase | None,
    teacher_tokenizer: PreTrainedTokenizerBase | None,
    max_length: int,
    split: str,
) -> TransferSet:
    encoded = encode(data, roles.text, tokenizer, max_length, split)
    columns = without_words(encoded)
    if teacher_tokenizer is not None and teacher_tokenizer is not tokenizer:
        theirs = without_words(encode(data, roles.text, teacher_tokenizer, max_length, f"{split} for the teacher"))
        same = theirs.keys() == columns.keys() and all(theirs[name].equals(columns[name]) for name in theirs)
        if not same:
            columns |= {TEACHER_PREFIX + name: column for name, column in theirs.items()}
    classes = None if own is None else own.classes
    if own is None or roles.label is None or classes is None or not arrow.is_list(data, roles.label):
        return _transfer_set(columns, None if own is None else own.read(data, split), answers)
    if any(name.startswith(TEACHER_PREFIX) for name in columns):
        raise DataError(
            "Labels of words need one tokenizer for student and teacher, as each token is a position that both speak "
            "of, but teacher_tokenizer cuts these texts in another way."
        )
    if not arrow.is_list(data, roles.text[0]):
        raise DataError(f"{roles.label!r} has a label per word, so {roles.text[0]!r} must hold lists of words.")
    values, counts = label_values(data, roles.label)
    assert counts is not None  # it is a column of lists
    labels = position_labels(encoded, classes.encode(values, split), counts, split)
    return _transfer_set(columns, labels, own)


def _transfer_set(
    columns: Mapping[str, Column | Tensor], labels: Tensor | None, answers: Answers | None
) -> TransferSet:
    if answers is None:
        return TransferSet(columns, labels)
    if labels is not None and not bool(labelled_rows(labels).any()):
        labels = None  # a test split whose labels are withheld
    classes = answers.classes
    if classes is not None:
        return TransferSet(columns, labels, label_names=classes.names, num_classes=classes.count)
    return TransferSet(columns, labels, label_names=answers.names, num_classes=answers.num_classes, task=answers.task)


def _renamed(answers: Answers, names: Sequence[str]) -> Answers:
    """The same answers of several labels, numbers or pixels, with these names."""
    outputs = answers.task.outputs
    if outputs is not None and len(names) != outputs:
        raise DataError(f"label_names must name {outputs} labels or numbers, but are {len(names)}: {list(names)[:10]}.")
    if answers.kind == MULTI_LABEL and len(answers.columns) == 1:
        raise DataError("The labels have names already; remove label_names (--label_names).")
    return replace(answers, names=tuple(names))


def _as_names(names: str | Sequence[str] | None) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names or ())
