"""Soft targets: what a teacher said about `n` positions over `C` classes.

Whatever its form, a SoftTargets answers one question: which two log-distributions are compared?

    log_q, log_p = targets.events(student_log_probs, temperature)    # [n, E] each

`student_log_probs` is `log_softmax(z / T)`, `[n, C]`; an event is one class, or one that stands for
many (the tail). What this file does not know: which divergence compares them, labels, reductions,
where the targets come from.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol, Self, runtime_checkable

import torch
from torch import Tensor
from torch.nn import functional as F

from limbeck.errors import ObjectiveError, ShapeError, TargetError
from limbeck.losses.divergences import Divergence, cross_entropy, forward_kl, logit_matching
from limbeck.losses.numbers import tempered, widened

MASKED = -1000.0
"""A logit so far below the largest is a class that was masked, by -1e4 or a dtype's least number as well as by -inf:
it has no probability at any temperature, and would drag down the mean of a tail."""


REQUIRED = ("__len__", "__getitem__", "num_classes", "to", "events", "compared_by", "bad_rows")
"""What a kind of a user's own must have. Without `complete` (and then `all_log_probs`) the student is not compared with
it class by class in logs; without `spread` its gradient comes back through autograd."""


@runtime_checkable
class SoftTargets(Protocol):
    """What a teacher said about `len(targets)` positions over `num_classes` classes."""

    @property
    def num_classes(self) -> int: ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Any) -> "SoftTargets":
        """The targets of some rows: a slice, an index tensor or a boolean mask."""
        ...

    def to(self, device: torch.device | str) -> "SoftTargets": ...

    def events(self, student_log_probs: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """`(log_q, log_p)`, `[n, E]` each: the student's and the teacher's log-probabilities per event."""
        ...

    @property
    def complete(self) -> bool:
        """Whether every class is an event of its own, so that `all_log_probs` are known without a student."""
        ...

    def all_log_probs(self, temperature: float) -> Tensor:
        """The teacher's `[n, C]` at this temperature; TargetError where the targets are not complete."""
        ...

    def spread(self, slope: Tensor, student_log_probs: Tensor, log_q: Tensor) -> Tensor:
        """From events to classes: `slope [n, E]` = d value / d log_q in, d value / d student_log_probs `[n, C]` out.

        student_log_probs `[n, C]` and log_q `[n, E]`: what `events` was given, and what it gave.
        """
        ...

    def compared_by(self, divergence: Divergence, temperature: float) -> Divergence:
        """The divergence to evaluate on these events; ObjectiveError where it would be wrong."""
        ...

    def bad_rows(self, divergence: Divergence) -> Tensor:
        """`[n]` bool, on the targets' device: rows that are no distribution, or that `divergence` cannot use."""
        ...


def as_targets(said: Any) -> SoftTargets:
    """A teacher's words as SoftTargets: a tensor `[..., C]` of logits becomes DenseTargets `[n, C]`."""
    if isinstance(said, Tensor):
        return DenseTargets(said.reshape(-1, said.shape[-1]))
    if all(hasattr(said, name) for name in REQUIRED):
        targets: SoftTargets = said
        return targets
    raise TargetError(
        f"A teacher must return logits (a tensor [n, C]) or SoftTargets, but it returned {type(said).__name__}."
    )


def is_complete(targets: Any) -> bool:
    """Whether targets speak of every class without a student; a kind of a user's own that does not say so does not."""
    return bool(getattr(targets, "complete", False))


def concatenate(targets: Sequence[SoftTargets]) -> SoftTargets:
    """Targets of one kind, made alike, one after the other: the rows of the first, then of the second, ..."""
    if not targets:
        raise TargetError("There are no targets to concatenate; give one or more.")
    first, unlike = targets[0], {repr(_kind(other)) for other in targets}
    if len(unlike) > 1:
        raise TargetError(f"Only targets made alike can be concatenated, but got {' and '.join(sorted(unlike))}.")
    if isinstance(first, MixedTargets):
        each = zip(*(other.members for other in targets), strict=True)  # type: ignore[attr-defined]
        return replace(first, members=[concatenate(member) for member in each])
    names = [name for name, _ in first._tensors()]  # type: ignore[attr-defined]
    joined = {name: torch.cat([getattr(other, name) for other in targets]) for name in names}
    return replace(first, **joined)  # type: ignore[type-var]


