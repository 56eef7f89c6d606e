"""Divergences between a student's and a teacher's distribution, one position at a time.

Every divergence maps `(log_q [..., E], log_p [..., E]) -> [...]`: log-probabilities over `E` events,
`q` the student, `p` the teacher; nothing is summed over positions here. Inputs of any float dtype are
converted to float32 (float64 stays float64), and all arithmetic is in log space.

    value = forward_kl(log_q, log_p)          # KL(p‖q), [...], in nats
    slope = forward_kl.slope(log_q, log_p)    # d value / d log_q, [..., E]

The slope gives the gradient in the student's logits `z`, where `log_q` are the events of
`log_softmax(z / T)` and `e(i)` is the event that class `i` belongs to:

    d value / d z_i = (1/T) * (slope_e(i) * q_i / q_e(i)  -  q_i * sum_e slope_e)

What this file does not know: temperatures, labels, reductions, where the teacher's log-probabilities come from.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from limbeck.errors import ObjectiveError, ShapeError
from limbeck.losses.numbers import widened

PositionFunction = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Divergence:
    """A divergence with its closed-form slope.

    Two divergences of the same functions and parameters are equal, and both are pickled by name.

    name: as in messages and results.
    value: `(log_q [..., E], log_p [..., E]) -> [...]`.
    slope: `(log_q, log_p) -> d value / d log_q [..., E]`, each event's log_q taken as independent.
    temperature_power: k, such that T^k keeps the size of the gradient when T changes.
    allows_zero: whether it stays finite where the teacher's probability is zero.
    closed_form: whether the slope is written out; one that runs autograd is never compiled.
    text: what `help` shows of this divergence.
    """

    name: str
    value: PositionFunction
    slope: PositionFunction
    temperature_power: int = 2
    allows_zero: bool = True
    closed_form: bool = True
    text: str | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.slope, _Widened):
            object.__setattr__(self, "slope", _Widened(self.slope))
        if self.text is not None:
            object.__setattr__(self, "__doc__", self.text)  # help() shows an instance's text only where it has one

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


@dataclass(frozen=True)
class _Widened:
    """`function` of its inputs in float32 or wider."""

    function: PositionFunction

    def __call__(self, log_q: Tensor, log_p: Tensor) -> Tensor:
        return self.function(widened(log_q), widened(log_p))


@dataclass(frozen=True)
class _AtShare:
    """`function(share, log_q, log_p)` at a fixed share: a closure that can be compared and pickled."""

    function: Callable[[float, Tensor, Tensor], Tensor]
    share: float

    def __call__(self, log_q: Tensor, log_p: Tensor) -> Tensor:
        return self.function(self.share, log_q, log_p)


def jensen_shannon(beta: float = 0.5) -> Divergence:
    """Generalised Jensen-Shannon divergence: beta KL(p‖m) + (1 - beta) KL(q‖m) with m = beta p + (1 - beta) q.

    Parameters
    ----------
    beta : float
        The teacher's share of the mixture, 0 < beta < 1. Small values act like forward_kl, values near 1 like
        reverse_kl; 0.5 is symmetric and at most ln 2.

    Returns
    -------
    Divergence
        Finite for every teacher, also where it gives classes a probability of zero.

    References
    ----------
    arXiv 2306.13649

    Examples
    --------
    >>> import torch
    >>> from limbeck import jensen_shannon
    >>> student, teacher = torch.tensor([0.5, 0.5]).log(), torch.tensor([0.9, 0.1]).log()
    >>> round(jensen_shannon(0.5)(student, teacher).item(), 4)
    0.1017
    """
    _between_0_and_1("jensen_shannon", "beta", beta, at_0="forward_kl", at_1="reverse_kl")
    name, value, slope = f"jensen_shannon({beta:g})", _AtShare(_jensen_shannon, beta), _jensen_shannon_slope
    return Divergence(name, value, _AtShare(slope, beta), text=jensen_shannon.__doc__)


def skewed_kl(skew: float = 0.1) -> Divergence:
    """Skew KL divergence: KL(p‖m) with m = skew p + (1 - skew) q.

    Parameters
    ----------
    skew : float
        The teacher's share of the mixture, 0 < skew < 1. Small values act like forward_kl; the value is at most
        -log(skew).

    Returns
    -------
    Divergence
        Finite for every teacher and student, also where one gives a class a probability of zero.

    References
    ----------
    arXiv 2402.03898

    Examples
    --------
    >>> import torch
    >>> from limbeck import skewed_kl
    >>> student, teacher = torch.tensor([0.5, 0.5]).log(), torch.tensor([0.9, 0.1]).log()
    >>> round(skewed_kl(0.1)(student, teacher).item(), 4)
    0.3071
    """
    _between_0_and_1("skewed_kl", "skew", skew, at_0="forward_kl")
    name, value, slope = f"skewed_kl({skew:g})", _AtShare(_skewed_kl, skew), _AtShare(_skewed_kl_slope, skew)
    return Divergence(name, value, slope, text=skewed_kl.__doc__)


def skewed_reverse_kl(skew: float = 0.1) -> Divergence:
    """Skew reverse KL divergence: KL(q‖m) with m = (1 - skew) p + skew q.

    The reverse KL for teachers that give some classes a probability of zero: it stays finite.

    Parameters
    ----------
    skew : float
        The student's share of the mixture, 0 < skew < 1. Small values act like reverse_kl; the value is at most
        -log(skew).

    Returns
    -------
    Divergence
        Finite for every teacher and student, also where one gives a class a probability of zero.

    References
    ----------
    arXiv 2402.03898

    Examples
    --------
    >>> import torch
    >>> from limbeck import skewed_reverse_kl
    >>> student, teacher = torch.tensor([0.5, 0.5]).log(), torch.tensor([0.9, 0.1]).log()
    >>> round(skewed_reverse_kl(0.1)(student, teacher).item(), 4)
    0.3653
    """
    _between_0_and_1("skewed_reverse_kl", "skew", skew, at_0="reverse_kl")
    name, value, slope = f"skewed_reverse_kl({skew:g})", _AtShare(_skewed_reverse_kl, skew), _skewed_reverse_kl_slope
    return Divergence(name, value, _AtShare(slope, skew), text=skewed_reverse_kl.__doc__)


def _jensen_shannon(beta: float, log_q: Tensor, log_p: Tensor) -> Tensor:
    log_m = _log_mix(beta, log_p, log_q)
    from_teacher = _expected_difference(log_p, log_p, log_m)
    from_student = _expected_difference(log_q, log_q, log_m)
    return beta * from_teacher + (1 - beta) * from_student


def _jensen_shannon_slope(beta: float, log_q: Tensor, log_p: Tensor) -> Tensor:
    log_m = _log_mix(beta, log_p, log_q)
    return (1 - beta) * _weighted_difference(log_q, log_q, log_m)


def _skewed_kl(skew: float, log_q: Tensor, log_p: Tensor) -> Tensor:
    return _expected_difference(log_p, log_p, _log_mix(skew, log_p, log_q))


def _skewed_kl_slope(skew: float, log_q: Tensor, log_p: Tensor) -> Tensor:
    log_m = _log_mix(skew, log_p, log_q)
    return -(log_p + math.log1p(-skew) + _log_share(log_q, log_m)).exp()


def _skewed_reverse_kl(skew: float, log_q: Tensor, log_p: Tensor) -> Tensor:
    return _expected_difference(log_q, log_q, _log_mix(skew, log_q, log_p))


def _skewed_reverse_kl_slope(skew: float, log_q: Tensor, log_p: Tensor) -> Tensor:
    log_m = _log_mix(skew, log_q, log_p)
    q = log_q.exp()
    student_share = skew * _log_share(log_q, log_m).exp()  # of m at each event, in [0, 1]
    return _weighted_difference(log_q, log_q, log_m) + q * (1 - student_share)


def _forward_kl(log_q: Tensor, log_p: Tensor) -> Tensor:
    """KL(p‖q) = sum p (log p - log q) of the teacher p and the student q, in nats.

    0 where the student equals the teacher, and never below but for rounding.

    Parameters
    ----------
    log_q, log_p : Tensor `[..., E]`
        Log-probabilities of the student and of the teacher over the same E events.

    Returns
    -------
    Tensor `[...]`
        One value per position, in float32 or wider.

    Examples
    --------
    >>> import torch
    >>> from limbeck import forward_kl
    >>> student, teacher = torch.tensor([0.5, 0.5]).log(), torch.tensor([0.9, 0.1]).log()
    >>> round(forward_kl(student, teacher).item(), 4)
    0.3681
    """
    return _expected_difference(log_p, log_p, log_q)


def _reverse_kl(log_q: Tensor, log_p: Tensor) -> Tensor:
    """KL(q‖p) = sum q (log q - log p) of the teacher p and the student q, in nats.

    Infinite where the teacher gives a class a probability of zero: use skewed_reverse_kl for such teachers.

    Parameters
    ----------
    log_q, log_p : Tensor `[..., E]`
        Log-probabilities of the student and of the teacher over the same E events.

    Returns
    -------
    Tensor `[...]`
        One value per position, in float32 or wider.

    Examples
    --------
    >>> import torch
    >>> from limbeck import reverse_kl
    >>> student, teacher = torch.tensor([0.5, 0.5]).log(), torch.tensor([0.9, 0.1]).log()
    >>> round(reverse_kl(student, teacher).item(), 4)
    0.5108
    """
    return _expected_difference(log_q, log_q, log_p)


def _cross_entropy(log_q: Tensor, log_p: Tensor) -> Tensor:
    """-sum p log q of the teacher p and the student q, in nats: the paper's soft objective C.

    KL(p‖q) plus the teacher's entropy, so its gradient is forward_kl's and its value is not.

    Parameters
    ----------
    log_q, log_p : Tensor `[..., E]`
        Log-probabilities of the student and of the teacher over the same E events.

    Returns
    -------
    Tensor `[...]`
        One value per position, in float32 or wider.

    References
    ----------
    arXiv 1503.02531, section 2

    Examples
    --------
    >>> import torch
    >>> from limbeck import cross_entropy
    >>> student, teacher = torch.tensor([0.5, 0.5]).log(), torch.tensor([0.9, 0.1]).log()
    >>> round(cross_entropy(student, teacher).item(), 4)
    0.6931
    """
    return -_weighted_difference(log_p, log_q, torch.zeros_like(log_q)).sum(-1)


def _total_variation(log_q: Tensor, log_p: Tensor) -> Tensor:
    """Total variation distance 1/2 sum |p - q| of the teacher p and the student q, in [0, 1].

    1 minus it is a draft model's expected acceptance in speculative decoding.

    Parameters
    ----------
    log_q, log_p : Tensor `[..., E]`
        Log-probabilities of the student and of the teacher over the same E events.

    Returns
    -------
    Tensor `[...]`
        One value per position, in float32 or wider.

    References
    ----------
    arXiv 2211.17192

    Examples
    --------
    >>> import torch
    >>> from limbeck import total_variation
    >>> student, teacher = torch.tensor([0.5, 0.5]).log(), torch.tensor([0.9, 0.1]).log()
    >>> round(total_variation(student, teacher).item(), 4)
    0.4
    """
    return 0.5 * (log_p.exp() - log_q.exp()).abs().sum(-1)


def _logit_matching(log_q: Tensor, log_p: Tensor) -> Tensor:
    """Half the mean squared difference of the zero-mean logits, student's and teacher's, both divided by T.

    1/(2E) sum (centred log q - centred log p)^2, the limit of forward_kl at high temperatures.

    Parameters
    ----------
    log_q, log_p : Tensor `[..., E]`
        Log-probabilities of the student and of the teacher over the same E events; log_p must be finite.

    Returns
    -------
    Tensor `[...]`
        One value per position, in float32 or wider.

    References
    ----------
    arXiv 1503.02531, section 2.1, Eq. 4

    Examples
    --------
    >>> import torch
    >>> from limbeck import logit_matching
    >>> student, teacher = torch.tensor([0.5, 0.5]).log(), torch.tensor([0.9, 0.1]).log()
    >>> round(logit_matching(student, teacher).item(), 4)
    0.6035
    """
    return 0.5 * _centre(log_q - log_p).square().mean(-1)


def _teacher_slope(log_q: Tensor, log_p: Tensor) -> Tensor:
    return -log_p.exp().expand_as(log_q)


def _reverse_kl_slope(log_q: Tensor, log_p: Tensor) -> Tensor:
    return _weighted_difference(log_q, log_q, log_p) + log_q.exp()


def _total_variation_slope(log_q: Tensor, log_p: Tensor) -> Tensor:
    q = log_q.exp()
    return 0.5 * q * (q - log_p.exp()).sign()


def _logit_matching_slope(log_q: Tensor, log_p: Tensor) -> Tensor:
    return _centre(log_q - log_p) / log_q.shape[-1]


forward_kl = Divergence("forward_kl", _forward_kl, _teacher_slope, text=_forward_kl.__doc__)
reverse_kl = Divergence("reverse_kl", _reverse_kl, _reverse_kl_slope, allows_zero=False, text=_reverse_kl.__doc__)
cross_entropy = Divergence("cross_entropy", _cross_entropy, _teacher_slope, text=_cross_entropy.__doc__)
total_variation = Divergence(
    "total_variation", _total_variation, _total_variation_slope, temperature_power=1, text=_total_variation.__doc__
)
logit_matching = Divergence(
    "logit_matching", _logit_matching, _logit_matching_slope, allows_zero=False, text=_logit_matching.__doc__
)

_BUILT_IN: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
    "forward_kl": (_forward_kl, _teacher_slope),
    "reverse_kl": (_reverse_kl, _reverse_kl_slope),
    "cross_entropy": (_cross_entropy, _teacher_slope),
    "total_variation": (_total_variation, _total_variation_slope),
    "logit_matching": (_logit_matching, _logit_matching_slope),
    "jensen_shannon": (_jensen_shannon, _jensen_shannon_slope),
    "skewed_kl": (_skewed_kl, _skewed_kl_slope),
    "skewed_reverse_kl": (_skewed_reverse_kl, _skewed_reverse_kl_slope),
}


def built_in(divergence: Divergence) -> tuple[str, float] | None:
    """(name, share) of a built-in divergence, by which a kernel selects its code; None for any other.

    share: the parameter of the divergence, 0 without one.
    """
    slope = divergence.slope
    found = [divergence.value, slope.function if isinstance(slope, _Widened) else slope]
    shares = [function.share if isinstance(function, _AtShare) else 0.0 for function in found]
    functions = [function.function if isinstance(function, _AtShare) else function for function in found]
    for name, (value, slope_function) in _BUILT_IN.items():
        if functions[0] is value and functions[1] is slope_function and shares[0] == shares[1]:
            return name, shares[0]
    return None


def _weighted_difference(log_weight: Tensor, log_a: Tensor, log_b: Tensor) -> Tensor:
    """weight * (log_a - log_b) at each event, and 0 at an event of weight zero.

    exp and both branches of `where` see finite numbers only, so that no gradient is 0 * inf.
    """
    weightless = log_weight == -torch.inf
    difference = torch.where(weightless, 0.0, log_a - log_b)
    return torch.where(weightless, 0.0, log_weight.exp() * difference)


def _expected_difference(log_weight: Tensor, log_a: Tensor, log_b: Tensor) -> Tensor:
    """sum_e weight * (log_a - log_b), `[...]`."""
    return _weighted_difference(log_weight, log_a, log_b).sum(-1)


def _log_mix(share: float, log_a: Tensor, log_b: Tensor) -> Tensor:
    """log(share a + (1 - share) b); -inf where both are zero, with a gradient of 0 there, not nan."""
    neither = (log_a == -torch.inf) & (log_b == -torch.inf)
    log_a = torch.where(neither, 0.0, log_a)
    log_mix = torch.logaddexp(log_a + math.log(share), log_b + math.log1p(-share))
    return torch.where(neither, -torch.inf, log_mix)


def _log_share(log_q: Tensor, log_m: Tensor) -> Tensor:
    """log(q / m), where 0 / 0 counts as 0."""
    return torch.where(log_q == -torch.inf, -torch.inf, log_q - log_m)


def _centre(x: Tensor) -> Tensor:
    return x - x.mean(-1, keepdim=True)


def _between_0_and_1(name: str, parameter: str, value: float, *, at_0: str, at_1: str | None = None) -> None:
    if not 0 < value < 1:
        instead = f"use {at_0} for {parameter} = 0" + (f" and {at_1} for {parameter} = 1." if at_1 else ".")
        raise ObjectiveError(f"{name} needs 0 < {parameter} < 1, but {parameter} is {value}; {instead}")
