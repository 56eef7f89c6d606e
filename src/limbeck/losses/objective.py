"""The objective, a sum of terms: soft_weight * T^k * divergence + hard_weight * CE(labels, student at T = 1) + ...

The only place where positions are weighted, summed and counted. Each term has a count, the sum of the
weights of the positions that it covers, and is divided by it once, over the whole global batch: so
accumulation, padding and the number of processes do not change the gradient.

What this file does not know: models, batches, optimizers, where targets and labels come from.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from limbeck.errors import ObjectiveError, ShapeError
from limbeck.losses.divergences import (
    Divergence,
    PositionFunction,
    forward_kl,
    jensen_shannon,
    skewed_kl,
    skewed_reverse_kl,
)
from limbeck.losses.numbers import LEAST_TEMPERATURE, MOST_TEMPERATURE, has_label, widened
from limbeck.losses.targets import SoftTargets, as_targets
from limbeck.losses.targets.gaussian import require_gaussian
from limbeck.losses.terms import HardTerm, SoftTerm, Term
from limbeck.losses.values import HardValueTerm, SoftValueTerm, ValueDivergence


class Counts(Mapping[str, Tensor]):
    """The sum of the weights of the positions that each term covers, by the term's name: scalars.

    `Counts(soft, hard)`, or `Counts(soft=..., hard=..., entropy=...)` for an objective with a third term.
    """

    def __init__(self, soft: Tensor | None = None, hard: Tensor | None = None, **others: Tensor):
        named = {"soft": soft, "hard": hard}
        self._counts = {name: count for name, count in named.items() if count is not None} | others

    def __getitem__(self, name: str) -> Tensor:
        return self._counts[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._counts)

    def __len__(self) -> int:
        return len(self._counts)

    def __repr__(self) -> str:
        return f"Counts({', '.join(f'{name}={count}' for name, count in self.items())})"

    @property
    def soft(self) -> Tensor:
        """The soft term's count."""
        return self["soft"]

    @property
    def hard(self) -> Tensor:
        """The hard term's count."""
        return self["hard"]


@dataclass(frozen=True, eq=False)
class Part:
    """One term of a loss, unweighted and detached: `sum / count` is its mean over positions, in nats."""

    sum: Tensor
    count: Tensor


class Loss(NamedTuple):
    """`sum / count` is the loss, differentiable; `parts` are its terms, by name ("soft", "hard").

    A tuple, because it may be what a model's forward returns: FSDP finds the tensors in tuples and not in dataclasses.
    """

    sum: Tensor
    count: Tensor  # type: ignore[assignment]  # hides tuple.count
    parts: dict[str, Part]

    @property
    def mean(self) -> Tensor:
        """sum / count; 0 where nothing was counted."""
        return self.sum / not_zero(self.count)

    def with_batch_term(self, name: str, weight: float, value: Tensor, count: Tensor, counts: Tensor) -> "Loss":
        """The loss with a term that has one value for a whole batch, such as a loss of the model's own.

        Added up over the parts of a global batch, the term's mean is that of its values, each with its share of the
        positions: `weight * sum(value * count) / counts`.

        value: a scalar. count, counts: the numbers of positions of this batch and of the global batch.
        """
        share = weight * value.float() * _ratio(count, counts) * self.count
        part = Part(value.detach().float() * count, count)
        return Loss(self.sum + share, self.count, self.parts | {name: part})


class _DivergenceField:
    """A field that is set to a divergence or a plain function and read as a divergence; both are typed.

    A ValueDivergence has the attributes of a Divergence that are read, but for its slope.
    """

    def __get__(self, objective: object | None, owner: type | None = None) -> Divergence:
        if objective is None:  # the default, which dataclass reads from the class
            return forward_kl
        divergence: Divergence = vars(objective)["divergence"]
        return divergence

    def __set__(self, objective: object, given: Divergence | PositionFunction | ValueDivergence) -> None:
        vars(objective)["divergence"] = given if isinstance(given, ValueDivergence) else _as_divergence(given)


