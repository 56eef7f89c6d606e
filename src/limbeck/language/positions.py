"""Which positions of a language model are compared: the only place that shifts.

`labels [B, L]` stand beside `input_ids`: a token's own id where it is to be predicted, -100 elsewhere. The state at
position t predicts the token at t + 1, so a position is compared where the **next** label is not -100.

What this file does not know: models, losses, where labels come from.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from limbeck.errors import DataError, ShapeError

NO_TOKEN = -100
"""The label of a token that nobody has to predict, as in torch and transformers."""


class NextTokens(NamedTuple):
    """The n compared positions of a batch, example by example.

    rows `[n]`: their index in the flattened `[B * L]` positions. labels `[n]`: the token that follows each.
    """

    rows: Tensor
    labels: Tensor


def next_tokens(labels: Tensor) -> NextTokens:
    """The positions that predict a token of `labels [B, L]`."""
    if labels.ndim != 2:
        raise ShapeError(
            f"A language model's labels are [B, L], one per token, but got the shape {list(labels.shape)}."
        )
    last = torch.full_like(labels[:, :1], NO_TOKEN)  # nothing follows it
    following = torch.cat([labels[:, 1:], last], 1).reshape(-1)
    rows = (following != NO_TOKEN).nonzero().squeeze(1)
    return NextTokens(rows, following[rows])


def require_same_completions(labels: Tensor, teacher_labels: Tensor, row_id: Tensor | None = None) -> None:
    """DataError unless student `[B, L]` and teacher `[B, Lt]` are to predict the same tokens in every example.

    Their inputs may differ in length and in what is read before; what follows must be the same, token by token.
    """
    for i, (mine, theirs) in enumerate(zip(labels, teacher_labels, strict=True)):
        mine, theirs = mine[1:][mine[1:] != NO_TOKEN], theirs[1:][theirs[1:] != NO_TOKEN]
        if not torch.equal(mine, theirs):
            shared = min(len(mine), len(theirs))
            alike = int((mine[:shared] == theirs[:shared]).long().cumprod(0).sum())
            raise DataError(
                f"Student and teacher must predict the same tokens, but in the example with row_id "
                f"{i if row_id is None else int(row_id[i])} the student has {len(mine)} of them and the teacher "
                f"{len(theirs)}, alike in the first {alike}; give both the same completion, tokenised alike, after "
                "whatever each of them reads before it."
            )
