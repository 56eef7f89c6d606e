"""A function of the batch as a teacher.

What this file does not know: what the function computes, the objective.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from limbeck.errors import ModelError
from limbeck.losses.targets import SoftTargets, as_targets
from limbeck.networks.asking import Batch
from limbeck.networks.positions import Positions
from limbeck.teachers.protocol import BaseTeacher


class FunctionTeacher(BaseTeacher):
    """A function of the batch as a teacher.

    function: `batch -> logits [n, C]`, or SoftTargets; called without gradient.
    fingerprint: a name for what the function computes; needed only where targets are stored.
    """

    def __init__(self, function: Callable[[Batch], Tensor | SoftTargets], fingerprint: str | None = None):
        self.function = function
        self._fingerprint = fingerprint

    @torch.no_grad()
    def __call__(self, batch: Batch, positions: Positions | None = None) -> SoftTargets:
        """The function's result as SoftTargets."""
        return as_targets(self.function(batch))

    def fingerprint(self) -> str:
        """The name that was given for the function, which cannot be hashed itself; ModelError where there is none."""
        if self._fingerprint is None:
            raise ModelError(
                "A function has no fingerprint of its own; give it a name that changes whenever its results do: "
                'FunctionTeacher(function, fingerprint="...").'
            )
        return self._fingerprint