@dataclass(frozen=True)
class Objective:
    """The loss that a student is trained on; call it on a batch of logits.

    The soft term is multiplied by T^k with k the divergence's temperature power: soft gradients fall as 1/T^k, so the
    balance of the terms stays when T changes (arXiv 1503.02531, end of section 2).

    Parameters
    ----------
    divergence : Divergence or function `(log_q [..., E], log_p [..., E]) -> [...]`
        The soft term's measure. A plain function is differentiated by autograd and takes the temperature power
        2, or its attribute `temperature_power`. Of numbers (regression): squared_error, gaussian_kl or
        gaussian_cross_entropy, whose `logits` are values `[..., 1 or 2]` and whose labels are numbers, nan for none.
    temperature : float
        T from 2^-16 to 2^16, softens teacher and student in the soft term. The student predicts at T = 1. Numbers are
        not softened.
    soft_weight, hard_weight : float
        Weights of the two terms, relative to each other; 0 switches a term off.
    extra_terms : sequence of Term
        Further terms, with different names.

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
    extra_terms: Sequence[Term] = ()

    def __post_init__(self) -> None:
        if not 0 < self.temperature < float("inf"):
            raise ObjectiveError(
                f"The temperature must be a finite number above 0, but is {self.temperature}; 1 leaves the teacher "
                "as it is, 2 to 20 soften it."
            )
        if not LEAST_TEMPERATURE <= self.temperature <= MOST_TEMPERATURE:
            raise ObjectiveError(
                f"The temperature must be from {LEAST_TEMPERATURE:.2g} to {MOST_TEMPERATURE:,.0f}, but is "
                f"{self.temperature:g}: beyond, float32 cannot tell softened classes apart, or overflows. 2 to 20 is "
                "usual; logit_matching is the limit of high temperatures."
            )
        for name in ("soft_weight", "hard_weight"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ObjectiveError(f"{name} must be 0 or more, but is {getattr(self, name)}.")
        object.__setattr__(self, "extra_terms", tuple(self.extra_terms))
        names = [term.name for term in self.all_terms]
        if len(set(names)) < len(names):
            raise ObjectiveError(f"Terms must have different names, but these are {', '.join(names)}; rename one.")
        if not self.terms:
            raise ObjectiveError(
                "soft_weight and hard_weight are both 0, so there is nothing to learn; set one of them above 0."
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

        targets: SoftTargets of the same n positions, or the teacher's logits. Needed where soft_weight > 0.
        labels `[...]`: classes; -100 (of numbers, nan) drops the hard term there. Needed where hard_weight > 0.
        mask `[...]` bool: the positions that count; the others are dropped before any arithmetic.
        weights `[...]`: the weight of each position, in every term and its count; 1 by default.
        counts: those of the whole global batch, where this is a part of it; by default this batch's. The shares
            `sum / count` of the parts then add up to the loss of the whole.
        """
        classes = logits.shape[-1]
        rows = self.align(logits.shape[:-1], classes, targets, labels, mask=mask, weights=weights)
        logits = logits.reshape(-1, classes)
        logits = logits if rows.indices is None else logits[rows.indices]
        values = self.per_position(logits, rows.targets, rows.labels)
        if rows.weights is not None:
            values = {name: value * rows.weights for name, value in values.items()}
        return self.total({name: value.sum() for name, value in values.items()}, rows.counts(logits.device), counts)

    @property
    def all_terms(self) -> tuple[Term, ...]:
        """The soft term, the hard term and the further ones, also those that are switched off."""
        divergence: object = self.divergence
        if isinstance(divergence, ValueDivergence):
            return (
                SoftValueTerm("soft", self.soft_weight, divergence),
                HardValueTerm("hard", self.hard_weight),
                *self.extra_terms,
            )
        soft = SoftTerm("soft", self.soft_weight, self.divergence, self.temperature)
        return (soft, HardTerm("hard", self.hard_weight), *self.extra_terms)

    @property
    def terms(self) -> tuple[Term, ...]:
        """The terms with a weight above 0. The loss is divided by the count of the first one."""
        return tuple(term for term in self.all_terms if term.weight)

    @property
    def of_values(self) -> bool:
        """Whether it compares numbers, and not classes."""
        divergence: object = self.divergence
        return isinstance(divergence, ValueDivergence)

    def of_labels(self) -> "Objective":
        """The objective of labels alone, of the same kind of task."""
        return Objective(self.divergence, self.temperature, soft_weight=0.0, hard_weight=1.0)

    @property
    def needs_targets(self) -> bool:
        """Whether a term compares the student with targets."""
        return any(term.needs_targets for term in self.terms)

    @property
    def needs_labels(self) -> bool:
        """Whether a term compares the student with labels."""
        return any(term.needs_labels for term in self.terms)

    def per_position(self, logits: Tensor, targets: SoftTargets | None, labels: Tensor | None) -> dict[str, Tensor]:
        """Each term at each of the n rows of `logits [n, C]`, unweighted and without T^k: name -> `[n]`.

        A term that is switched off, or that lacks its targets or labels, is left out; the hard term is 0 where the
        label is -100.
        """
        logits = widened(logits)
        values = {}
        for term in self.terms:
            if (term.needs_targets and targets is None) or (term.needs_labels and labels is None):
                continue
            here = term if targets is None else term.for_targets(targets)
            values[term.name] = here.value(logits, targets, labels)
        return values

    @property
    def soft_scale(self) -> float:
        """soft_weight * T^k, the factor of the divergence in the loss."""
        return self.soft_weight * self.temperature**self.divergence.temperature_power

    def factor(self, term: Term, counts: Counts) -> float | Tensor:
        """The factor of a term's sum in the loss's sum, whose count is that of the first term."""
        if not term.needs_labels and not self.terms[0].needs_labels:  # both cover every position
            return term.scale
        return term.scale * _ratio(self.count(counts), counts[term.name])

    def count(self, counts: Counts) -> Tensor:
        """The divisor of the loss's sum: the first term's count."""
        return counts[self.terms[0].name]

    def total(self, sums: Mapping[str, Tensor], counts_here: Counts, counts: Counts | None = None) -> Loss:
        """The loss from each term's sum over positions, a scalar.

        counts_here: those of the positions that were summed. counts: those of the global batch; counts_here by default.
        """
        counts = counts_here if counts is None else counts
        self.require_counts(counts)
        parts: dict[str, Part] = {}
        total = torch.zeros((), device=self.count(counts_here).device)
        for term in self.terms:
            parts[term.name] = Part(sums[term.name].detach(), counts_here[term.name])
            total = total + self.factor(term, counts) * sums[term.name]
        return Loss(total, self.count(counts), parts)

    def require_counts(self, counts: Counts) -> None:
        """Raises ObjectiveError where a term is missing from the counts."""
        missing = [term.name for term in self.terms if term.name not in counts]
        if missing:
            raise ObjectiveError(
                f"The counts have no {' and no '.join(missing)} but {', '.join(counts) or 'nothing'}; pass one count "
                "per term, such as count_positions(..., terms=objective.all_terms) does."
            )

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
        """The rows to compare: shapes checked against the student's, masked positions dropped."""
        n = positions.numel()
        for term in self.terms:
            lacks = "targets" if term.needs_targets and targets is None else ""
            lacks = "labels" if term.needs_labels and labels is None else lacks
            if lacks:
                source = "a teacher" if lacks == "targets" else "labels"
                raise ObjectiveError(
                    f"{term.name}_weight is above 0 but there are no {lacks}; pass {source}, or {term.name}_weight=0."
                    if term.name in ("soft", "hard")
                    else f"The term {term.name} needs {lacks} but there are none; pass {source}, or remove the term."
                )
        rows = as_targets(targets) if targets is not None and self.needs_targets else None
        if rows is not None and self.of_values:
            if len(require_gaussian(rows)) != n:
                raise ShapeError(f"The student gave {n} numbers and the teacher {len(rows)}; both must give the same.")
        elif rows is not None and (len(rows), rows.num_classes) != (n, classes):
            raise ShapeError(
                f"The student gave {n} positions over {classes} classes, the teacher {len(rows)} "
                f"over {rows.num_classes}; both must cover the same positions and classes."
            )
        for name, value in (("labels", labels), ("mask", mask), ("weights", weights)):
            if value is not None and value.shape != positions:
                raise ShapeError(
                    f"{name} must have one value per position, {list(positions)}, but are {list(value.shape)}."
                )
        if isinstance(targets, Tensor) and targets.shape[:-1] != positions:
            raise ShapeError(
                f"The student's positions are {list(positions)} and the teacher's {list(targets.shape[:-1])}; both "
                "must cover the same positions."
            )
        if labels is not None and self.of_values:
            labels = widened(labels)
        elif labels is not None and labels.is_floating_point():
            raise ObjectiveError(f"labels must be whole numbers, but are {labels.dtype}; soft labels are targets.")
        flat = Rows(
            n,
            rows,
            None if labels is None else labels.reshape(-1),
            None if weights is None else widened(weights.reshape(-1)),
            self.all_terms,
        )
        return flat if mask is None else flat.select(mask.reshape(-1).nonzero().squeeze(1))


