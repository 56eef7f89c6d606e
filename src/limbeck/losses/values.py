"""Divergences of numbers: squared error, and those of Gaussians, with the terms that an objective makes of them.

    objective = Objective(gaussian_kl, hard_weight=0.1)
    loss = objective(values, GaussianTargets(mean, log_variance), labels)    # values [n, 2]: mean, log-variance

A value is `[..., 1]`, a number, or `[..., 2]`, a number and the natural logarithm of its variance. A divergence maps
the student's and the teacher's values to `[...]`. Numbers are not softened: there is no temperature.

What this file does not know: units (the trainer compares in standard units), how positions are summed.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from limbeck.errors import ObjectiveError, ShapeError
from limbeck.losses.targets import SoftTargets
from limbeck.losses.targets.gaussian import LOG_2_PI, require_gaussian
from limbeck.losses.terms import Term


@dataclass(frozen=True)
class ValueDivergence:
    """A divergence of numbers; call it on the student's and the teacher's values.

    name: as commands and results call it. value: `(q [..., Q], p [..., P]) -> [...]`, differentiable in q.
    outputs: Q, how many outputs the student needs for a number. needs_variance: whether P must be 2.
    text: what `help` shows of this divergence.
    """

    name: str
    value: Callable[[Tensor, Tensor], Tensor]
    outputs: int = 1
    needs_variance: bool = False
    text: str | None = field(default=None, compare=False)
    temperature_power: ClassVar[int] = 0
    allows_zero: ClassVar[bool] = True
    closed_form: ClassVar[bool] = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "__doc__", self.text)  # as Divergence has it

    def __call__(self, q: Tensor, p: Tensor) -> Tensor:
        """`[...]`; ShapeError or ObjectiveError where student or teacher lack a variance."""
        if q.shape[-1] != self.outputs:
            raise ShapeError(
                f"{self.name} needs {self.outputs} outputs of the student for each number"
                f"{' (mean and log-variance)' if self.outputs == 2 else ''}, but it has {q.shape[-1]}."
            )
        if self.needs_variance and p.shape[-1] != 2:
            raise ObjectiveError(
                f"{self.name} needs the teacher's variance, and this teacher gives none: use gaussian_cross_entropy "
                "(--divergence gaussian_cross_entropy), or an ensemble, whose spread is a variance."
            )
        return self.value(q, p)

    def __str__(self) -> str:
        return self.name


def _squared_error(q: Tensor, p: Tensor) -> Tensor:
    """`(mean_q - mean_p)^2`, of students that give a number."""
    return (q[..., 0] - p[..., 0]) ** 2


def _gaussian_cross_entropy(q: Tensor, p: Tensor) -> Tensor:
    """`-E_p log q`, in nats, of `q = N(mean_q, var_q)`; a teacher without a variance is a point.

    Of labels it is the negative log-likelihood (Nix and Weigend, "Estimating the mean and variance of the target
    probability distribution", 1994).
    """
    log_variance = q[..., 1]
    spread = (q[..., 0] - p[..., 0]) ** 2
    if p.shape[-1] == 2:
        spread = spread + p[..., 1].exp()
    return 0.5 * (LOG_2_PI + log_variance + spread * (-log_variance).exp())


def _gaussian_kl(q: Tensor, p: Tensor) -> Tensor:
    """KL(p || q) of two Gaussians, in nats: `(log(var_q / var_p) + (var_p + (mean_p - mean_q)^2) / var_q - 1) / 2`."""
    ratio = p[..., 1] - q[..., 1]
    distance = (q[..., 0] - p[..., 0]) ** 2 * (-q[..., 1]).exp()
    return 0.5 * (ratio.expm1() - ratio + distance)


squared_error = ValueDivergence("squared_error", _squared_error, text=_squared_error.__doc__)
gaussian_cross_entropy = ValueDivergence(
    "gaussian_cross_entropy", _gaussian_cross_entropy, outputs=2, text=_gaussian_cross_entropy.__doc__
)
gaussian_kl = ValueDivergence("gaussian_kl", _gaussian_kl, outputs=2, needs_variance=True, text=_gaussian_kl.__doc__)

VALUE_DIVERGENCES = {each.name: each for each in (squared_error, gaussian_cross_entropy, gaussian_kl)}


@dataclass(frozen=True)
class SoftValueTerm(Term):
    """The divergence between the student's and the teacher's numbers."""

    divergence: ValueDivergence
    needs_targets: ClassVar[bool] = True

    def value(self, logits: Tensor, targets: SoftTargets | None, labels: Tensor | None) -> Tensor:
        """The divergence `[n]` of the student's values, `logits [n, 1 or 2]`."""
        return self.divergence(logits, require_gaussian(targets).values)


@dataclass(frozen=True)
class HardValueTerm(Term):
    """The labels' squared error, or their NLL where the student gives a variance; a label of nan is none."""

    needs_labels: ClassVar[bool] = True

    def value(self, logits: Tensor, targets: SoftTargets | None, labels: Tensor | None) -> Tensor:
        """`[n]`, 0 where there is no label."""
        assert labels is not None
        known = ~labels.isnan()
        label = torch.where(known, labels, 0.0).to(logits.dtype)[..., None]
        divergence = squared_error if logits.shape[-1] == 1 else gaussian_cross_entropy
        return torch.where(known, divergence(logits, label), 0.0)
