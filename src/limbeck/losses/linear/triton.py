"""The elementwise work of linear_divergence in one launch of a Triton kernel per chunk.

The kernel itself is in device.py, which is imported at the first use: without Triton, everything else works. In
Triton's interpreter (TRITON_INTERPRET=1, set before anything imports Triton) it runs on a CPU, slowly, for tests.
"""

import warnings
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from limbeck.errors import ObjectiveError
from limbeck.losses.divergences import built_in
from limbeck.losses.linear.problem import Settings
from limbeck.losses.matmul import Product, summed
from limbeck.losses.targets import SoftTargets, is_unbounded, unbounded_logits
from limbeck.losses.terms import HardTerm, SoftTerm, Term

BLOCK = 4096
"""Classes that a program reads at a time."""

WARPS = 8
"""Warps of a program of BLOCK classes: 16 classes per thread."""

INTERPRETED_ROWS = 16
"""Rows of a program in the interpreter, whose time is spent per operation; a GPU's programs have one row."""


def compare(
    logits: Product,
    d_logits: Tensor | None,
    targets: SoftTargets | None,
    labels: Tensor | None,
    shares: tuple[Tensor, ...],
    settings: Settings,
) -> tuple[Tensor, ...]:
    """The value of each term at a chunk of rows, `[m]`: as `chunked.compare`, for the cases that `supports` names."""
    student, bias = _plain(logits)
    teacher, teacher_bias, teacher_scale, teacher_cap = _teacher_logits(targets)
    values = tuple(torch.empty_like(share) for share in shares)
    divergence: tuple[str | None, float] = (None, 0.0)
    temperature = 1.0
    soft_share = soft_value = hard_share = hard_value = None
    for term, share, value in zip(settings.terms, shares, values, strict=True):
        if isinstance(term, SoftTerm):
            soft_share, soft_value, temperature = share, value, term.temperature
            divergence = built_in(term.divergence) or divergence
        else:
            hard_share, hard_value = share, value
    gradient = logits.main if d_logits is None else d_logits
    written = gradient if settings.with_gradient else None
    if interpreted() and settings.with_gradient:  # the interpreter truncates to a narrower dtype where a GPU rounds
        written = torch.empty_like(gradient, dtype=shares[0].dtype)
    rows, classes = student.shape
    per_program = INTERPRETED_ROWS if interpreted() else 1
    block = min(BLOCK, 1 << (classes - 1).bit_length())
    # Triton launches on the current GPU, whichever the tensors are on; -1 changes nothing
    with torch.cuda.device(student.get_device() if student.is_cuda else -1):
        _device().compare[(-(-rows // per_program),)](
            student,
            student.stride(0),
            bias,
            teacher,
            0 if teacher is None else teacher.stride(0),
            teacher_bias,
            None if hard_value is None or labels is None else labels.contiguous(),
            soft_share,
            hard_share,
            soft_value,
            hard_value,
            written,
            0 if written is None else written.stride(0),
            rows,
            classes,
            KIND=divergence[0],
            SHARE=divergence[1],
            INVERSE_T=1 / temperature,
            Z_SCALE=settings.logit_scale,
            Z_CAP=settings.softcap,
            T_SCALE=teacher_scale,
            T_CAP=teacher_cap,
            WIDE=_device().WIDE[_widest(student, teacher, shares[0])],
            ROWS=per_program,
            BLOCK=block,
            **_options(block),
        )
    if written is not None and written is not gradient:
        gradient.copy_(written)
    return values


def _options(block: int) -> dict[str, Any]:
    """How Triton compiles: one warp per 512 classes, and no fused multiply-add, whose rounding differs by its place."""
    return {"num_warps": max(1, WARPS * block // BLOCK), "enable_fp_fusion": False}


def _plain(product: Product) -> tuple[Tensor, Tensor | None]:
    """The logits `[m, C]` in one tensor, and the bias that is to be added."""
    return (product.main, product.bias) if product.residual is None else (summed(product), None)


def _teacher_logits(targets: SoftTargets | None) -> tuple[Tensor | None, Tensor | None, float, float | None]:
    """Logits `[m, C]` whose classes lie side by side, and the bias, scale and soft cap that are to be applied."""
    if targets is None:
        return None, None, 1.0, None
    product, scale, cap = unbounded_logits(targets)
    logits, bias = _plain(product)
    return logits if logits.stride(1) == 1 else logits.contiguous(), bias, scale, cap


def _widest(student: Tensor, teacher: Tensor | None, share: Tensor) -> torch.dtype:
    """float64 where any of these is in float64, else float32."""
    double = any(x is not None and x.dtype == torch.float64 for x in (student, teacher, share))
    return torch.float64 if double else torch.float32


def supports(terms: tuple[Term, ...], targets: SoftTargets | None) -> bool:
    """Whether the kernel computes these terms: a built-in divergence from logits or hidden states, cross-entropy."""
    kinds = [type(term) for term in terms]
    if any(kind not in (SoftTerm, HardTerm) for kind in kinds) or len(set(kinds)) < len(kinds):
        return False
    soft = [term for term in terms if isinstance(term, SoftTerm)]
    if not soft:
        return True
    return targets is not None and is_unbounded(targets) and built_in(soft[0].divergence) is not None


def require(device: torch.device) -> None:
    """Raises ObjectiveError where the kernel cannot run on this device."""
    if find_spec("triton") is None:
        raise ObjectiveError(
            'impl="triton" needs the package triton, which is not installed; install it, or use impl="auto".'
        )
    if device.type != "cuda" and not interpreted():
        raise ObjectiveError(
            f'impl="triton" needs tensors on a CUDA GPU, but they are on {device}; use impl="auto", or for tests set '
            "TRITON_INTERPRET=1 before Python starts."
        )


@cache
def works_on(device: torch.device) -> bool:
    """Whether a first, tiny launch succeeds on this device; a warning says why not.

    Triton compiles the kernel at its first launch, which needs a C compiler and a GPU that Triton knows.
    """
    if find_spec("triton") is None or (device.type != "cuda" and not interpreted()):
        return False
    settings = Settings((HardTerm("hard", 1.0),), 1.0, None, False)
    try:
        logits, ones = torch.zeros(1, 2, device=device), torch.ones(1, device=device)
        compare(Product(logits), None, None, ones.long(), (ones,), settings)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        warnings.warn(
            f"Triton's kernel does not run on {device}, so linear_divergence uses torch.compile, which is slower: "
            f"{type(error).__name__}: {error}",
            stacklevel=2,
        )
        return False
    return True


@cache
def interpreted() -> bool:
    """Whether the kernel runs in Triton's interpreter, on any device."""
    return bool(_device().INTERPRETED)


@cache
def _device() -> Any:
    """The module of the kernel; imported late, as it imports Triton."""
    import limbeck.losses.linear.device as device

    return device