@dataclass(frozen=True, eq=False)
class Rows:
    """The `n` positions that are compared: their targets, labels `[n]` and weights `[n]`, None where there are none.

    terms: the terms whose counts `counts` gives.
    indices `[n]`: which of the student's flattened positions these are; None for all of them.
    """

    n: int
    targets: SoftTargets | None
    labels: Tensor | None
    weights: Tensor | None
    terms: tuple[Term, ...]
    indices: Tensor | None = None

    def select(self, rows: Tensor) -> "Rows":
        """The positions at these indices `[m]`."""
        return Rows(
            len(rows),
            None if self.targets is None else self.targets[rows],
            None if self.labels is None else self.labels[rows],
            None if self.weights is None else self.weights[rows],
            self.terms,
            rows if self.indices is None else self.indices[rows],
        )

    def counts(self, device: torch.device) -> Counts:
        """The count of each term over these positions."""
        return _counts(self.n, device, self.labels, self.weights, self.terms)


def count_positions(
    positions: tuple[int, ...],
    labels: Tensor | None = None,
    mask: Tensor | None = None,
    weights: Tensor | None = None,
    *,
    device: torch.device | str = "cpu",
    terms: Sequence[Term] | None = None,
) -> Counts:
    """The counts of an Objective over a batch of this shape, before any model has seen it.

    positions: the shape of the batch. labels, mask, weights: of this shape.
    terms: an objective's `all_terms`; by default the soft and the hard one.

    Summed over the parts of a global batch, they are the `counts` that every part is divided by.
    """
    weights = widened(weights) if weights is not None else None
    if mask is not None:
        weights = torch.where(mask.bool(), 1.0 if weights is None else weights, 0.0)
    rows = torch.Size(positions).numel()
    flat_labels = labels.reshape(-1) if labels is not None else None
    flat_weights = weights.reshape(-1) if weights is not None else None
    return _counts(rows, device, flat_labels, flat_weights, Objective().all_terms if terms is None else terms)


