"""linear_divergence a chunk of rows at a time: the chunk's logits are overwritten by their gradient, then reused.

Three matmuls for the student (logits, gradient of hidden, gradient of weight) and one for the teacher, all in the
forward pass; nothing is computed twice. Elementwise work on a whole chunk would be limited by memory bandwidth, so it
is done for a block of rows at a time, small enough for the processor's cache.

What this file does not know: the terms of the objective (values and gradients in the logits come from terms.py), the
kinds of targets (losses/targets), reductions (objective.py).
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from limbeck.losses.linear.memory import keep_freed_memory
from limbeck.losses.linear.problem import Problem
from limbeck.losses.numbers import NO_LABEL, wide_dtype
from limbeck.losses.objective import Counts, Loss, Objective, Rows
from limbeck.losses.targets import (
    Head,
    SoftTargets,
    autocast_to,
    bounded,
    chunk_reader,
    logit_bytes,
)
from limbeck.losses.terms import Term

CHUNK_ROWS = {"cpu": 512}
"""Rows of a chunk: fewer slow the matmuls down, more hardly speed them up. On other devices only memory limits them."""

CHUNK_BYTES = {"cpu": 2**28}
"""The limit for the logits of a chunk, the student's and the teacher's; 1 GiB on other devices."""

BLOCK_LOGITS = 2**17
"""Logits per block and CPU core, half a megabyte in float32; a block has at least two rows per core."""

SUM_CLASSES = 4096
"""Classes at a time whose product is added to the weight's float32 gradient while it is still in cache."""

WORTH_COMPILING = 16_384
"""Classes from which on "auto" compiles."""

_Backward = Callable[..., tuple[Tensor | None, ...]]
once_differentiable: Callable[[_Backward], _Backward] = torch.autograd.function.once_differentiable


def linear_divergence(problem: Problem, compiled: bool = False) -> Loss:
    """The loss of a problem; compiled: whether torch.compile compiles what is done to each logit."""
    hidden, head, objective, counts = problem.hidden, problem.head, problem.objective, problem.counts
    rows = objective.align(
        hidden.shape[:-1],
        len(head.weight),
        problem.targets,
        problem.labels,
        mask=problem.mask,
        weights=problem.weights,
    )
    counts_here = rows.counts(hidden.device)
    labels_only = all(term.needs_labels for term in objective.terms)
    if labels_only and rows.labels is not None:  # a row without a label has no term at all
        rows = rows.select((rows.labels != NO_LABEL).nonzero().squeeze(1))
    flat = hidden.reshape(-1, hidden.shape[-1])
    flat = flat if rows.indices is None else flat[rows.indices]
    if counts is not None:
        objective.require_counts(counts)
    run = _Run(head, rows, objective, counts_here if counts is None else counts, compiled, torch.is_grad_enabled())
    apply: Callable[..., tuple[Tensor, ...]] = _Chunked.apply
    total, *sums = apply(flat, head.weight, head.bias, run)
    by_name = {term.name: term_sum for term, term_sum in zip(objective.terms, sums, strict=True)}
    return objective.total(by_name, counts_here, counts)._replace(sum=total)


@dataclass(frozen=True, eq=False)
class _Run:
    """What `_Chunked` needs beside the tensors that get a gradient.

    counts: that the terms are divided by. with_gradient: whether grad mode was on at the call.
    """

    head: Head
    rows: Rows
    objective: Objective
    counts: Counts
    compiled: bool
    with_gradient: bool


