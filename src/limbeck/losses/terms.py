"""The terms of an objective: the value of each at a position, what it needs, and its gradient in the logits.

What this file does not know: how positions are weighted, summed and counted (objective.py), chunks of rows (linear/).
"""

import math
import re
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from limbeck.errors import ObjectiveError
from limbeck.losses.divergences import Divergence
from limbeck.losses.numbers import NO_LABEL, tempered
from limbeck.losses.targets import SoftTargets, is_compilable, spread


@dataclass(frozen=True)
class Term:
    """One summand of an objective: `scale` times the mean of `value` over the positions that the term counts.

    To add a term, derive a frozen dataclass from this one and define `value`; its gradient then comes from autograd.
    Pass it as `Objective(..., extra_terms=(term,))`.

    name: the key of its part of the loss and of its count; logs call its column `{name}_loss`.
    weight: the term's factor in the loss, 0 or more; 0 switches it off.
    needs_targets, needs_labels: what `value` reads. A term that needs labels counts the positions that have one, any
        other counts every position.
    """

    name: str
    weight: float
    needs_targets: ClassVar[bool] = False
    needs_labels: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.name):
            raise ObjectiveError(
                f"A term's name may contain only a-z, 0-9 and _, such as 'entropy', but is {self.name!r}."
            )
        if not 0 <= self.weight < math.inf:
            raise ObjectiveError(f"The weight of the term {self.name} must be 0 or more, but is {self.weight}.")

    @property
    def scale(self) -> float:
        """The factor of the term's mean in the loss."""
        return self.weight

    def value(self, logits: Tensor, targets: SoftTargets | None, labels: Tensor | None) -> Tensor:
        """`[n]` in nats, differentiable, at the rows of `logits [n, C]`, which are in float32 or wider.

        targets (n rows) and labels `[n]` are given where the term needs them. 0 where the term does not count.
        """
        raise NotImplementedError(f"{type(self).__name__} must define value(logits, targets, labels).")

    def value_and_gradient(
        self, logits: Tensor, targets: SoftTargets | None, labels: Tensor | None, share: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """The value `[r]`, and the gradient `[r, C]` of `(share * value).sum()` in the logits, for the kernels.

        share `[r]`: what each row counts in the gradient; None where no gradient is needed, which is then None too.
        """
        if share is None:
            return self.value(logits, targets, labels), None
        with torch.enable_grad():
            leaf = logits.detach().requires_grad_()
            value = self.value(leaf, targets, labels)
            (gradient,) = torch.autograd.grad(value, leaf, share.to(value.dtype))
        return value.detach(), gradient

    def for_targets(self, targets: SoftTargets) -> Self:
        """The term as it is evaluated on these targets; ObjectiveError where it would be wrong."""
        return self

    def compiles(self, targets: SoftTargets | None) -> bool:
        """Whether torch.compile is known to work on `value_and_gradient` with targets of this kind."""
        return False


@dataclass(frozen=True)
class SoftTerm(Term):
    """T^k times the divergence between student and teacher, both at the temperature T."""

    divergence: Divergence
    temperature: float
    needs_targets: ClassVar[bool] = True

    @property
    def scale(self) -> float:
        """weight * T^k, with k the divergence's temperature power."""
        return self.weight * self.temperature**self.divergence.temperature_power

    def value(self, logits: Tensor, targets: SoftTargets | None, labels: Tensor | None) -> Tensor:
        """The divergence `[n]`, without T^k."""
        assert targets is not None  # Objective.align raises otherwise
        return self.divergence(*targets.events(tempered(logits, self.temperature), self.temperature))

    def value_and_gradient(
        self, logits: Tensor, targets: SoftTargets | None, labels: Tensor | None, share: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Uses the divergence's slope: with e(i) the event of class i,

        d value / d z_i = (1/T) (slope_e(i) q_i / q_e(i) - q_i sum_e slope_e).
        """
        assert targets is not None
        log_probs = tempered(logits, self.temperature)
        log_q, log_p = targets.events(log_probs, self.temperature)
        value = self.divergence(log_q, log_p)
        if share is None:
            return value, None
        slope = self.divergence.slope(log_q, log_p)
        at_classes = spread(targets, slope, log_probs, log_q, self.temperature)
        gradient = at_classes - log_probs.exp() * slope.sum(-1, keepdim=True)
        return value, gradient * (share / self.temperature).unsqueeze(-1)

    def for_targets(self, targets: SoftTargets) -> Self:
        """The term with the divergence that applies to these targets."""
        return replace(self, divergence=targets.compared_by(self.divergence, self.temperature))

    def compiles(self, targets: SoftTargets | None) -> bool:
        """True for built-in kinds of targets and divergences with a closed-form slope."""
        return targets is not None and is_compilable(targets) and self.divergence.closed_form


@dataclass(frozen=True)
class HardTerm(Term):
    """Cross-entropy of the labels under the student at T = 1; 0 where the label is -100."""

    needs_labels: ClassVar[bool] = True

    def value(self, logits: Tensor, targets: SoftTargets | None, labels: Tensor | None) -> Tensor:
        """-log q of the label, `[n]`."""
        assert labels is not None
        return F.cross_entropy(logits, labels.long(), ignore_index=NO_LABEL, reduction="none")

    def value_and_gradient(
        self, logits: Tensor, targets: SoftTargets | None, labels: Tensor | None, share: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """d value / d z = q - the label's one-hot vector, where there is a label."""
        assert labels is not None
        log_probs = logits.log_softmax(-1)
        labelled, label = labels != NO_LABEL, labels.clamp(min=0).long().unsqueeze(-1)
        value = torch.where(labelled, -log_probs.gather(-1, label).squeeze(-1), 0.0)
        if share is None:
            return value, None
        share = torch.where(labelled, share, 0.0).unsqueeze(-1)
        return value, (log_probs.exp() * share).scatter_add(-1, label, -share)

    def compiles(self, targets: SoftTargets | None) -> bool:
        """Always True."""
        return True
