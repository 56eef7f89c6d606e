"""One call of `linear_divergence`: what every implementation is given."""

from dataclasses import dataclass

from torch import Tensor

from limbeck.losses.objective import Counts, Objective
from limbeck.losses.targets import Head, SoftTargets


@dataclass(frozen=True, eq=False)
class Problem:
    """The checked arguments of a call; an implementation is a function from a Problem to its Loss.

    hidden: `[..., H]`, leading axes are positions. head: the student's output layer over C classes.
    targets, labels, mask, weights, counts: as `Objective.__call__` takes them.
    """

    hidden: Tensor
    head: Head
    targets: SoftTargets | Tensor | None
    objective: Objective
    labels: Tensor | None = None
    mask: Tensor | None = None
    weights: Tensor | None = None
    counts: Counts | None = None