class _Chunked(torch.autograd.Function):
    """Returns the loss's sum, then each term's. The forward pass computes the gradients, backward only scales them."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, run: _Run) -> tuple[Tensor, ...]:
        objective, counts, rows = run.objective, run.counts, run.rows
        device = hidden.device.type
        autocast = torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if autocast else weight.dtype
        # Stored are the gradients of sum / count, since that is what backward is usually called on: it then multiplies
        # by 1, which rounds nothing a second time. In float16, small gradients would underflow before the loss scaler
        # has enlarged them.
        count = objective.count(counts)
        factors = [objective.factor(term, counts) for term in objective.terms]
        unit = _largest(factors, count) if dtype == torch.float16 else torch.where(count == 0, 1.0, count)
        with torch.autocast(device, enabled=False):
            head = replace(run.head, weight=weight, bias=bias).to(dtype)
            if rows.targets is not None and autocast:
                rows = replace(rows, targets=autocast_to(rows.targets, dtype))
            needed = [run.with_gradient and needs for needs in ctx.needs_input_grad[:3]]  # true under no_grad too
            gradients = _Gradients.like(hidden, head, *needed)
            scales = [factor / unit for factor in factors]
            sums = _over_chunks(hidden.to(dtype), head, rows, objective, scales, gradients, run.compiled)
            total = objective.total(sums, counts).sum
        ctx.save_for_backward(gradients.hidden, gradients.weight, gradients.bias, unit)
        ctx.dtypes, ctx.spent = [None if x is None else x.dtype for x in (hidden, weight, bias)], False
        ctx.mark_non_differentiable(*sums.values())
        return total, *sums.values()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_total: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        if ctx.spent:
            raise RuntimeError("The first backward used up linear_divergence's gradients; call it again for a second.")
        ctx.spent = True
        *gradients, unit = ctx.saved_tensors
        factor = d_total * unit
        scaled = [_scaled(gradient, dtype, factor) for gradient, dtype in zip(gradients, ctx.dtypes, strict=True)]
        return (*scaled, None)


def _largest(factors: list[float | Tensor], count: Tensor) -> Tensor:
    """The largest of the factors that depend on counts, 1 at least."""
    counted = [factor for factor in factors if isinstance(factor, Tensor)]
    return torch.stack(counted).amax().clamp(min=1) if counted else torch.ones_like(count)


def _scaled(gradient: Tensor | None, dtype: torch.dtype, factor: Tensor) -> Tensor | None:
    """In place where the dtype is that of the result, else rounded once."""
    if gradient is None:
        return None
    # without an axis it would be rounded to the gradient's dtype
    factor = factor.to(wide_dtype(gradient.dtype)).expand(1)
    return torch.mul(gradient, factor, out=gradient if gradient.dtype == dtype else gradient.new_empty(0, dtype=dtype))


@dataclass(frozen=True, eq=False)
class _Gradients:
    """Gradients in the shapes of what they belong to: None where none is needed.

    hidden: in the matmul's dtype. weight, bias: in float32 or wider.
    """

    hidden: Tensor | None
    weight: Tensor | None
    bias: Tensor | None

    @classmethod
    def like(cls, hidden: Tensor, head: Head, needs_hidden: bool, needs_weight: bool, needs_bias: bool) -> "_Gradients":
        """Empty gradients of those that are needed."""
        wide = wide_dtype(head.weight.dtype)
        gradients = cls(
            torch.empty_like(hidden, dtype=head.weight.dtype) if needs_hidden else None,
            torch.empty_like(head.weight, dtype=wide) if needs_weight else None,
            torch.zeros_like(head.weight[:, 0], dtype=wide) if needs_bias else None,
        )
        if gradients.weight is not None and not len(hidden):  # else the first chunk fills it
            gradients.weight.zero_()
        return gradients

    def needed(self) -> bool:
        """Whether there is any gradient to compute."""
        return any(gradient is not None for gradient in (self.hidden, self.weight, self.bias))

    def add(self, chunk: slice, d_logits: Tensor, hidden: Tensor, weight: Tensor) -> None:
        """Adds what a chunk contributes: d_logits `[m, C]`, hidden `[m, H]` (the chunk's rows), weight `[C, H]`."""
        if self.hidden is not None:
            torch.mm(d_logits, weight, out=self.hidden[chunk])
        if self.bias is not None:
            self.bias.add_(d_logits.sum(0, dtype=self.bias.dtype))
        if self.weight is None:
            return
        filled = chunk.start > 0
        if self.weight.dtype == d_logits.dtype:
            torch.addmm(self.weight, d_logits.T, hidden, beta=int(filled), out=self.weight)
            return
        step = SUM_CLASSES if d_logits.device.type == "cpu" else len(weight)
        for some, summed in zip(torch.split(d_logits, step, 1), torch.split(self.weight, step), strict=True):
            product = some.T @ hidden
            summed.add_(product) if filled else summed.copy_(product)


def _over_chunks(
    hidden: Tensor,
    head: Head,
    rows: Rows,
    objective: Objective,
    scales: list[Tensor],
    gradients: _Gradients,
    compiled: bool,
) -> dict[str, Tensor]:
    """The sum of each term over all rows, by name; fills the gradients.

    scales: per term, the factor of its value in the gradient of a row of weight 1.
    """
    n, classes, on_cpu = len(hidden), len(head.weight), hidden.device.type == "cpu"
    targets, labels = rows.targets, rows.labels if objective.needs_labels else None
    wide = wide_dtype(hidden.dtype)
    weights = hidden.new_ones(n, dtype=wide) if rows.weights is None else rows.weights.to(wide)
    terms = tuple(term if targets is None else term.for_targets(targets) for term in objective.terms)
    values = [torch.zeros_like(weights) for _ in terms]
    shares = [weights * scale.to(wide) for scale in scales]
    settings = _Settings(terms, head.logit_scale, head.softcap, gradients.needed())
    chunk_rows = max(1, min(n, _chunk_rows(classes, hidden, targets)))
    block_rows = _block_rows(classes) if on_cpu else chunk_rows
    buffer = hidden.new_empty(chunk_rows, classes)
    read = None if targets is None else chunk_reader(targets, chunk_rows)
    if on_cpu:
        keep_freed_memory()
    compare = _compiled() if compiled and all(term.compiles(targets) for term in terms) else _compare
    for start in range(0, n, chunk_rows):
        chunk = slice(start, min(start + chunk_rows, n))
        logits = head.matmul(hidden[chunk], buffer)
        targets_here = None if read is None else read(chunk)
        for first in range(0, len(logits), block_rows):
            block = slice(first, min(first + block_rows, len(logits)))
            here = slice(start + block.start, start + block.stop)
            whole = len(logits[block]) == block_rows or not on_cpu  # another number of rows would be compiled anew
            values_here = (compare if whole else _compare)(
                logits[block],
                None if targets_here is None else targets_here[block],
                None if labels is None else labels[here],
                tuple(share[here] for share in shares),
                settings,
            )
            for value, value_here in zip(values, values_here, strict=True):
                value[here] = value_here
        gradients.add(chunk, logits, hidden[chunk], head.weight)
    return {term.name: (value * weights).sum() for term, value in zip(terms, values, strict=True)}


class _Settings(NamedTuple):
    """What is the same for every row. A tuple, since torch.compile traces tuples."""

    terms: tuple[Term, ...]
    logit_scale: float
    softcap: float | None
    with_gradient: bool


def _compare(
    logits: Tensor,
    targets: SoftTargets | None,
    labels: Tensor | None,
    shares: tuple[Tensor, ...],
    settings: _Settings,
) -> tuple[Tensor, ...]:
    """The value of each term at a block of rows, `[r]`; the gradient is written over `logits [r, C]`.

    logits: the matmul's result, before scale and soft cap. labels `[r]`.
    shares: per term, the factor `[r]` of its value in the gradient.
    """
    terms, logit_scale, softcap, with_gradient = settings
    z = bounded(logits, logit_scale, softcap)
    values, gradient = [], None
    for term, share in zip(terms, shares, strict=True):
        value, term_gradient = term.value_and_gradient(z, targets, labels, share if with_gradient else None)
        values.append(value)
        if term_gradient is not None:
            gradient = term_gradient if gradient is None else gradient + term_gradient
    if gradient is not None:
        if softcap is not None:
            gradient = gradient * (1 - (z / softcap).square())
        logits.copy_(gradient * logit_scale if logit_scale != 1 else gradient)
    return tuple(values)


def _chunk_rows(classes: int, hidden: Tensor, targets: SoftTargets | None) -> int:
    """Rows of a chunk: as many as CHUNK_BYTES hold of the student's logits and the targets', at most CHUNK_ROWS."""
    device = hidden.device.type
    per_class = hidden.element_size() + (0 if targets is None else logit_bytes(targets))
    fitting = CHUNK_BYTES.get(device, 2**30) // (classes * per_class)
    return max(1, min(fitting, CHUNK_ROWS.get(device, fitting)))


def _block_rows(classes: int) -> int:
    cores = torch.get_num_threads()
    return max(2 * cores, BLOCK_LOGITS * cores // classes)


@cache
def _compiled() -> Callable[..., tuple[Tensor, ...]]:
    """`_compare` by torch.compile; as it is, with one warning, where that does not work.

    The pattern matcher would rewrite the softmax at a temperature for infinities, at twice the time.
    """
    compiled = torch.compile(_compare, fullgraph=True, options={"pattern_matcher": False})
    eager: set[Any] = set()  # cases that are not compiled

    def compare(*arguments: Any) -> tuple[Tensor, ...]:
        logits, targets, labels, *_, settings = arguments
        case = settings.terms, type(targets), labels is None, logits.dtype, settings.with_gradient
        if "all" in eager or case in eager:
            return _compare(*arguments)
        try:
            return compiled(*arguments)
        except Exception as error:  # before anything was written
            if type(error).__name__ == "FailOnRecompileLimitHit":  # torch compiles a function for so many cases only
                eager.add(case)
            else:
                eager.add("all")
                warnings.warn(f"torch.compile failed, so linear_divergence runs uncompiled: {error}", stacklevel=2)
            return _compare(*arguments)

    return compare
