"""linear_divergence a chunk of rows at a time: the chunk's logits are overwritten by their gradient, then reused.

Three matmuls for the student (logits, gradient of hidden, gradient of weight) and one for the teacher, all in the
forward pass; nothing is computed twice. Elementwise work on a whole chunk would be limited by memory bandwidth, so it
is done for a block of rows at a time, small enough for the processor's cache.

What this file does not know: the terms of the objective (values and gradients in the logits come from terms.py), the
kinds of targets (losses/targets), reductions (objective.py).
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from limbeck.losses.linear.memory import keep_freed_memory
from limbeck.losses.linear.problem import Problem, Settings
from limbeck.losses.linear.triton import compare as fused_compare
from limbeck.losses.linear.triton import supports
from limbeck.losses.matmul import (
    Product,
    add_d_weight,
    bytes_per_logit,
    d_hidden,
    gradient_bytes_per_logit,
    some_rows,
    summed,
)
from limbeck.losses.numbers import NO_LABEL, autocast_dtype, wide_dtype
from limbeck.losses.objective import Counts, Loss, Objective, Rows, not_zero
from limbeck.losses.targets import (
    Head,
    SoftTargets,
    autocast_to,
    bounded,
    chunk_reader,
    logit_bytes,
)
from limbeck.losses.terms import SoftTerm, Term

CHUNK_ROWS = {"cpu": 512}
"""Rows of a chunk: fewer slow the matmuls down, more hardly speed them up. On other devices only memory limits them."""

CHUNK_BYTES = {"cpu": 2**28}
"""The limit for the logits of a chunk, the student's and the teacher's."""

OTHER_CHUNK_BYTES = 3 * 2**30
"""The same on other devices: over 131,072 classes about 2,300 rows of float32 logits and bfloat16 gradients, and each
chunk has to read and write the whole float32 gradient of the weight."""

BLOCK_LOGITS = 2**17
"""Logits per block and CPU core, half a megabyte in float32; a block has at least two rows per core."""

GPU_BLOCK_LOGITS = 2**24
"""Logits per block on other devices, uncompiled: each temporary has 64 MiB in float32."""

FLOAT16_GAIN = 64
"""Factor of the logits' gradients where matmuls are in float16: near the teacher they would be subnormal without it.
They are below 1 times the slope of the divergence, so that there is room above too."""

WORTH_COMPILING = 16_384
"""Classes from which on "auto" compiles."""

_Backward = Callable[..., tuple[Tensor | None, ...]]
once_differentiable: Callable[[_Backward], _Backward] = torch.autograd.function.once_differentiable


def linear_divergence(problem: Problem, compiled: bool = False, fused: bool = False) -> Loss:
    """The loss of a problem.

    What is done to each logit: fused, by Triton's kernel, where it supports the problem; else compiled, by
    torch.compile, where that can; else by one operation after the other.
    """
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
    divisors = counts_here if counts is None else counts
    run = _Run(head, rows, objective, divisors, compiled, fused, torch.is_grad_enabled())
    apply: Callable[..., tuple[Tensor, ...]] = _Chunked.apply
    total, *sums = apply(flat, head.weight, head.bias, run)
    by_name = {term.name: term_sum for term, term_sum in zip(objective.terms, sums, strict=True)}
    return objective.total(by_name, counts_here, counts)._replace(sum=total)


@dataclass(frozen=True, eq=False)
class _Run:
    """What `_Chunked` needs beside the tensors that get a gradient.

    counts: that the terms are divided by. compiled, fused: how logits are compared; see `linear_divergence`.
    with_gradient: whether grad mode was on at the call.
    """

    head: Head
    rows: Rows
    objective: Objective
    counts: Counts
    compiled: bool
    fused: bool
    with_gradient: bool


class _Chunked(torch.autograd.Function):
    """Returns the loss's sum, then each term's. The forward pass computes the gradients, backward only scales them."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, run: _Run) -> tuple[Tensor, ...]:
        objective, counts, rows = run.objective, run.counts, run.rows
        device = hidden.device.type
        autocast = autocast_dtype(device)
        dtype = autocast or weight.dtype
        # Stored are the gradients of sum / count, since that is what backward is usually called on: it then multiplies
        # by 1, which rounds nothing a second time. In float16, small gradients would underflow before the loss scaler
        # has enlarged them.
        count = objective.count(counts)
        factors = [objective.factor(term, counts) for term in objective.terms]
        if dtype == torch.float16:
            unit = _largest(factors, rows.weights, count.device) / FLOAT16_GAIN
        else:
            unit = not_zero(count)
        with torch.autocast(device, enabled=False):
            head = replace(run.head, weight=weight, bias=bias).to(dtype)
            if rows.targets is not None and autocast is not None:
                rows = replace(rows, targets=autocast_to(rows.targets, autocast))
            needed = [run.with_gradient and needs for needs in ctx.needs_input_grad[:3]]  # true under no_grad too
            gradients = _Gradients.like(hidden, head, *needed)
            scales = [factor / unit for factor in factors]
            sums = _over_chunks(hidden.to(dtype), replace(run, head=head, rows=rows), scales, gradients)
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


