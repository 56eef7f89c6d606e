"""The naive lines: what every other implementation is held to."""

from torch import Tensor

from limbeck.losses.objective import Counts, Loss, Objective
from limbeck.losses.targets import Head, SoftTargets


def linear_divergence(
    hidden: Tensor,
    head: Head,
    targets: SoftTargets | Tensor | None,
    objective: Objective,
    labels: Tensor | None,
    mask: Tensor | None,
    weights: Tensor | None,
    counts: Counts | None,
) -> Loss:
    """The objective of all the logits at once."""
    targets = targets.detach() if isinstance(targets, Tensor) else targets
    return objective(head(hidden), targets, labels, mask=mask, weights=weights, counts=counts)
