"""Targets over the most probable classes and one tail event for all the others."""

import math
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from limbeck.errors import ObjectiveError, ShapeError, TargetError
from limbeck.losses.divergences import Divergence, logit_matching
from limbeck.losses.numbers import widened
from limbeck.losses.targets.protocol import TensorRows, require_positive

MASKED = -1000.0
"""A logit this far below the largest marks a masked class, whether by -1e4, a dtype's lowest number or -inf: its
probability is zero at any temperature, and it would drag down the mean of a tail."""


@dataclass(frozen=True, eq=False)
class SparseTargets(TensorRows):
    """The teacher's `K` most probable classes and one tail event for all the others (E = K + 1).

    ids `[n, K]`: classes, each at most once per row.
    log_probs `[n, K]`: their log-probabilities in the teacher's full softmax, never renormalised.
    classes: C. With K = C there is no tail event, and the targets equal the dense ones.
    tail `[n]`: log of the mass of the other classes; by default 1 minus the mass of `log_probs`.
    tail_mean `[n]`: the tail's mean log-probability. With it the targets can be read at higher
        temperatures: with beta = (made at) / T, m the tail's mass, M its number of classes, mu its mean,
        log S(beta) ~ log M + mu beta + (log m - log M - mu) beta^2, exact at beta = 1 and to first
        order as T grows.
    tail_classes `[n]`: M, where some classes of the tail have a probability of zero (masked ones) and are not
        counted in the mean; C - K by default.
    made_at: the temperature of the softmax that gave log_probs and tail.

    The student's tail is the rest of its full softmax, so at the temperature made_at, for every divergence but
    logit matching, the value is a lower bound of the dense one (data processing inequality).
    """

    ids: Tensor
    log_probs: Tensor
    classes: int
    tail: Tensor | None = None
    tail_mean: Tensor | None = None
    made_at: float = 1.0
    tail_classes: Tensor | None = None
    compilable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.ids.ndim != 2 or self.ids.shape != self.log_probs.shape:
            raise ShapeError(
                "SparseTargets need ids [n, K] and log_probs [n, K], but got "
                f"{list(self.ids.shape)} and {list(self.log_probs.shape)}."
            )
        if not 1 <= self.ids.shape[1] <= self.classes:
            raise ShapeError(f"SparseTargets keep 1 to {self.classes} classes a row, but K is {self.ids.shape[1]}.")
        for name in ("tail", "tail_mean", "tail_classes"):
            value = getattr(self, name)
            if value is not None and value.shape != self.ids.shape[:1]:
                raise ShapeError(f"{name} has one value per row, [{len(self.ids)}], but is {list(value.shape)}.")

    @classmethod
    def from_logits(cls, logits: Tensor, k: int, temperature: float = 1.0) -> Self:
        """The `k` most probable classes of `log_softmax(logits / temperature)`, with their tail.

        logits: `[n, C]`. Ties at the last place are broken arbitrarily.
        """
        require_positive(temperature)
        v = widened(logits) * (1 / temperature)
        classes = v.shape[-1]
        if not 1 <= k <= classes:
            raise ShapeError(f"k must be between 1 and the {classes} classes, but is {k}.")
        top, ids = _largest(v, k)
        v, top = v - top[..., :1], top - top[..., :1]  # float32 is finest near 0
        if k == classes:
            return cls(ids, top.log_softmax(-1), classes, made_at=temperature)
        masked = v.numel() > 0 and not bool(v.amin() > MASKED)  # nan too
        total = v.scatter_(-1, ids, 0.0).sum(-1)
        size = torch.full_like(total, classes - k, dtype=torch.long)
        others = v.scatter_(-1, ids, -torch.inf)
        if masked:
            none = others <= MASKED
            total, size = others.masked_fill(none, 0.0).sum(-1), classes - none.sum(-1)
        rest = others.logsumexp(-1)
        whole = torch.logaddexp(top.logsumexp(-1), rest)
        tail_mean = (total - size * whole) / size.clamp(min=1)
        return cls(ids, top - whole.unsqueeze(-1), classes, rest - whole, tail_mean, temperature, size)

    @property
    def num_classes(self) -> int:
        return self.classes

    @property
    def complete(self) -> bool:
        """Whether K = C: there is no tail."""
        return self.ids.shape[1] == self.classes

    def all_log_probs(self, temperature: float) -> Tensor:
        """`[n, C]` where K = C; TargetError where a tail stands for several classes."""
        if not self.complete:
            raise TargetError(
                f"These sparse targets keep {self.ids.shape[1]} of {self.classes} classes, so the probabilities of all "
                "classes are not known; use dense or hidden targets."
            )
        log_p = self._log_p(temperature)
        return torch.empty_like(log_p).scatter_(-1, self.ids, log_p)

    def events(self, student_log_probs: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """The K classes, then the tail; the student's tail is a logsumexp, never log(1 - sum)."""
        log_q = student_log_probs.gather(-1, self.ids)
        log_p = self._log_p(temperature)
        if self.complete:
            return log_q, log_p
        others = student_log_probs.scatter(-1, self.ids, -torch.inf)
        empty = others.detach().amax(-1, keepdim=True) == -torch.inf  # where a logsumexp has no gradient
        tail = others.masked_fill(empty, 0.0).logsumexp(-1, keepdim=True).masked_fill(empty, -torch.inf)
        return torch.cat([log_q, tail], -1), log_p

    def compared_by(self, divergence: Divergence, temperature: float) -> Divergence:
        """Refuses logit matching over a tail, and temperatures that the tail cannot be read at."""
        if divergence == logit_matching and not self.complete:
            raise ObjectiveError(
                f"logit_matching needs every class, but these targets keep {self.ids.shape[1]} of {self.classes}; "
                "use dense targets or another divergence."
            )
        if temperature != self.made_at and not self.complete:
            if self.tail_mean is None:
                raise ObjectiveError(
                    f"These sparse targets hold the teacher at temperature {self.made_at:g} and cannot be read at "
                    f"{temperature:g}: make them at {temperature:g}, or keep tail_mean."
                )
            if temperature < self.made_at:
                raise ObjectiveError(
                    f"The tail of sparse targets made at temperature {self.made_at:g} cannot be sharpened to "
                    f"{temperature:g}; use a temperature of {self.made_at:g} or more, or dense targets."
                )
        return divergence

    def spread(self, slope: Tensor, student_log_probs: Tensor, log_q: Tensor) -> Tensor:
        """The tail's slope is divided among its classes in proportion to their probability."""
        k = self.ids.shape[1]
        if k == self.classes:
            return torch.empty_like(student_log_probs).scatter_(-1, self.ids, slope)
        tail = log_q[:, k:].masked_fill(
            log_q[:, k:] == -torch.inf, 0.0
        )  # an empty tail has no classes to give a slope to
        return ((student_log_probs - tail).exp() * slope[:, k:]).scatter_(-1, self.ids, slope[:, :k])

    def bad_rows(self, divergence: Divergence) -> Tensor:
        """Rows with nan or +inf, with an id outside the classes or twice, or with a mass that is not 1."""
        log_p = self._log_p(self.made_at)
        ordered = self.ids.sort(-1).values
        bad = (ordered[:, 0] < 0) | (ordered[:, -1] >= self.classes) | (ordered.diff(dim=-1) == 0).any(-1)
        good = log_p.logsumexp(-1).abs() < 1e-2  # 8-bit log-probabilities miss 1 a little; nan fails too
        if self.tail_mean is not None:
            good &= self.tail_mean.abs() < torch.inf
        bad |= ~good
        if not divergence.allows_zero:
            bad |= log_p.amin(-1) == -torch.inf
        return bad

    def _log_p(self, temperature: float) -> Tensor:
        log_probs = widened(self.log_probs)
        beta = self.made_at / temperature
        if self.complete:
            return log_probs if beta == 1 else (log_probs * beta).log_softmax(-1)
        tail = self.tail
        if tail is None:  # the rest of 1; a sum that rounds up to 1 leaves none
            tail = torch.log1p(-log_probs.exp().sum(-1).clamp(max=1.0))
        tail = widened(tail)
        if beta != 1:
            assert self.tail_mean is not None  # compared_by refuses it before
            size = torch.full_like(tail, self.classes - self.ids.shape[1])
            log_m = (size if self.tail_classes is None else self.tail_classes.to(size)).log()
            mean = widened(self.tail_mean)
            tempered = log_m + mean * beta + (tail - log_m - mean) * beta**2
            tail = torch.where(tail == -torch.inf, tail, tempered)  # an empty tail stays empty
        if beta == 1:
            return torch.cat([log_probs, tail.unsqueeze(-1)], -1)
        return torch.cat([log_probs * beta, tail.unsqueeze(-1)], -1).log_softmax(-1)


def _largest(v: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """`v.topk(k)`, faster for many classes: only the k blocks with the largest maxima can hold the top k."""
    classes = v.shape[-1]
    width = math.isqrt(classes // k)
    if width < 4:
        return v.topk(k, -1)
    blocks = classes // width  # block b: the classes b, b + blocks, b + 2 blocks, ...
    in_blocks = v[..., : blocks * width].reshape(*v.shape[:-1], width, blocks)
    chosen = in_blocks.amax(-2).topk(k, -1, sorted=False).indices
    members = chosen.unsqueeze(-2) + torch.arange(0, blocks * width, blocks, device=v.device).unsqueeze(-1)
    beyond = torch.arange(blocks * width, classes, device=v.device).expand(*v.shape[:-1], -1)  # in no block
    ids = torch.cat([members.flatten(-2), beyond], -1)
    top, places = v.gather(-1, ids).topk(k, -1)
    return top, ids.gather(-1, places)