def _largest(factors: Sequence[float | Tensor], weights: Tensor | None, device: torch.device) -> Tensor:
    """The largest factor, a scalar, times the largest weight `[n]`; 1 where that is 0."""
    scalars = [
        factor.float() if isinstance(factor, Tensor) else torch.full((), factor, device=device, dtype=torch.float32)
        for factor in factors
    ]
    largest = torch.stack(scalars).amax()
    if weights is not None and len(weights):
        largest = largest * weights.amax()
    return not_zero(largest)


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
            d_hidden(d_logits, weight, self.hidden[chunk])
        if self.bias is not None:
            self.bias.add_(d_logits.sum(0, dtype=self.bias.dtype))
        if self.weight is not None:
            add_d_weight(d_logits, hidden, self.weight, first=chunk.start == 0)


def _over_chunks(hidden: Tensor, run: _Run, scales: list[Tensor], gradients: _Gradients) -> dict[str, Tensor]:
    """The sum of each term over all rows, by name; fills the gradients.

    scales: per term, the factor of its value in the gradient of a row of weight 1.
    """
    head, rows, objective = run.head, run.rows, run.objective
    n, classes, on_cpu = len(hidden), len(head.weight), hidden.device.type == "cpu"
    targets, labels = rows.targets, rows.labels if objective.needs_labels else None
    wide = wide_dtype(hidden.dtype)
    weights = hidden.new_ones(n, dtype=wide) if rows.weights is None else rows.weights.to(wide)
    terms = tuple(term if targets is None else term.for_targets(targets) for term in objective.terms)
    values = [torch.zeros_like(weights) for _ in terms]
    shares = [weights * scale.to(wide) for scale in scales]
    settings = Settings(terms, head.logit_scale, head.softcap, gradients.needed())
    chunk_rows = max(1, min(n, _chunk_rows(head, targets)))
    buffer = head.buffer(chunk_rows)
    gradient_buffer = buffer.gradient_buffer() if settings.with_gradient else None
    read = None if targets is None else chunk_reader(targets, chunk_rows)
    if on_cpu:
        keep_freed_memory()
    fused = run.fused and supports(terms, targets)
    compiled = run.compiled and not fused and all(term.compiles(targets) for term in terms)
    compare = fused_compare if fused else _compiled() if compiled else _compare
    if fused or (compiled and not on_cpu):
        block_rows = chunk_rows
    else:
        block_rows = _block_rows(classes) if on_cpu else GPU_BLOCK_LOGITS // classes + 1
    for start in range(0, n, chunk_rows):
        chunk = slice(start, min(start + chunk_rows, n))
        logits = buffer.multiply(hidden[chunk])
        d_logits = logits.main if gradient_buffer is None else gradient_buffer[: len(logits.main)]
        targets_here = None if read is None else read(chunk)
        for first in range(0, chunk.stop - start, block_rows):
            block = slice(first, min(first + block_rows, chunk.stop - start))
            here = slice(start + block.start, start + block.stop)
            # on a CPU, another number of rows would be compiled anew
            whole = block.stop - block.start == block_rows or fused or not on_cpu
            values_here = (compare if whole else _compare)(
                some_rows(logits, block),
                None if gradient_buffer is None else d_logits[block],
                None if targets_here is None else targets_here[block],
                None if labels is None else labels[here],
                tuple(share[here] for share in shares),
                settings,
            )
            for value, value_here in zip(values, values_here, strict=True):
                value[here] = value_here
        gradients.add(chunk, d_logits, hidden[chunk], head.weight)
    return {term.name: (value * weights).sum() for term, value in zip(terms, values, strict=True)}


