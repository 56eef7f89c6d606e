"""Divergences between a student's and a teacher's distribution, one position at a time.

Every divergence maps `(log_q [..., E], log_p [..., E]) -> [...]`: log-probabilities over `E` events,
`q` the student, `p` the teacher; nothing is summed over positions here. Inputs of any float dtype are
worked on in float32 (float64 stays float64), always in log space.

    value = forward_kl(log_q, log_p)          # KL(p‖q), [...], in nats
    slope = forward_kl.slope(log_q, log_p)    # d value / d log_q, [..., E]

The slope gives the gradient in the student's logits `z`, where `log_q` are the events of
`log_softmax(z / T)` and `e(i)` is the event that class `i` belongs to:

    d value / d z_i = (1/T) * (slope_e(i) * q_i / q_e(i)  -  q_i * sum_e slope_e)

What this file does not know: temperatures, labels, reductions, where the teacher's words come from.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from limbeck.errors import ObjectiveError, ShapeError
from limbeck.losses.numbers import widened

PositionFunction = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Divergence:
    """A divergence with its closed-form slope.

    name: as in messages and results.
    value: `(log_q [..., E], log_p [..., E]) -> [...]`.
    slope: `(log_q, log_p) -> d value / d log_q [..., E]`, each event's log_q taken as independent.
    temperature_power: k, such that T^k keeps the size of the gradient when T changes.
    allows_zero: whether it stays finite where the teacher's probability is zero.
    closed_form: whether the slope is written out; one that runs autograd is never compiled.
    """

    name: str
    value: PositionFunction
    slope: PositionFunction
    temperature_power: int = 2
    allows_zero: bool = True
    closed_form: bool = True

    def __post_init__(self) -> None:
        slope = self.slope
        object.__setattr__(self, "slope", lambda log_q, log_p: slope(widened(log_q), widened(log_p)))

    def __call__(self, log_q: Tensor, log_p: Tensor) -> Tensor:
        """The divergence at each position, `[...]`, in float32 or wider."""
        if log_q.shape != log_p.shape:
            raise ShapeError(
                f"{self.name} compares two distributions over the same events, but log_q is "
                f"{list(log_q.shape)} and log_p {list(log_p.shape)}."
            )
        value = self.value(widened(log_q), widened(log_p))
        if value.shape != log_q.shape[:-1]:
            raise ShapeError(
                f"A divergence gives one value per position, {list(log_q.shape[:-1])} for events "
                f"{list(log_q.shape)}, but {self.name} gave {list(value.shape)}; sum over the events, and leave the "
                "mean over positions to the objective."
            )
        return value

    def __repr__(self) -> str:
        return self.name


def jensen_shannon(beta: float = 0.5) -> Divergence:
    """beta KL(p‖m) + (1 - beta) KL(q‖m) with m = beta p + (1 - beta) q, for 0 < beta < 1.

    Generalised Jensen-Shannon divergence (arXiv 2306.13649).
    """
    _between_0_and_1("jensen_shannon", "beta", beta, at_0="forward_kl", at_1="reverse_kl")

    def value(log_q: Tensor, log_p: Tensor) -> Tensor:
        log_m = _log_mix(beta, log_p, log_q)
        from_teacher = _expect(log_p, log_p, log_m)
        from_student = _expect(log_q, log_q, log_m)
        return beta * from_teacher + (1 - beta) * from_student

    def slope(log_q: Tensor, log_p: Tensor) -> Tensor:
        log_m = _log_mix(beta, log_p, log_q)
        return (1 - beta) * _weigh(log_q, log_q, log_m)

    return Divergence(f"jensen_shannon({beta:g})", value, slope)


def skewed_kl(skew: float = 0.1) -> Divergence:
    """KL(p‖ skew p + (1 - skew) q), for 0 < skew < 1 (skew KL, arXiv 2402.03898)."""
    _between_0_and_1("skewed_kl", "skew", skew, at_0="forward_kl")

    def value(log_q: Tensor, log_p: Tensor) -> Tensor:
        return _expect(log_p, log_p, _log_mix(skew, log_p, log_q))

    def slope(log_q: Tensor, log_p: Tensor) -> Tensor:
        log_m = _log_mix(skew, log_p, log_q)
        return -(log_p + math.log1p(-skew) + _share(log_q, log_m)).exp()

    return Divergence(f"skewed_kl({skew:g})", value, slope)


def skewed_reverse_kl(skew: float = 0.1) -> Divergence:
    """KL(q‖ (1 - skew) p + skew q), for 0 < skew < 1 (skew reverse KL, arXiv 2402.03898).

    The reverse KL for teachers that give some classes a probability of zero: it stays finite.
    """
    _between_0_and_1("skewed_reverse_kl", "skew", skew, at_0="reverse_kl")

    def value(log_q: Tensor, log_p: Tensor) -> Tensor:
        return _expect(log_q, log_q, _log_mix(skew, log_q, log_p))

    def slope(log_q: Tensor, log_p: Tensor) -> Tensor:
        log_m = _log_mix(skew, log_q, log_p)
        q = log_q.exp()
        student_share = skew * _share(log_q, log_m).exp()  # of m at each event, in [0, 1]
        return _weigh(log_q, log_q, log_m) + q * (1 - student_share)

    return Divergence(f"skewed_reverse_kl({skew:g})", value, slope)


def _forward_kl(log_q: Tensor, log_p: Tensor) -> Tensor:
    return _expect(log_p, log_p, log_q)


def _reverse_kl(log_q: Tensor, log_p: Tensor) -> Tensor:
    return _expect(log_q, log_q, log_p)


def _cross_entropy(log_q: Tensor, log_p: Tensor) -> Tensor:
    return -_weigh(log_p, log_q, torch.zeros_like(log_q)).sum(-1)


def _total_variation(log_q: Tensor, log_p: Tensor) -> Tensor:
    return 0.5 * (log_p.exp() - log_q.exp()).abs().sum(-1)


def _logit_matching(log_q: Tensor, log_p: Tensor) -> Tensor:
    return 0.5 * _centre(log_q - log_p).square().mean(-1)


def _teacher_slope(log_q: Tensor, log_p: Tensor) -> Tensor:
    return -log_p.exp().expand_as(log_q)


def _reverse_kl_slope(log_q: Tensor, log_p: Tensor) -> Tensor:
    return _weigh(log_q, log_q, log_p) + log_q.exp()


def _total_variation_slope(log_q: Tensor, log_p: Tensor) -> Tensor:
    q = log_q.exp()
    return 0.5 * q * (q - log_p.exp()).sign()


def _logit_matching_slope(log_q: Tensor, log_p: Tensor) -> Tensor:
    return _centre(log_q - log_p) / log_q.shape[-1]


forward_kl = Divergence("forward_kl", _forward_kl, _teacher_slope)
"""KL(p‖q) = sum p (log p - log q): 0 where the student equals the teacher, and never below but for rounding."""

reverse_kl = Divergence("reverse_kl", _reverse_kl, _reverse_kl_slope, allows_zero=False)
"""KL(q‖p) = sum q (log q - log p). Infinite where the teacher says zero: see skewed_reverse_kl."""

cross_entropy = Divergence("cross_entropy", _cross_entropy, _teacher_slope)
"""-sum p log q, the paper's soft objective C (arXiv 1503.02531, section 2): KL(p‖q) plus the teacher's
entropy, so its gradient is forward_kl's and its value is not."""

