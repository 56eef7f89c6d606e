"""Which positions of a language model are compared: the only place that shifts.

`labels [B, L]` stand beside `input_ids`: a token's own id where it is to be predicted, -100 elsewhere. The state at
position t predicts the token at t + 1, so a position is compared where the **next** label is not -100.

An encoder-decoder reads `decoder_input_ids`, which are shifted already: its state at t predicts the label at t.

What this file does not know: models, losses, where labels come from.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from limbeck.errors import DataError, ShapeError

NO_LABEL = -100
"""The label of a token that nobody has to predict, as in torch and transformers."""


class NextTokens(NamedTuple):
    """The n compared positions of a batch, example by example.

    rows `[n]`: their index in the flattened `[B * L]` positions. labels `[n]`: the token that follows each.
    places `[n]`: where that label stands, in the flattened `[B * L]`; what is said of the label stands there too.
    """

    rows: Tensor
    labels: Tensor
    places: Tensor


def next_tokens(batch: Mapping[str, Any]) -> NextTokens:
    """The positions that predict a token of the batch's `labels [B, L]`."""
    labels: Tensor = batch["labels"]
    if labels.ndim != 2:
        raise ShapeError(
            f"A language model's labels are [B, L], one per token, but got the shape {list(labels.shape)}."
        )
    shift = int("decoder_input_ids" not in batch)
    asked = labels != NO_LABEL
    if shift:
        asked[:, 0] = False  # nothing predicts it
    places = asked.reshape(-1).nonzero().squeeze(1)
    return NextTokens(places - shift, labels.reshape(-1)[places], places)


def require_same_completions(batch: Mapping[str, Any], teachers: Mapping[str, Any]) -> None:
    """DataError unless student and teacher are to predict the same tokens in every example.

    batch: with `labels [B, L]`, and `row_id` (`[B]`, or `[B, L]` of packed rows) to name an example by. teachers: the
    teacher's, with `labels [B, Lt]`. Their inputs may differ in length and in what is read before; what follows must
    be the same, token by token.
    """
    for i, (mine, theirs) in enumerate(zip(_by_example(batch), _by_example(teachers), strict=True)):
        if not torch.equal(mine, theirs):
            shared = min(len(mine), len(theirs))
            alike = int((mine[:shared] == theirs[:shared]).long().cumprod(0).sum())
            name = _name(batch, i, alike)
            raise DataError(
                "Student and teacher must predict the same tokens, but in the example with row_id "
                f"{name} the student has {len(mine)} of them and the teacher {len(theirs)},"
                f" alike in the first {alike}. "
                "Give both the same completion, tokenised alike, after whatever each of them reads before it."
            )


def _by_example(batch: Mapping[str, Any]) -> tuple[Tensor, ...]:
    """The tokens to predict of each."""
    rows, labels, _ = next_tokens(batch)
    examples, length = batch["labels"].shape
    return torch.split(labels, torch.bincount(rows // length, minlength=examples).tolist())


def _name(batch: Mapping[str, Any], row: int, token: int) -> int:
    """The row_id of the example that a row's learned token of this number is of, or its last one."""
    if "row_id" not in batch or batch["row_id"].ndim == 1:
        return int(batch["row_id"][row]) if "row_id" in batch else row
    of_each = batch["row_id"][row][batch["labels"][row] != NO_LABEL]
    return int(of_each[min(token, len(of_each) - 1)] if len(of_each) else batch["row_id"][row, 0])


def packed_examples(batch: Mapping[str, Any]) -> list[tuple[int, Tensor]]:
    """The examples of a batch of packed rows: the row of each, and the columns of its tokens; else none.

    Rows are packed where `position_ids [B, L]` begin again at 0; what has no label (filling) is no example.
    """
    position_ids, labels = batch.get("position_ids"), batch["labels"]
    if position_ids is None or position_ids.shape != labels.shape:
        return []
    numbers = (position_ids == 0).cumsum(-1)
    found = [
        (row, (numbers[row] == number).nonzero().squeeze(1))
        for row in range(len(labels))
        for number in numbers[row][labels[row] != NO_LABEL].unique()
    ]
    several = len({row for row, _ in found}) < len(found)
    return found if several or batch.get("row_id", labels[:, 0]).ndim == 2 else []
