"""What every teacher does: it gives the distribution of each position of a batch, and it has a fingerprint.

What this file does not know: networks, the kinds of teachers, the objective.
"""

from typing import Protocol, runtime_checkable

from limbeck.losses.targets import SoftTargets
from limbeck.networks.asking import Batch


@runtime_checkable
class Teacher(Protocol):
    """One verb: what it believes about a batch. Its fingerprint tells one teacher from another."""

    def __call__(self, batch: Batch) -> SoftTargets: ...

    def fingerprint(self) -> str:
        """A hash of weights, configuration and dtype."""
        ...
