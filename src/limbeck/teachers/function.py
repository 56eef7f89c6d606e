"""A function of the batch as a teacher.

What this file does not know: what the function computes, the objective.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from limbeck.errors import ModelError
from limbeck.losses.targets import SoftTargets, as_targets
from limbeck.networks.asking import Batch
from limbeck.networks.outputs import as_positions
from limbeck.networks.positions import Positions
from limbeck.teachers.protocol import BaseTeacher, targets_by_task


class FunctionTeacher(BaseTeacher):
    """A function of the batch as a teacher.

    function: `batch -> logits [n, C]`, or SoftTargets; called without gradient. Where the data's labels are numbers,
        several labels or pixels, what a network for these returns.
    fingerprint: a name for what the function computes; needed only where targets are stored.
    """

    def __init__(self, function: Callable[[Batch], Tensor | SoftTargets], fingerprint: str | None = None):
        self.function = function
        self._fingerprint = fingerprint

    @torch.no_grad()
    def __call__(self, batch: Batch, positions: Positions | None = None) -> SoftTargets:
        """The function's result as SoftTargets; of several labels, pixels or numbers, a row for each of these."""
        found = self.function(batch)
        if isinstance(found, Tensor) and self.settled_task is not None:
            name = getattr(self.function, "__name__", type(self.function).__name__)
            return targets_by_task(as_positions(found, self.settled_task, batch, name), self.settled_task)
        return as_targets(found)

    def fingerprint(self) -> str:
        """The name that was given for the function, which cannot be hashed itself; ModelError where there is none."""
        if self._fingerprint is None:
            raise ModelError(
                "A function has no fingerprint of its own; give it a name that changes whenever its results do: "
                'FunctionTeacher(function, fingerprint="...").'
            )
        return self._fingerprint