total_variation = Divergence("total_variation", _total_variation, _total_variation_slope, temperature_power=1)
"""1/2 sum |p - q|, in [0, 1]; 1 minus it is a draft model's expected acceptance (arXiv 2211.17192)."""

logit_matching = Divergence("logit_matching", _logit_matching, _logit_matching_slope, allows_zero=False)
"""1/(2C) sum (centred log q - centred log p)^2: the squared difference of the zero-meaned logits over T,
the limit of high temperatures (arXiv 1503.02531, section 2.1, Eq. 4)."""


def _weigh(log_weight: Tensor, log_a: Tensor, log_b: Tensor) -> Tensor:
    """weight * (log_a - log_b) at each event, where an event of weight zero adds nothing.

    exp and both branches of `where` see finite numbers only, so that no gradient is 0 * inf.
    """
    none = log_weight == -torch.inf
    difference = torch.where(none, 0.0, log_a - log_b)
    return torch.where(none, 0.0, log_weight.exp() * difference)


def _expect(log_weight: Tensor, log_a: Tensor, log_b: Tensor) -> Tensor:
    return _weigh(log_weight, log_a, log_b).sum(-1)


def _log_mix(share: float, log_a: Tensor, log_b: Tensor) -> Tensor:
    """log(share a + (1 - share) b); -inf where both are zero, with a gradient of 0 there, not nan."""
    neither = (log_a == -torch.inf) & (log_b == -torch.inf)
    log_a = torch.where(neither, 0.0, log_a)
    log_mix = torch.logaddexp(log_a + math.log(share), log_b + math.log1p(-share))
    return torch.where(neither, -torch.inf, log_mix)


def _share(log_q: Tensor, log_m: Tensor) -> Tensor:
    """log(q / m), where 0 / 0 counts as 0."""
    return torch.where(log_q == -torch.inf, -torch.inf, log_q - log_m)


def _centre(x: Tensor) -> Tensor:
    return x - x.mean(-1, keepdim=True)


def _between_0_and_1(name: str, parameter: str, value: float, *, at_0: str, at_1: str | None = None) -> None:
    if not 0 < value < 1:
        instead = f"use {at_0} for {parameter} = 0" + (f" and {at_1} for {parameter} = 1." if at_1 else ".")
        raise ObjectiveError(f"{name} needs 0 < {parameter} < 1, but {parameter} is {value}; {instead}")
