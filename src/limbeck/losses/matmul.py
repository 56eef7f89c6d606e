"""The logits `hidden @ weight.T` in float32 from operands in bfloat16 or float16, and the two products of backward.

A bfloat16 logit is off by up to 0.2 %. Near the teacher that is more than the difference between student and teacher,
and most of the gradient would be rounding. So logits are not rounded before they are compared, by one of these methods:

    ROUNDED     one matmul whose result has the operands' dtype: exact for float32 and float64; for narrower dtypes only
                on request (precision="fast")
    OUT_DTYPE   one matmul that returns its float32 accumulator (CUDA)
    RESIDUAL    two matmuls: the rounded logits z, then h @ W.T - z, rounded too; their sum has twice the digits (CPUs
                with matmul units for the dtype)
    UPCAST      a matmul of the operands in float32, to which some classes of the weight are cast at a time (other
                devices; CPUs without such units, where it is also the fastest method)

What this file does not know: scale and soft cap, objectives, chunks of rows.
"""

import platform
import warnings
from collections.abc import Iterator
from enum import Enum, auto
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from limbeck.errors import ObjectiveError
from limbeck.losses.numbers import autocast_dtype, wide_dtype, widened

PRECISIONS = ("exact", "fast")

UPCAST_NUMBERS = 2**21
"""Numbers of the weight that are cast to float32 at a time: 8 MiB."""

SUM_CLASSES = 4096
"""Classes at a time whose product is added to the weight's float32 gradient while it is still in cache."""


class Method(Enum):
    """How logits are multiplied; see the top of this file."""

    ROUNDED = auto()
    OUT_DTYPE = auto()
    RESIDUAL = auto()
    UPCAST = auto()


class Product(NamedTuple):
    """Logits `[m, C]` as a sum, which `summed` computes: `main + residual + bias`, each of the last two or None.

    A tuple, since torch.compile traces tuples. bias `[C]`: in float32; None where `main` includes it.
    """

    main: Tensor
    residual: Tensor | None = None
    bias: Tensor | None = None


def summed(product: Product) -> Tensor:
    """The logits `[m, C]` in float32 or wider."""
    logits = widened(product.main)
    if product.residual is not None:
        logits = logits + product.residual.float()
    return logits if product.bias is None else logits + product.bias


def some_rows(product: Product, rows: slice) -> Product:
    """The product at some of its rows."""
    residual = None if product.residual is None else product.residual[rows]
    return Product(product.main[rows], residual, product.bias)


def linear(hidden: Tensor, weight: Tensor, bias: Tensor | None, precision: str) -> Tensor:
    """Logits `[..., C]` of hidden states `[..., H]`, differentiable; in float32 or wider with precision "exact"."""
    device = hidden.device.type
    dtype = autocast_dtype(device) or weight.dtype
    if precision == "fast" or dtype == wide_dtype(dtype):
        return F.linear(hidden, weight, bias)
    with torch.autocast(device, enabled=False):
        hidden, weight, bias = hidden.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
        differentiable = hidden.requires_grad or weight.requires_grad or (bias is not None and bias.requires_grad)
        if torch.is_grad_enabled() and differentiable:
            return F.linear(hidden.float(), weight.float(), None if bias is None else bias.float())
        flat = hidden.reshape(-1, hidden.shape[-1])
        logits = summed(LogitBuffer(weight, bias, len(flat), precision).multiply(flat))
    return logits.view(*hidden.shape[:-1], len(weight))


class LogitBuffer:
    """Memory for the logits of up to `rows` positions, and the matmul that fills it."""

    def __init__(self, weight: Tensor, bias: Tensor | None, rows: int, precision: str):
        self.weight, self.method = weight, method_for(weight, precision)
        self._rounded_bias = bias if self.method is Method.ROUNDED else None
        self._bias = None if self.method is Method.ROUNDED or bias is None else bias.float()
        self._main = weight.new_empty(rows, len(weight), dtype=_main_dtype(self.method, weight.dtype))
        self._residual = torch.empty_like(self._main) if self.method is Method.RESIDUAL else None

    def multiply(self, hidden: Tensor) -> Product:
        """The logits of hidden states `[m, H]`; the next call overwrites them."""
        main, weight = self._main[: len(hidden)], self.weight
        residual = None
        if self.method is Method.OUT_DTYPE:
            torch.mm(hidden, weight.T, out_dtype=torch.float32, out=main)
        elif self.method is Method.UPCAST:
            wide_hidden = hidden.float()
            for classes, some in _wide_weights(weight):
                torch.mm(wide_hidden, some.T, out=main[:, classes])
        elif self._rounded_bias is not None:
            torch.addmm(self._rounded_bias, hidden, weight.T, out=main)
        else:
            torch.mm(hidden, weight.T, out=main)
        if self._residual is not None:
            residual = torch.addmm(main, hidden, weight.T, beta=-1, out=self._residual[: len(hidden)])
        return Product(main, residual, self._bias)

    def gradient_buffer(self) -> Tensor | None:
        """Memory for the gradient of the logits `[rows, C]`; None where it is written over `Product.main`."""
        if self.method is not Method.OUT_DTYPE:
            return None
        return torch.empty_like(self._main, dtype=self.weight.dtype)  # the dtype that backward's matmuls are fast in


