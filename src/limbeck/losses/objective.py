"""The objective: soft_weight * T^k * divergence + hard_weight * CE(labels, student at T = 1).

The only place where positions are weighed, summed and counted. Each term has its own count, the sum of
the weights of the positions that it was taken over, and is divided by it once, over the whole global
batch: so accumulation, padding and the number of processes do not change the gradient.

What this file does not know: models, batches, optimizers, where targets and labels come from.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from limbeck.errors import ObjectiveError, ShapeError
from limbeck.losses.divergences import (
    Divergence,
    PositionFunction,
    forward_kl,
    jensen_shannon,
    skewed_kl,
    skewed_reverse_kl,
)
from limbeck.losses.numbers import NO_LABEL, tempered, widened
from limbeck.losses.targets import SoftTargets, as_targets


class Counts(NamedTuple):
    """How much each term was taken over: sums of weights, scalars."""

    soft: Tensor
    hard: Tensor


class Part(NamedTuple):
    """One term by itself, unweighted and detached: `sum / count` is its mean over positions, in nats."""

    sum: Tensor
    count: Tensor  # type: ignore[assignment]


class Loss(NamedTuple):
    """`sum / count` is the loss, differentiable; `parts` are the terms that make it, "soft" and "hard"."""

    sum: Tensor
    count: Tensor  # type: ignore[assignment]
    parts: dict[str, Part]

    @property
    def mean(self) -> Tensor:
        """sum / count; 0 where nothing was counted."""
        return self.sum / torch.where(self.count == 0, 1.0, self.count)


class _DivergenceField:
    """Takes a divergence or a plain function, and gives the divergence: so both are typed."""

    def __get__(self, objective: object | None, owner: type | None = None) -> Divergence:
        if objective is None:  # the default, which dataclass reads from the class
            return forward_kl
        divergence: Divergence = vars(objective)["divergence"]
        return divergence

    def __set__(self, objective: object, given: Divergence | PositionFunction) -> None:
        vars(objective)["divergence"] = _as_divergence(given)


@dataclass(frozen=True)
class Objective:
    """What a student is trained to do; call it on a batch of logits.

    The soft term carries T^k with k the divergence's temperature power: soft gradients fall as 1/T^k, so the
    balance of the terms stays when T changes (arXiv 1503.02531, end of section 2).

    Parameters
    ----------
    divergence : Divergence or function `(log_q [..., E], log_p [..., E]) -> [...]`
        What the soft term measures. A plain function is differentiated by autograd and takes the temperature power
        2, or its attribute `temperature_power`.
    temperature : float
        T > 0, softens teacher and student in the soft term. The student predicts at T = 1.
    soft_weight, hard_weight : float
        Weights of the two terms, relative to each other; 0 switches a term off.

    Examples
    --------
    >>> import torch
    >>> from limbeck import Objective, forward_kl
    >>> objective = Objective(forward_kl, temperature=4.0, hard_weight=0.1)
    >>> student, teacher = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 0.0]])
    >>> loss = objective(student, teacher, labels=torch.tensor([0]))
    >>> round(loss.mean.item(), 4), sorted(loss.parts)
    (0.5076, ['hard', 'soft'])
    """

    divergence: _DivergenceField = _DivergenceField()
    temperature: float = 2.0
    soft_weight: float = 1.0
    hard_weight: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.temperature < float("inf"):
            raise ObjectiveError(
                f"The temperature must be a finite number above 0, but is {self.temperature}; 1 leaves the teacher "
                "as it is, 2 to 20 soften it."
            )
        for name in ("soft_weight", "hard_weight"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ObjectiveError(f"{name} must be 0 or more, but is {getattr(self, name)}.")
        if self.soft_weight == 0 and self.hard_weight == 0:
            raise ObjectiveError(
                "soft_weight and hard_weight are both 0, so there is nothing to learn; give one of them a weight."
            )

    def __call__(
        self,
        logits: Tensor,
        targets: SoftTargets | Tensor | None = None,
        labels: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        weights: Tensor | None = None,
        counts: Counts | None = None,
    ) -> Loss:
        """The loss of the student's `logits`, `[..., C]`; leading axes are positions, n in all.

        targets: of the same n positions; logits of a teacher do too. Needed where soft_weight > 0.
        labels `[...]`: classes; -100 drops the hard term there. Needed where hard_weight > 0.
        mask `[...]` bool: the positions that count at all; the others are dropped before any arithmetic.
        weights `[...]`: of each position, in both terms and both counts; 1 by default.
        counts: of the whole global batch, where this is a part of it; its own by default. The shares
            `sum / count` of the parts then add up to the loss of the whole.
        """
        classes = logits.shape[-1]
        rows = self.align(logits.shape[:-1], classes, targets, labels, mask=mask, weights=weights)
        logits = logits.reshape(-1, classes)
        logits = logits if rows.kept is None else logits[rows.kept]
        soft, hard = self.per_position(logits, rows.targets, rows.labels)
        if rows.weights is not None:
            soft, hard = (None if term is None else term * rows.weights for term in (soft, hard))
        own = rows.counts(logits.device)
        return self.total(soft if soft is None else soft.sum(), hard if hard is None else hard.sum(), own, counts)

    def per_position(
        self, logits: Tensor, targets: SoftTargets | None, labels: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Each term at each of the n rows of `logits [n, C]`, unweighted and without T^k: `(soft [n], hard [n])`.

        None for a term that is switched off, or that has no targets or labels to be taken from; the hard
        term is 0 where the label is -100.
        """
        soft = hard = None
        logits = widened(logits)
        if self.soft_weight and targets is not None:
            divergence = targets.compared_by(self.divergence, self.temperature)
            student_log_probs = tempered(logits, self.temperature)
            soft = divergence(*targets.events(student_log_probs, self.temperature))
        if self.hard_weight and labels is not None:
            hard = F.cross_entropy(logits, labels.long(), ignore_index=NO_LABEL, reduction="none")
        return soft, hard

    @property
    def soft_scale(self) -> float:
        """soft_weight * T^k, the factor of the divergence in the loss."""
        return self.soft_weight * self.temperature**self.divergence.temperature_power

    def hard_scale(self, counts: Counts) -> Tensor:
        """The factor of the hard term's sum in the loss's sum, whose count is the soft term's where there is one."""
        return self.hard_weight * _ratio(self.count(counts), counts.hard)

    def count(self, counts: Counts) -> Tensor:
        """What the loss's sum is divided by."""
        return counts.soft if self.soft_weight else counts.hard

    def total(self, soft: Tensor | None, hard: Tensor | None, own: Counts, counts: Counts | None = None) -> Loss:
        """The loss of the two sums over positions, scalars, that were taken over `own`; None for a term left out."""
        counts = counts or own
        parts: dict[str, Part] = {}
        total = torch.zeros((), device=own.soft.device)
        if soft is not None:
            parts["soft"] = Part(soft.detach(), own.soft)
            total = total + self.soft_scale * soft
        if hard is not None:
            parts["hard"] = Part(hard.detach(), own.hard)
            total = total + self.hard_scale(counts) * hard
        return Loss(total, self.count(counts), parts)

    def align(
        self,
        positions: torch.Size,
        classes: int,
        targets: SoftTargets | Tensor | None,
        labels: Tensor | None,
        *,
        mask: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> "Rows":
        """What is compared, as rows: shapes checked against the student's, masked positions dropped."""
        n = positions.numel()
        if self.soft_weight and targets is None:
            raise ObjectiveError("soft_weight is above 0 but there are no targets; give a teacher, or soft_weight=0.")
        if self.hard_weight and labels is None:
            raise ObjectiveError("hard_weight is above 0 but there are no labels; give labels, or hard_weight=0.")
        rows = as_targets(targets) if targets is not None and self.soft_weight else None
        if rows is not None and (len(rows), rows.num_classes) != (n, classes):
            raise ShapeError(
                f"The student gave {n} positions over {classes} classes, the teacher {len(rows)} "
                f"over {rows.num_classes}; both must speak of the same positions and classes."
            )
        for name, value in (("labels", labels), ("mask", mask), ("weights", weights)):
            if value is not None and value.shape != positions:
                raise ShapeError(
                    f"{name} must have one value per position, {list(positions)}, but are {list(value.shape)}."
                )
        if isinstance(targets, Tensor) and targets.shape[:-1] != positions:
            raise ShapeError(
                f"The student's positions are {list(positions)} and the teacher's {list(targets.shape[:-1])}; both "
                "must speak of the same positions."
            )
        if labels is not None and labels.is_floating_point():
            raise ObjectiveError(f"labels must be whole numbers, but are {labels.dtype}; soft labels are targets.")
        flat = Rows(
            n,
            rows,
            None if labels is None else labels.reshape(-1),
            None if weights is None else widened(weights.reshape(-1)),
        )
        return flat if mask is None else flat.select(mask.reshape(-1).nonzero().squeeze(1))


@dataclass(frozen=True, eq=False)
class Rows:
    """The `n` positions that are compared: their targets, labels `[n]` and weights `[n]`, None where there are none.

    kept `[n]`: which of the student's flattened positions these are; None for all of them.
    """

    n: int
    targets: SoftTargets | None
    labels: Tensor | None
    weights: Tensor | None
    kept: Tensor | None = None

    def select(self, rows: Tensor) -> "Rows":
        """Some of them, by index."""
        return Rows(
            len(rows),
            None if self.targets is None else self.targets[rows],
            None if self.labels is None else self.labels[rows],
            None if self.weights is None else self.weights[rows],
            rows if self.kept is None else self.kept[rows],
        )

    def counts(self, device: torch.device) -> Counts:
        """How much each term is taken over."""
        return _counts(self.n, device, self.labels, self.weights)


def count_positions(
    positions: tuple[int, ...],
    labels: Tensor | None = None,
    mask: Tensor | None = None,
    weights: Tensor | None = None,
    *,
    device: torch.device | str = "cpu",
) -> Counts:
    """The counts that an Objective takes over a batch of this shape, before any model has seen it.

    Added over the parts of a global batch, they are the `counts` that every part is divided by.
    """
    weights = widened(weights) if weights is not None else None
    if mask is not None:
        weights = torch.where(mask.bool(), 1.0 if weights is None else weights, 0.0)
    rows = torch.Size(positions).numel()
    flat_labels = labels.reshape(-1) if labels is not None else None
    return _counts(rows, device, flat_labels, weights.reshape(-1) if weights is not None else None)


def _counts(rows: int, device: torch.device | str, labels: Tensor | None, weights: Tensor | None) -> Counts:
    soft = weights.sum() if weights is not None else torch.tensor(float(rows), device=device)
    if labels is None:
        return Counts(soft, torch.zeros_like(soft))
    labelled = (labels != NO_LABEL).to(soft.dtype)
    return Counts(soft, (labelled if weights is None else labelled * weights).sum())


def _ratio(count: Tensor, own: Tensor) -> Tensor:
    """count / own, and 0 where a term has no position at all."""
    return torch.where(own == 0, 0.0, count / torch.where(own == 0, 1.0, own))


def _as_divergence(given: Divergence | PositionFunction) -> Divergence:
    if isinstance(given, Divergence):
        return given
    makers: tuple[object, ...] = (jensen_shannon, skewed_kl, skewed_reverse_kl)
    if given in makers:
        name = getattr(given, "__name__", "")
        raise ObjectiveError(f"{name} makes a divergence: write {name}(0.1) or another share.")
    if not callable(given):
        raise ObjectiveError(f"A divergence is a function (log_q, log_p) -> [...], but got {given!r}.")
    return Divergence(
        name=getattr(given, "__name__", type(given).__name__),
        value=given,
        slope=getattr(given, "slope", None) or _AutogradSlope(given),
        temperature_power=getattr(given, "temperature_power", 2),
        allows_zero=getattr(given, "allows_zero", True),
        closed_form=hasattr(given, "slope"),
    )


@dataclass(frozen=True)
class _AutogradSlope:
    """The slope of a divergence without a closed form, by autograd."""

    value: PositionFunction

    def __call__(self, log_q: Tensor, log_p: Tensor) -> Tensor:
        with torch.enable_grad():
            log_q = log_q.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(self.value(log_q, log_p).sum(), log_q)
        return gradient
