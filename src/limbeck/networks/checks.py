"""What is refused of labels, rows and logits, whoever asks: training, labelling or an evaluation.

What this file does not know: objectives, teachers' targets, what the models are for.
"""

from collections.abc import Sequence
from typing import Any

import pyarrow.compute as pc
from torch import Tensor

from limbeck.errors import DataError, ShapeError, TargetError
from limbeck.losses.numbers import NO_LABEL
from limbeck.networks.asking import TEACHER_PREFIX, networks_of
from limbeck.networks.halves import is_language_model, position_limit

ROWS_AT_A_TIME = 10_000


def check_label_names(known: dict[str, Sequence[str]]) -> None:
    """The same classes in the same order, wherever their names are known."""
    (first, names), *others = list(known.items()) or [("", ())]
    for who, other in others:
        if len(other) != len(names):
            raise ShapeError(
                f"The classes must be the same, but {first} has {len(names)} and {who} has {len(other)}; change the "
                "last layer, or the label names, of one of them."
            )
        for i, (a, b) in enumerate(zip(names, other, strict=True)):
            if a != b:
                raise DataError(
                    f"Class {i} is {a!r} for {first} and {b!r} for {who}: the classes must come in the same order, or "
                    "the student learns one class under another's name. Reorder the labels of one of them."
                )


def check_labels(labels: Tensor, classes: int, where: str = "") -> None:
    """Labels `[N]` or `[N, L]` are classes of the student, or -100."""
    outside = (labels != NO_LABEL) & ((labels < 0) | (labels >= classes))
    if outside.any():
        at = int(outside.reshape(len(labels), -1).any(-1).int().argmax())
        raise DataError(
            f"Label {int(labels[outside][0])} of example {at}{where} is outside the {classes} classes of the student, "
            f"0 to {classes - 1} (or -100 for none); correct the labels, or give the student more outputs."
        )


def check_rows(student: Any, teacher: Any, rows: Any, classes: int) -> None:
    """Whether the models can read every row of `tokenise`, and have every token that is to be predicted.

    Of anything but a datasets.Dataset the first batch alone is looked at, by `check_language_batch`.
    """
    if "input_ids" not in getattr(rows, "column_names", ()) or not hasattr(rows, "with_format"):
        return
    readers = [("student", "", student), *(("teacher", TEACHER_PREFIX, of) for of in networks_of(teacher) or [])]
    if TEACHER_PREFIX + "input_ids" not in rows.column_names:
        readers = [(who, "", model) for who, _, model in readers]
    limits = {
        (who, prefix + "input_ids", limit)
        for who, prefix, model in readers
        if is_language_model(model) and (limit := position_limit(model)) is not None
    }
    packed = {column: column.replace("input_ids", "position_ids") for _, column, _ in limits}
    packed = {column: places for column, places in packed.items() if places in rows.column_names}
    columns = {"labels"} | {packed.get(column, column) for _, column, _ in limits}
    for table in rows.select_columns(sorted(columns)).with_format("arrow").iter(ROWS_AT_A_TIME):
        for who, column, limit in sorted(limits):
            if column in packed:  # as long as its longest example
                longest = 1 + (pc.max(pc.list_flatten(table[packed[column]])).as_py() or 0)
            else:
                longest = pc.max(pc.list_value_length(table[column])).as_py() or 0
            if longest > limit:
                option = "teacher_max_length" if column.startswith(TEACHER_PREFIX) else "max_length"
                raise DataError(
                    f"A row's {column} has {longest} tokens, and the {who} reads {limit}; make the rows by tokenise "
                    f"with {option}={limit} (the command: --{option} {limit})."
                )
        highest = pc.max(pc.list_flatten(table["labels"])).as_py()
        if highest is not None and highest >= classes:
            raise DataError(
                f"A row asks for token {highest}, and the student's output layer has {classes}; tokenise with the "
                "student's own tokenizer (--tokenizer), or call student.resize_token_embeddings in Python."
            )


def refuse_probabilities(logits: Tensor, who: str, mend: str) -> None:
    """TargetError where what should be logits `[..., C]` is a probability distribution in every row."""
    x = logits.float()
    if len(x) and x.shape[-1] > 1 and (x >= 0).all() and ((x.sum(-1) - 1).abs() < 1e-3).all():
        raise TargetError(
            f"The {who} returns probabilities (every row is positive and sums to 1), but logits are needed: {mend}."
        )
