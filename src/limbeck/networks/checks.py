"""Checks of labels, rows and logits that training, labelling and evaluation share.

What this file does not know: objectives, teachers' targets, what the models are for.
"""

from collections.abc import Sequence
from typing import Any

import pyarrow.compute as pc
from torch import Tensor, nn

from limbeck.errors import DataError, ShapeError, TargetError
from limbeck.losses.numbers import NO_LABEL
from limbeck.networks.asking import TEACHER_PREFIX, networks_of
from limbeck.networks.halves import is_language_model, position_limit
from limbeck.networks.texts import require_tokens

ROWS_AT_A_TIME = 10_000


def check_label_names(known: dict[str, Sequence[str]]) -> None:
    """Raises an error unless the names of the classes are the same, in the same order.

    known: the names in order, by who has them; ShapeError for another number of names, DataError for other names.
    """
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
    """DataError unless each label is a class of the student or -100.

    labels: `[N]` or `[N, L]`. classes: the student's outputs. where: for the message, such as " of the transfer set".
    """
    outside = out_of_range(labels, classes)
    if outside.any():
        at = int(outside.reshape(len(labels), -1).any(-1).int().argmax())
        raise DataError(
            f"Label {int(labels[outside][0])} of example {at}{where} is outside the {classes} classes of the student, "
            f"0 to {classes - 1} (or -100 for none); correct the labels, or give the student more outputs."
        )


def out_of_range(labels: Tensor, classes: int) -> Tensor:
    """Which labels are neither a class, from 0 to `classes` - 1, nor -100: bool, of the labels' shape."""
    return (labels != NO_LABEL) & ((labels < 0) | (labels >= classes))


def check_rows(student: nn.Module, teacher: object, rows: Any, classes: int) -> None:
    """DataError unless the models can read every row, and the student has every token that is to be predicted.

    student, teacher: language models; a teacher that is not made of language models is not checked.
    rows: a datasets.Dataset such as `tokenise` returns; any other data set is not read here, since training checks its
        first batch.
    classes: the student's outputs.
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
    columns |= {prefix + "input_ids" for _, prefix, _ in readers}
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
        for who, prefix, model in readers:
            if is_language_model(model):
                require_tokens(model, who, pc.max(pc.list_flatten(table[prefix + "input_ids"])).as_py() or 0)
        highest = pc.max(pc.list_flatten(table["labels"])).as_py()
        if highest is not None and highest >= classes:
            raise DataError(
                f"A row has the label {highest}, and the student's output layer has {classes} tokens; tokenise with "
                "the student's tokenizer (--tokenizer), or call student.resize_token_embeddings in Python."
            )


def refuse_probabilities(logits: Tensor, who: str, mend: str) -> None:
    """TargetError where every row of the logits is a probability distribution.

    logits: `[..., C]`. who: "teacher" or "student". mend: what to do about it, the end of the message.
    """
    x = logits.float()
    if len(x) and x.shape[-1] > 1 and (x >= 0).all() and ((x.sum(-1) - 1).abs() < 1e-3).all():
        raise TargetError(
            f"The {who} returns probabilities (every row is positive and sums to 1), but logits are needed: {mend}."
        )