def _counts(
    rows: int, device: torch.device | str, labels: Tensor | None, weights: Tensor | None, terms: Sequence[Term]
) -> Counts:
    # torch.tensor would wait for the device
    every = weights.sum() if weights is not None else torch.full((), float(rows), device=device)
    if labels is None:
        with_label = torch.zeros_like(every)
    else:
        labelled = has_label(labels).to(every.dtype)
        with_label = (labelled if weights is None else labelled * weights).sum()
    return Counts(**{term.name: with_label if term.needs_labels else every for term in terms})


def not_zero(count: Tensor) -> Tensor:
    """The count, and 1 where it is 0. torch.where would copy the number to the device, and wait for that."""
    return count.masked_fill(count == 0, 1.0)


def _ratio(count: Tensor, divisor: Tensor) -> Tensor:
    """count / divisor, and 0 where the divisor, a term's count, is 0."""
    return (count / not_zero(divisor)).masked_fill(divisor == 0, 0.0)


def _as_divergence(given: Divergence | PositionFunction) -> Divergence:
    if isinstance(given, Divergence):
        return given
    with_parameter: tuple[object, ...] = (jensen_shannon, skewed_kl, skewed_reverse_kl)
    if given in with_parameter:
        name = getattr(given, "__name__", "")
        raise ObjectiveError(f"{name} needs its parameter: write {name}(0.1) or another share.")
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
