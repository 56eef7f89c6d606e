"""Targets of regression: a teacher's number for each position, with its variance where the teacher has one."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from limbeck.errors import ObjectiveError, ShapeError, TargetError
from limbeck.losses.divergences import Divergence
from limbeck.losses.numbers import widened
from limbeck.losses.targets.protocol import TensorRows

LOG_2_PI = math.log(2 * math.pi)

NO_CLASSES = (
    "A teacher that gives numbers cannot be compared by a divergence of classes; use squared_error, gaussian_kl or "
    "gaussian_cross_entropy (--divergence)."
)


@dataclass(frozen=True, eq=False)
class GaussianTargets(TensorRows):
    """Numbers `[n]`, and the natural logarithm of their variances `[n]` or None: N(mean, exp(log_variance)).

    They have no classes: divergences of values (limbeck.losses.values) read them, all others raise ObjectiveError.
    """

    mean: Tensor
    log_variance: Tensor | None = None

    def __post_init__(self) -> None:
        if self.mean.ndim != 1 or (self.log_variance is not None and self.log_variance.shape != self.mean.shape):
            raise ShapeError(
                f"GaussianTargets hold means [n] and log-variances [n], but got {list(self.mean.shape)}"
                + ("." if self.log_variance is None else f" and {list(self.log_variance.shape)}.")
            )

    @property
    def num_classes(self) -> int:
        """How many numbers a position has: 1, or 2 with its log-variance."""
        return 1 if self.log_variance is None else 2

    @property
    def values(self) -> Tensor:
        """`[n, 1]`, or `[n, 2]` with log-variances, in float32 or wider."""
        columns = [self.mean] if self.log_variance is None else [self.mean, self.log_variance]
        return widened(torch.stack(columns, -1))

    def events(self, student_log_probs: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """ObjectiveError: numbers have no classes."""
        raise ObjectiveError(NO_CLASSES)

    def compared_by(self, divergence: Divergence, temperature: float) -> Divergence:
        """ObjectiveError: numbers have no classes."""
        raise ObjectiveError(NO_CLASSES)

    @property
    def complete(self) -> bool:
        """False: there are no classes."""
        return False

    def all_log_probs(self, temperature: float) -> Tensor:
        """ObjectiveError: numbers have no classes."""
        raise ObjectiveError(NO_CLASSES)

    def spread(self, slope: Tensor, student_log_probs: Tensor, log_q: Tensor) -> Tensor:
        """ObjectiveError: numbers have no classes."""
        raise ObjectiveError(NO_CLASSES)

    def in_units(self, center: Tensor, scale: Tensor) -> "GaussianTargets":
        """The same numbers in other units, `(number - center) / scale`; center, scale: `[n]`."""
        log_variance = None if self.log_variance is None else self.log_variance - 2 * scale.log()
        return GaussianTargets((self.mean - center) / scale, log_variance)

    def bad_rows(self, divergence: object) -> Tensor:
        """Rows with nan or infinity."""
        return ~self.values.isfinite().all(-1)


def mixture(members: Sequence[GaussianTargets], weights: Sequence[float]) -> GaussianTargets:
    """The mean and the variance of a mixture of Gaussians (Lakshminarayanan et al., arXiv 1612.01474, section 2.4).

    A member without a variance counts as a point, so that the spread of the members' numbers is the variance.

    members: one or more, of the same rows. weights: sum to 1.
    """
    if len({len(member) for member in members}) != 1:
        raise ShapeError(f"The members of an ensemble must cover the same rows, but cover {[len(m) for m in members]}.")
    share = torch.tensor(weights, dtype=torch.float64, device=members[0].mean.device)[:, None]
    means = torch.stack([member.mean for member in members]).double()
    within = torch.stack(
        [torch.zeros_like(m.mean) if m.log_variance is None else m.log_variance.exp() for m in members]
    ).double()
    mean = (share * means).sum(0)
    variance = (share * (within + (means - mean) ** 2)).sum(0)
    if len(members) == 1 and members[0].log_variance is None:
        return members[0]
    least = torch.finfo(torch.float32).tiny
    return GaussianTargets(mean.float(), variance.clamp(min=least).log().float())


def require_gaussian(targets: object) -> GaussianTargets:
    """The targets; TargetError where a teacher gives classes and numbers are needed."""
    if not isinstance(targets, GaussianTargets):
        raise TargetError(
            f"Regression needs a teacher that gives numbers, but it gave {type(targets).__name__}: say what a network "
            'gives by limbeck.with_task(network, Task("regression", outputs=1)); a function returns GaussianTargets.'
        )
    return targets
