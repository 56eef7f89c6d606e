"""The positions of a batch: its examples, its tokens, or the tokens that predict a next one; what is said of each.

The only place that shifts. A language model's `labels [B, L]` stand beside `input_ids`: a token's own id where it is
to be predicted, -100 elsewhere. The state at position t predicts the token at t + 1, so a position is compared where
the **next** label is not -100. An encoder-decoder reads `decoder_input_ids`, which are shifted already: its state at t
predicts the label at t.

What this file does not know: models, losses, how a batch was made.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from limbeck.errors import DataError, ShapeError
from limbeck.losses.numbers import NO_LABEL
from limbeck.losses.objective import Counts, count_positions
from limbeck.losses.terms import Term
from limbeck.networks.asking import Batch


@dataclass(frozen=True)
class Positions:
    """The positions of a batch: their shape, and what is said about each of them, `[*shape]`.

    rows `[n]`: for language models, which of the flattened `[B * L]` tokens these are.
    """

    shape: tuple[int, ...]
    labels: Tensor | None
    mask: Tensor | None
    weights: Tensor | None
    device: torch.device
    rows: Tensor | None = None

    def counts(self, terms: Sequence[Term] | None = None) -> Counts:
        """The count of each term, the soft and the hard one by default, before any model has seen the batch."""
        return count_positions(self.shape, self.labels, self.mask, self.weights, device=self.device, terms=terms)

    def weight(self) -> Tensor:
        """Of each position; 0 where it is masked."""
        weight = torch.ones(self.shape, device=self.device) if self.weights is None else self.weights
        return weight if self.mask is None else weight * self.mask

    def row_ids(self, batch: Batch) -> Tensor:
        """Of the example that each position is of, flattened; its number in the batch where it has no row_id.

        A row_id of `[B, L]`, of packed rows, names the example of each token.
        """
        examples = next(len(v) for v in batch.values() if isinstance(v, Tensor))
        ids: Tensor = batch.get("row_id", torch.arange(examples, device=self.device))
        if ids.ndim == 2:
            return ids.flatten() if self.rows is None else ids.flatten()[self.rows]
        if self.rows is None:
            return ids.repeat_interleave(torch.Size(self.shape).numel() // max(1, examples))
        return ids[self.rows // batch["labels"].shape[1]]

    def in_batch(self, rows: Tensor, batch: Batch) -> Tensor:
        """What was found at each position, `[positions, m]`, as `[B, L, m]`, L = 1 for whole examples; 0 at others."""
        examples = next(len(v) for v in batch.values() if isinstance(v, Tensor))
        if self.rows is None:
            return rows.view(examples, -1, rows.shape[-1])
        everywhere = rows.new_zeros(batch["labels"].numel(), rows.shape[-1])
        everywhere[self.rows] = rows
        return everywhere.view(*batch["labels"].shape, -1)

    def compared(self, rows: Tensor) -> Tensor:
        """`rows [n]` bool without the positions that are masked."""
        return rows if self.mask is None else rows & self.mask.reshape(-1)


def next_token_positions(batch: Batch) -> Positions:
    """The tokens of a language model's batch that have to predict the next one, and which that is, `[n]`."""
    if "labels" not in batch:
        raise DataError(
            "A language model's batches need labels [B, L]: a token's own id where it is to be predicted, -100 "
            f"elsewhere; these have {sorted(batch)}."
        )
    rows, labels, places = next_tokens(batch)
    if "mask" in batch:
        raise DataError("A language model's labels say which tokens count (-100 for none); leave the column mask out.")
    weights = batch.get("weights")
    if weights is not None and weights.shape != batch["labels"].shape:
        raise ShapeError(
            f"A language model's weights stand beside its labels {list(batch['labels'].shape)}, one per token, but are "
            f"{list(weights.shape)}."
        )
    weights = None if weights is None else weights.reshape(-1)[places]
    return Positions((len(rows),), labels, None, weights, labels.device, rows)


def positions_of(batch: Batch, axes: int) -> Positions:
    """The positions of a batch: its examples (axes 1), or its tokens (axes 2), padding masked."""
    labels, mask, weights = (batch.get(name) for name in ("labels", "mask", "weights"))
    if axes == 2 and mask is None and "attention_mask" in batch:
        mask = batch["attention_mask"].bool()
    first = next(v for v in batch.values() if isinstance(v, Tensor) and v.ndim >= axes)
    return Positions(tuple(first.shape[:axes]), labels, mask, weights, first.device)


class NextTokens(NamedTuple):
    """The n compared positions of a batch, example by example.

    rows `[n]`: their index in the flattened `[B * L]` positions. labels `[n]`: the token that follows each.
    places `[n]`: where that label stands, in the flattened `[B * L]`; what is said of the label stands there too.
    """

    rows: Tensor
    labels: Tensor
    places: Tensor


def next_tokens(batch: Mapping[str, Any]) -> NextTokens:
    """The positions that predict a token of the batch's `labels [B, L]`.

    A token that follows padding (`attention_mask` of 0, as in rows padded on the left) has none: nothing was read that
    could predict it.
    """
    labels: Tensor = batch["labels"]
    if labels.ndim != 2:
        raise ShapeError(
            f"A language model's labels are [B, L], one per token, but got the shape {list(labels.shape)}."
        )
    shift = int("decoder_input_ids" not in batch)
    predicted = labels != NO_LABEL
    if shift:
        predicted[:, 0] = False  # nothing precedes it
        mask = batch.get("attention_mask")
        if isinstance(mask, Tensor) and mask.shape == labels.shape:
            predicted[:, 1:] &= mask[:, :-1] != 0
    places = predicted.reshape(-1).nonzero().squeeze(1)
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
