"""The plain lines, whose results every other implementation must reproduce."""

from torch import Tensor

from limbeck.losses.linear.problem import Problem
from limbeck.losses.objective import Loss


def linear_divergence(problem: Problem) -> Loss:
    """The objective of all the logits at once."""
    targets = problem.targets
    return problem.objective(
        problem.head(problem.hidden),
        targets.detach() if isinstance(targets, Tensor) else targets,
        problem.labels,
        mask=problem.mask,
        weights=problem.weights,
        counts=problem.counts,
    )