def _kind(targets: Any) -> list[Any]:
    """All that is not rows: the class and its settings, and which tensors there are."""
    settings = {f.name: getattr(targets, f.name) for f in fields(targets)}
    kept = {k: "rows" if isinstance(v, Tensor) else v for k, v in settings.items()}
    if isinstance(targets, MixedTargets):
        kept["members"] = [_kind(member) for member in targets.members]
    return [type(targets).__name__, kept]


class _Rows:
    """Rows of a dataclass of tensors: slicing, moving and counting, for every kind of targets."""

    def __len__(self) -> int:
        return len(self._tensors()[0][1])

    def __getitem__(self, rows: Any) -> Self:
        return self._map(lambda tensor: tensor[rows])

    def to(self, device: torch.device | str) -> Self:
        """The same targets on another device."""
        return self._map(lambda tensor: tensor.to(device))

    def _map(self, change: Any) -> Self:
        return replace(self, **{name: change(tensor) for name, tensor in self._tensors()})  # type: ignore[type-var]

    def _tensors(self) -> list[tuple[str, Tensor]]:
        pairs = ((f.name, getattr(self, f.name)) for f in fields(self))  # type: ignore[arg-type]
        return [(name, value) for name, value in pairs if isinstance(value, Tensor)]


class _EveryClass:
    """Targets whose events are the classes themselves; a kind adds `all_log_probs`."""

    @property
    def complete(self) -> bool:
        """Every class is an event."""
        return True

    def events(self: SoftTargets, student_log_probs: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """All classes: the teacher's log-probabilities beside the student's, as they are."""
        return student_log_probs, self.all_log_probs(temperature)

    def compared_by(self, divergence: Divergence, temperature: float) -> Divergence:
        """Every divergence applies as it is."""
        return divergence

    def spread(self, slope: Tensor, student_log_probs: Tensor, log_q: Tensor) -> Tensor:
        """Every class is an event."""
        return slope


@dataclass(frozen=True, eq=False)
class DenseTargets(_EveryClass, _Rows):
    """Logits `[n, C]` over all classes (E = C). Log-probabilities are logits too; probabilities are not."""

    logits: Tensor

    def __post_init__(self) -> None:
        if self.logits.ndim != 2:
            raise ShapeError(f"DenseTargets hold logits [n, C], but got the shape {list(self.logits.shape)}.")

    @classmethod
    def from_probs(cls, probs: Tensor) -> Self:
        """From probabilities `[n, C]`, as `predict_proba` gives them; a zero becomes -inf.

        As logits, they are normalised where they are used, should a row not sum to 1.
        """
        return cls(probs.log())

    @property
    def num_classes(self) -> int:
        return self.logits.shape[1]

    def all_log_probs(self, temperature: float) -> Tensor:
        """`log_softmax(v / T)` `[n, C]`."""
        return tempered(self.logits, temperature)

    def bad_rows(self, divergence: Divergence) -> Tensor:
        """Rows with nan, +inf or only -inf; with any -inf, where the divergence is infinite there."""
        bad = ~self.logits.amax(-1).isfinite()  # amax passes nan on
        if not divergence.allows_zero:
            bad |= self.logits.amin(-1) == -torch.inf
        return bad


@dataclass(frozen=True, eq=False, repr=False)
class Head:
    """An output layer: `z = hidden @ weight.T + bias`, times `logit_scale`, then `softcap * tanh(z / softcap)`.

    weight `[C, H]`; bias `[C]` or None. logit_scale: as in Cohere's models, Granite's (1 / logits_scaling) and tied
    T5's (d_model^-0.5). softcap: as in Gemma 2's (final_logit_softcapping); None for none.
    """

    weight: Tensor
    bias: Tensor | None = None
    logit_scale: float = 1.0
    softcap: float | None = None

    def __post_init__(self) -> None:
        if self.weight.ndim != 2:
            raise ShapeError(f"An output layer's weight is [C, H], but got the shape {list(self.weight.shape)}.")
        if self.bias is not None and self.bias.shape != self.weight.shape[:1]:
            raise ShapeError(
                f"The bias of an output layer [C, H] = {list(self.weight.shape)} is [{len(self.weight)}], but got the "
                f"shape {list(self.bias.shape)}."
            )
        if not math.isfinite(self.logit_scale) or self.logit_scale == 0:
            raise ObjectiveError(f"logit_scale is a finite number other than 0, but is {self.logit_scale}.")
        if self.softcap is not None and not 0 < self.softcap < math.inf:
            raise ObjectiveError(f"softcap is a number above 0, or None for no cap, but is {self.softcap}.")

    def __repr__(self) -> str:
        classes, width = self.weight.shape
        return f"Head([{classes}, {width}] {self.weight.dtype} at {id(self.weight):#x})"

    def __call__(self, hidden: Tensor) -> Tensor:
        """Logits `[..., C]` of hidden states `[..., H]`: the matmul in their dtype, all after it in float32."""
        return self.bounded(F.linear(hidden, self.weight, self.bias))

    def bounded(self, logits: Tensor) -> Tensor:
        """Scale and soft cap, in float32, of what the matmul gave."""
        return bounded(logits, self.logit_scale, self.softcap)

    def first(self, classes: int) -> "Head":
        """The layer of the first `classes` alone; a padded vocabulary has more than are meant."""
        if classes > len(self.weight):
            raise ShapeError(f"The output layer has {len(self.weight)} classes, fewer than the {classes} asked for.")
        bias = None if self.bias is None else self.bias[:classes]
        return replace(self, weight=self.weight[:classes], bias=bias) if classes < len(self.weight) else self

    def to(self, where: torch.device | str | torch.dtype) -> "Head":
        """The same layer on another device, or in another dtype."""
        return replace(self, weight=self.weight.to(where), bias=None if self.bias is None else self.bias.to(where))


@dataclass(frozen=True, eq=False)
class HiddenTargets(_EveryClass, _Rows):
    """The teacher's last hidden states `[n, H]` and its output layer: every class at every temperature (E = C).

    Lossless, and small: where `linear_divergence` uses them, the logits of a few rows at a time are made and thrown
    away. Elsewhere `logits` are made as a whole. States kept in another dtype are cast to the layer's first.
    """

    hidden: Tensor
    head: Head

    def __post_init__(self) -> None:
        if self.hidden.ndim != 2:
            raise ShapeError(f"HiddenTargets hold hidden states [n, H], but got the shape {list(self.hidden.shape)}.")
        if self.hidden.shape[1] != self.head.weight.shape[1]:
            raise ShapeError(
                f"The teacher's hidden states are {list(self.hidden.shape)} and its output layer is [C, H] = "
                f"{list(self.head.weight.shape)}; H must be the same, so give the layer that reads these states."
            )

    @property
    def num_classes(self) -> int:
        return len(self.head.weight)

    @property
    def logits(self) -> Tensor:
        """`[n, C]`, made anew at each call."""
        with torch.no_grad():
            return self.head(self.hidden.to(self.head.weight.dtype))

    def to(self, where: torch.device | str | torch.dtype) -> Self:
        """The same targets, output layer included, on another device, or in another dtype."""
        return replace(self, hidden=self.hidden.to(where), head=self.head.to(where))

    def all_log_probs(self, temperature: float) -> Tensor:
        """`log_softmax(v / T)` `[n, C]`."""
        return tempered(self.logits, temperature)

    def bad_rows(self, divergence: Divergence) -> Tensor:
        """Rows whose hidden states are not all finite; an output layer that is not is seen in the loss."""
        return ~self.hidden.isfinite().all(-1)


@dataclass(frozen=True, eq=False)
class SparseTargets(_Rows):
    """The teacher's `K` most probable classes and one tail event for all the others (E = K + 1).

    ids `[n, K]`: classes, none twice in a row.
    log_probs `[n, K]`: their log-probabilities in the teacher's full softmax, never renormalised.
    classes: C. With K = C there is no tail event, and the targets equal the dense ones.
    tail `[n]`: log of the mass of the other classes; by default what `log_probs` leave of 1.
    tail_mean `[n]`: the tail's mean log-probability. With it the targets can be read at higher
        temperatures: with beta = (made at) / T, m the tail's mass, M its number of classes, mu its mean,
        log S(beta) ~ log M + mu beta + (log m - log M - mu) beta^2, exact at beta = 1 and to first
        order as T grows.
    tail_classes `[n]`: M, where some classes of the tail have a probability of zero (masked ones) and are not
        counted in the mean; C - K by default.
    made_at: the temperature of the softmax that log_probs and tail come from.

    The student's tail is what its full softmax leaves, so at the temperature made_at, for every divergence but
    logit matching, the value is a lower bound of the dense one (data processing inequality).
    """

    ids: Tensor
    log_probs: Tensor
    classes: int
    tail: Tensor | None = None
    tail_mean: Tensor | None = None
    made_at: float = 1.0
    tail_classes: Tensor | None = None

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

        logits: `[n, C]`. Of classes that are equal at the last place, any are kept.
        """
        _require_positive(temperature)
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
        kept = student_log_probs.gather(-1, self.ids)
        log_p = self._log_p(temperature)
        if self.complete:
            return kept, log_p
        others = student_log_probs.scatter(-1, self.ids, -torch.inf)
        empty = others.detach().amax(-1, keepdim=True) == -torch.inf  # where a logsumexp has no gradient
        tail = others.masked_fill(empty, 0.0).logsumexp(-1, keepdim=True).masked_fill(empty, -torch.inf)
        return torch.cat([kept, tail], -1), log_p

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
        """The tail's slope goes to its classes, each by its share of the tail."""
        k = self.ids.shape[1]
        if k == self.classes:
            return torch.empty_like(student_log_probs).scatter_(-1, self.ids, slope)
        tail = log_q[:, k:].masked_fill(log_q[:, k:] == -torch.inf, 0.0)  # an empty tail has no share to give
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
        if tail is None:  # what is left of 1; a sum rounded up to 1 leaves nothing
            tail = torch.log1p(-log_probs.exp().sum(-1).clamp(max=1.0))
        tail = widened(tail)
        if beta != 1:
            assert self.tail_mean is not None  # compared_by refuses it before
            size = torch.full_like(tail, self.classes - self.ids.shape[1])
            log_m = (size if self.tail_classes is None else self.tail_classes.to(size)).log()
            mean = widened(self.tail_mean)
            tempered = log_m + mean * beta + (tail - log_m - mean) * beta**2
            tail = torch.where(tail == -torch.inf, tail, tempered)  # nothing stays nothing
        if beta == 1:
            return torch.cat([log_probs, tail.unsqueeze(-1)], -1)
        return torch.cat([log_probs * beta, tail.unsqueeze(-1)], -1).log_softmax(-1)


@dataclass(frozen=True, eq=False)
class SampledTargets(_Rows):
    """Classes drawn from a proposal r, with importance weights: an unbiased view of the teacher's gradient.

    ids `[n, K]`: classes, as drawn, repeats and all.
    weights `[n, K]`: p_c / (K r_c), never renormalised (arXiv 2503.16870).
    classes: C. made_at: the temperature of the p that was sampled.

    These are no partition into events. Only cross_entropy and forward_kl accept them, at the temperature
    they were drawn for; for both, the value is the cross-entropy (forward KL up to the teacher's entropy,
    which samples do not tell) and its expected gradient is the dense one's.
    """

    ids: Tensor
    weights: Tensor
    classes: int
    made_at: float = 1.0

    def __post_init__(self) -> None:
        if self.ids.ndim != 2 or self.ids.shape != self.weights.shape:
            raise ShapeError(
                "SampledTargets need ids [n, K] and weights [n, K], but got "
                f"{list(self.ids.shape)} and {list(self.weights.shape)}."
            )

    @classmethod
    def draw(cls, logits: Tensor, k: int, temperature: float = 1.0, generator: torch.Generator | None = None) -> Self:
        """`k` classes a row, drawn with replacement from the teacher's own softmax at `temperature`."""
        _require_positive(temperature)
        if k < 1:
            raise ShapeError(f"At least one class is drawn per row, but k is {k}.")
        probs = tempered(logits, temperature).exp()
        ids = torch.multinomial(probs, k, replacement=True, generator=generator)
        return cls(ids, torch.full_like(ids, 1 / k, dtype=probs.dtype), probs.shape[-1], temperature)

    @property
    def num_classes(self) -> int:
        return self.classes

    @property
    def complete(self) -> bool:
        """Samples never list every class with its probability."""
        return False

    def all_log_probs(self, temperature: float) -> Tensor:
        """TargetError: samples do not tell the probabilities of classes."""
        raise TargetError("Sampled targets do not tell the probabilities of all classes; use dense or hidden targets.")

    def events(self, student_log_probs: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """The drawn classes with log-weights in the place of log-probabilities."""
        return student_log_probs.gather(-1, self.ids), widened(self.weights).log()

    def compared_by(self, divergence: Divergence, temperature: float) -> Divergence:
        """cross_entropy for itself and for forward_kl; ObjectiveError for all else."""
        if divergence not in (forward_kl, cross_entropy):
            raise ObjectiveError(
                f"Sampled targets estimate cross_entropy and forward_kl only, not {divergence.name}; "
                "use one of those, or dense or sparse targets."
            )
        if temperature != self.made_at:
            raise ObjectiveError(
                f"These samples were drawn at temperature {self.made_at:g} and hold for no other, but the objective's "
                f"is {temperature:g}; draw them at {temperature:g}."
            )
        return cross_entropy

    def spread(self, slope: Tensor, student_log_probs: Tensor, log_q: Tensor) -> Tensor:
        """Each draw's slope goes to its class; a class drawn twice gets both."""
        return torch.zeros_like(student_log_probs).scatter_add_(-1, self.ids, slope)

    def bad_rows(self, divergence: Divergence) -> Tensor:
        """Rows with an id outside the classes, or a weight that is negative or not finite."""
        bad = ((self.ids < 0) | (self.ids >= self.classes)).any(-1)
        return bad | ~((self.weights >= 0) & self.weights.isfinite()).all(-1)


@dataclass(frozen=True, eq=False)
class MixedTargets(_EveryClass):
    """An ensemble's targets, mixed where they are used.

    members: targets over all classes, of the same n and C.
    mean: "arithmetic", sum_k w_k p_k, or "geometric", the normalised product of p_k^w_k.
    weights: one per member, relative to each other; equal by default.

    Each member is softened first: the arithmetic mean is that of softmax(v_k / T), which is not
    softmax(mean(v) / T); that is what the geometric mean is (arXiv 1503.02531, sections 4 and 5.3).
    """

    members: Sequence[SoftTargets]
    mean: str = "arithmetic"
    weights: Sequence[float] | None = None

    def __post_init__(self) -> None:
        if not self.members:
            raise TargetError("MixedTargets need at least one member, but got none.")
        object.__setattr__(self, "members", [as_targets(member) for member in self.members])
        if self.mean not in ("arithmetic", "geometric"):
            raise ObjectiveError(f'The mean of an ensemble is "arithmetic" or "geometric", not {self.mean!r}.')
        shapes = {(len(member), member.num_classes) for member in self.members}
        if len(shapes) > 1:
            raise ShapeError(
                "The members of an ensemble must speak of the same rows and classes, but their (n, C) are "
                f"{sorted(shapes)}."
            )
        if not all(is_complete(member) for member in self.members):
            raise TargetError(
                "Sparse and sampled targets of several teachers speak of different classes and cannot be mixed; "
                "mix the teachers first and keep the top classes of the mixture."
            )
        object.__setattr__(self, "weights", member_weights(self.weights, len(self.members)))

    @property
    def num_classes(self) -> int:
        return self.members[0].num_classes

    def __len__(self) -> int:
        return len(self.members[0])

    def __getitem__(self, rows: Any) -> "MixedTargets":
        return replace(self, members=[member[rows] for member in self.members])

    def to(self, device: torch.device | str) -> "MixedTargets":
        """The same targets on another device."""
        return replace(self, members=[member.to(device) for member in self.members])

    def all_log_probs(self, temperature: float) -> Tensor:
        """The mixture of the members' softened log-probabilities, `[n, C]`."""
        assert self.weights is not None  # set in __post_init__
        heard = [(m, w) for m, w in zip(self.members, self.weights, strict=True) if w > 0]
        each = [(member.all_log_probs(temperature), weight) for member, weight in heard]
        if self.mean == "arithmetic":
            return torch.stack([log_p + math.log(w) for log_p, w in each]).logsumexp(0)
        return torch.stack([log_p * w for log_p, w in each]).sum(0).log_softmax(-1)

    def bad_rows(self, divergence: Divergence) -> Tensor:
        """Rows where any member, or the mixture, is no distribution that `divergence` can use."""
        bad = torch.stack([member.bad_rows(forward_kl) for member in self.members]).any(0)
        return bad | DenseTargets(self.all_log_probs(1.0)).bad_rows(divergence)


def member_weights(weights: Sequence[float] | None, members: int) -> tuple[float, ...]:
    """The shares of an ensemble's members, summing to 1: equal where no weights are given."""
    if weights is None:
        return (1 / members,) * members
    if len(weights) != members or not all(0 <= w < math.inf for w in weights) or sum(weights) == 0:
        raise ObjectiveError(
            f"An ensemble of {members} needs {members} weights of 0 or more, not all 0, but got {list(weights)}."
        )
    return tuple(w / sum(weights) for w in weights)


def bounded(logits: Tensor, logit_scale: float = 1.0, softcap: float | None = None) -> Tensor:
    """`softcap * tanh(logit_scale * logits / softcap)`, in float32 or wider; without a cap, `logit_scale * logits`."""
    logits = widened(logits)
    if logit_scale != 1:
        logits = logits * logit_scale
    return logits if softcap is None else softcap * (logits / softcap).tanh()


def _require_positive(temperature: float) -> None:
    if not 0 < temperature < math.inf:
        raise ObjectiveError(f"A temperature is a finite number above 0, but is {temperature}.")


def _largest(v: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """`v.topk(k)`, of many classes among the `k` blocks with the largest maxima alone: none other can hold one."""
    classes = v.shape[-1]
    width = math.isqrt(classes // k)
    if width < 4:
        return v.topk(k, -1)
    blocks = classes // width  # block b: the classes b, b + blocks, b + 2 blocks, ...
    in_blocks = v[..., : blocks * width].reshape(*v.shape[:-1], width, blocks)
    chosen = in_blocks.amax(-2).topk(k, -1, sorted=False).indices
    members = chosen.unsqueeze(-2) + torch.arange(0, blocks * width, blocks, device=v.device).unsqueeze(-1)
    beyond = torch.arange(blocks * width, classes, device=v.device).expand(*v.shape[:-1], -1)  # of no block
    ids = torch.cat([members.flatten(-2), beyond], -1)
    top, places = v.gather(-1, ids).topk(k, -1)
    return top, ids.gather(-1, places)
