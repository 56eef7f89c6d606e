"""The positions of a batch (its examples, its tokens, or the tokens that predict a next one), with their labels.

The only place that shifts. A language model's `labels [B, L]` stand beside `input_ids`: a token's id where it is
to be predicted, -100 elsewhere. The state at position t predicts the token at t + 1, so a position is compared where
the **next** label is not -100. An encoder-decoder reads `decoder_input_ids`, which are shifted already: its state at t
predicts the label at t.

What this file does not know: models, losses, where batches come from.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from limbeck.errors import DataError, ShapeError
from limbeck.losses.numbers import NO_LABEL
from limbeck.losses.objective import Counts, count_positions
from limbeck.losses.terms import Term
from limbeck.networks.asking import Batch
from limbeck.networks.outputs import Task, positions_shape


@dataclass(frozen=True)
class Positions:
    """The positions of a batch.

    shape: `(n,)`, or `(n, L)` for a token classifier.
    labels: the class of each position or -100, `[*shape]`; None where the batch has none.
    mask: which positions count, bool `[*shape]`; None where all do.
    weights: the weight of each position, `[*shape]`; None where all are 1.
    device: the batch's.
    rows: of a language model's positions, the indices `[n]` in the flattened tokens `[B * L]`; None for other models.
    """

    shape: tuple[int, ...]
    labels: Tensor | None
    mask: Tensor | None
    weights: Tensor | None
    device: torch.device
    rows: Tensor | None = None

    def counts(self, terms: Sequence[Term] | None = None) -> Counts:
        """The count of each term over the batch.

        terms: an objective's; by default the soft and the hard one.
        """
        return count_positions(self.shape, self.labels, self.mask, self.weights, device=self.device, terms=terms)

    def weight(self) -> Tensor:
        """The weight of each position, `[*shape]`; 0 where it is masked."""
        weight = torch.ones(self.shape, device=self.device) if self.weights is None else self.weights
        return weight if self.mask is None else weight * self.mask

    def row_ids(self, batch: Batch) -> Tensor:
        """The row_id of each position's example, flattened; its number in the batch where there is no row_id.

        batch: where rows are packed, `row_id [B, L]` names the example of each token.
        """
        examples = next(len(v) for v in batch.values() if isinstance(v, Tensor))
        ids: Tensor = batch.get("row_id", torch.arange(examples, device=self.device))
        if ids.ndim == 2:
            return ids.flatten() if self.rows is None else ids.flatten()[self.rows]
        if self.rows is None:
            return ids.repeat_interleave(torch.Size(self.shape).numel() // max(1, examples))
        return ids[self.rows // batch["labels"].shape[1]]

    def in_batch(self, rows: Tensor, batch: Batch) -> Tensor:
        """The rows laid out as the batch, `[B, L, m]`, L = 1 for whole examples; 0 where there is no position.

        rows: m numbers for each position, `[positions, m]`.
        """
        examples = next(len(v) for v in batch.values() if isinstance(v, Tensor))
        if self.rows is None:
            return rows.view(examples, -1, rows.shape[-1])
        everywhere = rows.new_zeros(batch["labels"].numel(), rows.shape[-1])
        everywhere[self.rows] = rows
        return everywhere.view(*batch["labels"].shape, -1)

    def compared(self, rows: Tensor) -> Tensor:
        """The rows, bool `[n]`, set to False where a position is masked."""
        return rows if self.mask is None else rows & self.mask.reshape(-1)


def next_token_positions(batch: Batch) -> Positions:
    """The positions of a language model's batch: the n tokens that have to predict the next one."""
    if "labels" not in batch:
        raise DataError(
            "A language model's batches need labels [B, L]: a token's id where it is to be predicted, -100 "
            f"elsewhere; these have {sorted(batch)}."
        )
    rows, labels, places = next_tokens(batch)
    if "mask" in batch:
        raise DataError("A language model's labels say which tokens count (-100 for none); remove the column mask.")
    weights = batch.get("weights")
    if weights is not None and weights.shape != batch["labels"].shape:
        raise ShapeError(
            f"A language model's weights stand beside its labels {list(batch['labels'].shape)}, one per token, but are "
            f"{list(weights.shape)}."
        )
    weights = None if weights is None else weights.reshape(-1)[places]
    return Positions((len(rows),), labels, None, weights, labels.device, rows)


def positions_of(batch: Batch, axes: int, task: Task | None = None) -> Positions:
    """The positions of any other batch.

    axes: 1 where an example is a position; 2 where a token is one, and those of attention_mask 0 are masked.
    task: decides the positions where it has several for an example: labels, numbers or pixels. A mask or weights of
        examples `[n]` then hold for each of theirs.
    """
    labels, mask, weights = (batch.get(name) for name in ("labels", "mask", "weights"))
    first = next(v for v in batch.values() if isinstance(v, Tensor) and v.ndim)
    shape = None if task is None else positions_shape(task, batch, len(first))
    if shape is None:
        if axes == 2 and mask is None and "attention_mask" in batch:
            mask = batch["attention_mask"].bool()
        first = next(v for v in batch.values() if isinstance(v, Tensor) and v.ndim >= axes)
        return Positions(tuple(first.shape[:axes]), labels, mask, weights, first.device)
    if labels is not None:
        labels = labels.reshape(shape)
    mask, weights = (_for_each(values, shape) for values in (mask, weights))
    return Positions(shape, labels, mask, weights, first.device)


def _for_each(values: Tensor | None, shape: tuple[int, ...]) -> Tensor | None:
    """Values of examples `[n]` for each of their positions, `[*shape]`; those of positions stay."""
    if values is None or values.ndim != 1 or len(shape) == 1:
        return values
    return values.reshape(-1, *(1 for _ in shape[1:])).expand(shape)


class NextTokens(NamedTuple):
    """The n compared positions of a batch, example by example.

    rows: their indices in the flattened tokens `[B * L]`, `[n]`.
    labels: the token that follows each, `[n]`.
    places: the indices of these labels in the flattened labels `[B * L]`, `[n]`; their weights stand there too.
    """

    rows: Tensor
    labels: Tensor
    places: Tensor


def next_tokens(batch: Batch) -> NextTokens:
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


def require_same_completions(batch: Batch, teachers: Batch) -> None:
    """DataError unless student and teacher have the same tokens to predict in every example.

    Their prompts may differ, and so may their lengths; the tokens that follow must be the same, one by one.

    batch: with `labels [B, L]`, and `row_id` (`[B]`, or `[B, L]` where rows are packed) to name an example by.
    teachers: the same batch as the teacher reads it, with `labels [B, Lt]`.
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


def _by_example(batch: Batch) -> tuple[Tensor, ...]:
    """The tokens to predict, of each example."""
    rows, labels, _ = next_tokens(batch)
    examples, length = batch["labels"].shape
    return torch.split(labels, torch.bincount(rows // length, minlength=examples).tolist())


def _name(batch: Batch, row: int, token: int) -> int:
    """The row_id of the example with the token-th label of a row, or with its last label where there are fewer."""
    if "row_id" not in batch or batch["row_id"].ndim == 1:
        return int(batch["row_id"][row]) if "row_id" in batch else row
    of_each = batch["row_id"][row][batch["labels"][row] != NO_LABEL]
    return int(of_each[min(token, len(of_each) - 1)] if len(of_each) else batch["row_id"][row, 0])


def packed_examples(batch: Batch) -> list[tuple[int, Tensor]]:
    """The examples of a batch of packed rows: the row of each, and the columns of its tokens; none for other batches.

    Rows are packed where `position_ids [B, L]` begin again at 0. Tokens without any label are filling, not an example.
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
