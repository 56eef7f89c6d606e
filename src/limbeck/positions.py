"""The positions of a batch: its examples, or its tokens, and what is said about each of them.

What this file does not know: models, losses, how a batch was made.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from limbeck.models import Batch
from limbeck.objective import Counts, count_positions


@dataclass(frozen=True)
class Positions:
    """The positions of a batch: their shape, and what is said about each of them, `[*shape]`."""

    shape: tuple[int, ...]
    labels: Tensor | None
    mask: Tensor | None
    weights: Tensor | None
    device: torch.device

    def counts(self) -> Counts:
        """Of both terms, before any model has seen the batch."""
        return count_positions(self.shape, self.labels, self.mask, self.weights, device=self.device)

    def weight(self) -> Tensor:
        """Of each position; 0 where it is masked."""
        weight = torch.ones(self.shape, device=self.device) if self.weights is None else self.weights
        return weight if self.mask is None else weight * self.mask

    def compared(self, rows: Tensor) -> Tensor:
        """`rows [n]` bool without the positions that are masked."""
        return rows if self.mask is None else rows & self.mask.reshape(-1)


def positions_of(batch: Batch, axes: int) -> Positions:
    """The positions of a batch: its examples (axes 1), or its tokens (axes 2), padding masked."""
    labels, mask, weights = (batch.get(name) for name in ("labels", "mask", "weights"))
    if axes == 2 and mask is None and "attention_mask" in batch:
        mask = batch["attention_mask"].bool()
    first = next(v for v in batch.values() if isinstance(v, Tensor) and v.ndim >= axes)
    return Positions(tuple(first.shape[:axes]), labels, mask, weights, first.device)