def d_hidden(d_logits: Tensor, weight: Tensor, out: Tensor) -> None:
    """Writes `d_logits [m, C] @ weight [C, H]` to `out [m, H]`."""
    if d_logits.dtype == weight.dtype:
        torch.mm(d_logits, weight, out=out)
        return
    total = torch.zeros_like(out, dtype=d_logits.dtype)
    for classes, some in _wide_weights(weight):
        total.addmm_(d_logits[:, classes], some)
    out.copy_(total)


def add_d_weight(d_logits: Tensor, hidden: Tensor, out: Tensor, first: bool) -> None:
    """Adds `d_logits.T [C, m] @ hidden [m, H]` to `out [C, H]`, in float32 or wider; overwrites it if `first`."""
    if d_logits.dtype == out.dtype:
        torch.addmm(out, d_logits.T, hidden.to(out.dtype), beta=int(not first), out=out)
    elif d_logits.device.type == "cuda" and _has_out_dtype(d_logits.device, d_logits.dtype):
        if first:
            torch.mm(d_logits.T, hidden, out_dtype=out.dtype, out=out)
        else:
            torch.addmm(out, d_logits.T, hidden, out_dtype=out.dtype, out=out)
    else:
        for some, total in zip(torch.split(d_logits, SUM_CLASSES, 1), torch.split(out, SUM_CLASSES), strict=True):
            product = some.T @ hidden
            total.copy_(product) if first else total.add_(product)


def bytes_per_logit(weight: Tensor, precision: str) -> int:
    """Bytes of a logit in a LogitBuffer, without those of its gradient."""
    method = method_for(weight, precision)
    return 2 * weight.element_size() if method is Method.RESIDUAL else _main_dtype(method, weight.dtype).itemsize


def gradient_bytes_per_logit(weight: Tensor, precision: str) -> int:
    """Bytes of a logit's gradient beside the logit; 0 where it is written over the logit."""
    return weight.element_size() if method_for(weight, precision) is Method.OUT_DTYPE else 0


def require_precision(precision: str) -> None:
    if precision not in PRECISIONS:
        raise ObjectiveError(f'precision is "exact" or "fast", not {precision!r}.')


def method_for(weight: Tensor, precision: str) -> Method:
    """The fastest method that gives this precision for operands of this dtype, on this device."""
    dtype, device = weight.dtype, weight.device
    if precision == "fast" or dtype == wide_dtype(dtype):
        return Method.ROUNDED
    if device.type == "cuda" and _has_out_dtype(device, dtype):
        return Method.OUT_DTYPE
    if device.type == "cpu" and _has_matmul_units(dtype) and _residual_is_exact(dtype, weight.shape[1]):
        return Method.RESIDUAL
    return Method.UPCAST


def _main_dtype(method: Method, dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if method in (Method.OUT_DTYPE, Method.UPCAST) else dtype


def _wide_weights(weight: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """(classes, the weight of these classes in float32), one block of classes after the other."""
    step = max(1, UPCAST_NUMBERS // weight.shape[1])
    for start in range(0, len(weight), step):
        classes = slice(start, min(start + step, len(weight)))
        yield classes, weight[classes].float()


@cache
def _has_out_dtype(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether this GPU multiplies `dtype` with a float32 result."""
    some = torch.ones(16, 16, device=device, dtype=dtype)
    try:
        torch.mm(some, some, out_dtype=torch.float32, out=torch.empty(16, 16, device=device))
    except (RuntimeError, NotImplementedError, TypeError) as error:
        if isinstance(error, torch.OutOfMemoryError) or "ALLOC_FAILED" in str(error):  # the latter is cuBLAS's
            raise
        _warn_slow(f"torch.mm cannot return float32 for {dtype} on this GPU ({error})")
        return False
    return True


@cache
def _has_matmul_units(dtype: torch.dtype) -> bool:
    """Whether this CPU multiplies `dtype` faster than float32."""
    if platform.machine().lower() in ("aarch64", "arm64"):
        supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
        return dtype == torch.bfloat16 and supported is not None and bool(supported())
    names = ["_is_amx_fp16_supported"]
    if dtype == torch.bfloat16:
        names = ["_is_avx512_bf16_supported", "_is_amx_tile_supported"]
    return any(bool(getattr(torch.cpu, name, bool)()) for name in names)


@cache
def _residual_is_exact(dtype: torch.dtype, width: int) -> bool:
    """Whether a matmul of this CPU adds in float32 and rounds once, at the end, as the RESIDUAL method needs.

    No document promises it, so it is tried: for one row, a few and many, since each may take another code path.
    """
    g = torch.Generator().manual_seed(0)
    weight = torch.randn(256, width, generator=g).to(dtype)
    for rows in (1, 3, 32):
        hidden = torch.randn(rows, width, generator=g).to(dtype)
        main = hidden @ weight.T
        residual = torch.addmm(main, hidden, weight.T, beta=-1)
        expected = hidden.float() @ weight.float().T
        off = (summed(Product(main, residual)) - expected).abs().max() / expected.abs().max()
        if not off <= torch.finfo(dtype).eps ** 2 + 4e-6:
            _warn_slow(f"this CPU's {dtype} matmul rounds more than once (a residual is off by {off:.1e})")
            return False
    return True


def _warn_slow(reason: str) -> None:
    warnings.warn(
        f"linear_divergence multiplies logits in float32, which is slower, because {reason}. "
        'precision="fast" avoids it, at the cost of rounded logits.',
        stacklevel=2,
    )
