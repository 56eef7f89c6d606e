"""What every implementation of `linear_divergence` is given, and what its elementwise part is."""

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from limbeck.losses.objective import Counts, Objective
from limbeck.losses.targets import Head, SoftTargets
from limbeck.losses.terms import Term


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


class Settings(NamedTuple):
    """What is the same for every row of logits. A tuple, since torch.compile traces tuples."""

    terms: tuple[Term, ...]
    logit_scale: float
    softcap: float | None
    with_gradient: bool