def _compare(
    logits: Product,
    d_logits: Tensor | None,
    targets: SoftTargets | None,
    labels: Tensor | None,
    shares: tuple[Tensor, ...],
    settings: Settings,
) -> tuple[Tensor, ...]:
    """The value of each term at a block of rows, `[r]`.

    logits `[r, C]`: before scale and soft cap. labels `[r]`.
    d_logits `[r, C]`: where the gradient is written; None for over `logits.main`.
    shares: per term, the factor `[r]` of its value in the gradient.
    """
    terms, logit_scale, softcap, with_gradient = settings
    z = bounded(summed(logits), logit_scale, softcap)
    values, gradient = [], None
    for term, share in zip(terms, shares, strict=True):
        value, term_gradient = term.value_and_gradient(z, targets, labels, share if with_gradient else None)
        values.append(value)
        if term_gradient is not None:
            gradient = term_gradient if gradient is None else gradient + term_gradient
    if gradient is not None:
        if softcap is not None:
            gradient = gradient * (1 - (z / softcap).square())
        out = logits.main if d_logits is None else d_logits
        out.copy_(gradient * logit_scale if logit_scale != 1 else gradient)
    return tuple(values)


def _chunk_rows(head: Head, targets: SoftTargets | None) -> int:
    """Rows of a chunk: as many as CHUNK_BYTES hold of the student's logits and the targets', at most CHUNK_ROWS."""
    weight, device = head.weight, head.weight.device.type
    per_class = bytes_per_logit(weight, head.precision) + gradient_bytes_per_logit(weight, head.precision)
    per_class += 0 if targets is None else logit_bytes(targets)
    fitting = CHUNK_BYTES.get(device, OTHER_CHUNK_BYTES) // (len(weight) * per_class)
    return max(1, min(fitting, CHUNK_ROWS.get(device, fitting)))


def _block_rows(classes: int) -> int:
    cores = torch.get_num_threads()
    return max(2 * cores, BLOCK_LOGITS * cores // classes)


@cache
def _compiled() -> Callable[..., tuple[Tensor, ...]]:
    """`_compare` by torch.compile. A case that does not compile runs as it is; the first of them gives a warning.

    The pattern matcher would rewrite the softmax at a temperature for infinities, at twice the time.
    """
    compiled = torch.compile(_compare, fullgraph=True, options={"pattern_matcher": False})
    uncompiled: dict[Any, bool] = {}  # cases that run as they are, and whether compiling them failed

    def compare(*arguments: Any) -> tuple[Tensor, ...]:
        logits, _, targets, labels, _, settings = arguments
        dtypes = logits.main.dtype, logits.residual is None
        case = settings.terms, type(targets), labels is None, dtypes, settings.with_gradient
        if case in uncompiled:
            return _compare(*arguments)
        try:
            return compiled(*arguments)
        except Exception as error:  # before anything was written
            if _out_of_memory(error):
                raise
            limit_hit = (
                type(error).__name__ == "FailOnRecompileLimitHit"
            )  # torch compiles a function so many times only
            if not limit_hit and not any(failed for failed in uncompiled.values()):
                terms = ", ".join(_described(term) for term in settings.terms)
                warnings.warn(
                    f"torch.compile failed, so linear_divergence runs uncompiled: {error}\n(for {terms} and "
                    f"{type(targets).__name__}; further cases that fail are not reported)",
                    stacklevel=2,
                )
            uncompiled[case] = not limit_hit
            return _compare(*arguments)

    return compare


def _out_of_memory(error: BaseException | None) -> bool:
    """Whether this error, or one that caused it, is about memory, and so says nothing about the compiler."""
    while error is not None:
        if isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _described(term: Term) -> str:
    return f"{term.name} ({term.divergence.name})" if isinstance(term, SoftTerm) else term.name
