"""The positions of a batch: its examples, its tokens, or the tokens that predict a next one; what is said of each.

What this file does not know: models, losses, how a batch was made.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from limbeck.errors import DataError, ShapeError
from limbeck.language.positions import next_tokens
from limbeck.models import Batch
from limbeck.objective import Counts, count_positions


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

    def counts(self) -> Counts:
        """Of both terms, before any model has seen the batch."""
        return count_positions(self.shape, self.labels, self.mask, self.weights, device=self.device)

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
