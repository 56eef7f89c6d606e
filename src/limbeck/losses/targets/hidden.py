"""Targets over all classes, from hidden states and the output layer that reads them."""

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from limbeck.errors import ObjectiveError, ShapeError
from limbeck.losses.divergences import Divergence
from limbeck.losses.matmul import (
    LogitBuffer,
    Product,
    bytes_per_logit,
    linear,
    require_precision,
    some_rows,
    summed,
)
from limbeck.losses.numbers import tempered, widened
from limbeck.losses.targets.dense import DenseTargets
from limbeck.losses.targets.protocol import EveryClass, TensorRows


@dataclass(frozen=True, eq=False, repr=False)
class Head:
    """An output layer: `z = hidden @ weight.T + bias`, times `logit_scale`, then `softcap * tanh(z / softcap)`.

    weight `[C, H]`; bias `[C]` or None. logit_scale: as in Cohere's models, Granite's (1 / logits_scaling) and tied
    T5's (d_model^-0.5). softcap: as in Gemma 2's (final_logit_softcapping); None for none.
    precision: "exact", logits in float32 whatever the dtype of weight; or "fast", logits rounded to that dtype, whose
        loss and gradient are wrong by more than they are worth where student and teacher are close (a KL below 0.1).
    """

    weight: Tensor
    bias: Tensor | None = None
    logit_scale: float = 1.0
    softcap: float | None = None
    precision: str = "exact"

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
        require_precision(self.precision)

    def __repr__(self) -> str:
        classes, width = self.weight.shape
        return f"Head([{classes}, {width}] {self.weight.dtype} at {id(self.weight):#x})"

    def __call__(self, hidden: Tensor) -> Tensor:
        """Logits `[..., C]` of hidden states `[..., H]`, in float32 or wider."""
        return self.bounded(linear(hidden, self.weight, self.bias, self.precision))

    def bounded(self, logits: Tensor) -> Tensor:
        """The matmul's result with scale and soft cap applied, in float32 or wider."""
        return bounded(logits, self.logit_scale, self.softcap)

    def buffer(self, rows: int) -> LogitBuffer:
        """Memory for the logits of up to `rows` positions, before scale and soft cap."""
        return LogitBuffer(self.weight, self.bias, rows, self.precision)

    def first(self, classes: int) -> "Head":
        """The layer of the first `classes` alone; a padded vocabulary has more classes than tokens."""
        if classes > len(self.weight):
            raise ShapeError(f"The output layer has {len(self.weight)} classes, fewer than the {classes} requested.")
        bias = None if self.bias is None else self.bias[:classes]
        return replace(self, weight=self.weight[:classes], bias=bias) if classes < len(self.weight) else self

    def to(self, where: torch.device | str | torch.dtype) -> "Head":
        """The same layer on another device, or in another dtype."""
        return replace(self, weight=self.weight.to(where), bias=None if self.bias is None else self.bias.to(where))


@dataclass(frozen=True, eq=False)
class HiddenTargets(EveryClass, TensorRows):
    """The teacher's last hidden states `[n, H]` and its output layer: every class at every temperature (E = C).

    Lossless, and small: `linear_divergence` computes the logits of a few rows at a time. Elsewhere `logits` are
    computed as a whole. States that are stored in another dtype are first cast to the layer's.
    """

    hidden: Tensor
    head: Head
    compilable: ClassVar[bool] = True
    unbounded: ClassVar[bool] = True

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
        """`[n, C]`, recomputed at each call."""
        with torch.no_grad():
            return self.head(self.hidden.to(self.head.weight.dtype))

    def to(self, where: torch.device | str | torch.dtype) -> Self:
        """The same targets, output layer included, on another device, or in another dtype."""
        return replace(self, hidden=self.hidden.to(where), head=self.head.to(where))

    def all_log_probs(self, temperature: float) -> Tensor:
        """`log_softmax(v / T)` `[n, C]`."""
        return tempered(self.logits, temperature)

    def softened_logits(self, temperature: float) -> Tensor:
        """`v / T` `[n, C]` in float32 or wider."""
        logits = widened(self.logits)
        return logits if temperature == 1 else logits / temperature

    def autocast_to(self, dtype: torch.dtype) -> Self:
        """Hidden states and output layer in autocast's dtype."""
        return self.to(dtype)

    @property
    def logit_bytes(self) -> int:
        """Bytes of a logit before scale and soft cap."""
        return bytes_per_logit(self.head.weight, self.head.precision)

    def chunk_reader(self, chunk_rows: int) -> "_HiddenReader":
        """Computes logits a chunk at a time, in one buffer `[chunk_rows, C]`."""
        return _HiddenReader(self, self.head.buffer(chunk_rows))

    def bad_rows(self, divergence: Divergence) -> Tensor:
        """Rows whose hidden states are not all finite; an output layer that is not finite shows in the loss."""
        return ~self.hidden.isfinite().all(-1)


@dataclass(frozen=True, eq=False)
class _HiddenReader:
    """Maps a chunk to its logits; see `defaults.chunk_reader`."""

    targets: HiddenTargets
    buffer: LogitBuffer

    def __call__(self, chunk: slice) -> "LayerTargets":
        hidden, head = self.targets.hidden[chunk], self.targets.head
        product = self.buffer.multiply(hidden.to(head.weight.dtype))
        return LayerTargets(product, head.logit_scale, head.softcap)


@dataclass(frozen=True, eq=False)
class LayerTargets(EveryClass):
    """The logits `[m, C]` of a chunk as an output layer's matmul gave them; scale and soft cap come when they are read.

    They are read a block of rows at a time, and what torch.compile compiles for a block includes these last steps.
    """

    product: Product
    logit_scale: float = 1.0
    softcap: float | None = None
    compilable: ClassVar[bool] = True
    unbounded: ClassVar[bool] = True

    @property
    def num_classes(self) -> int:
        return self.product.main.shape[1]

    def __len__(self) -> int:
        return len(self.product.main)

    def __getitem__(self, rows: slice) -> "LayerTargets":
        return replace(self, product=some_rows(self.product, rows))

    def to(self, device: torch.device | str) -> "LayerTargets":
        """The same targets on another device."""
        main, *rest = self.product
        residual, bias = (None if part is None else part.to(device) for part in rest)
        return replace(self, product=Product(main.to(device), residual, bias))

    def all_log_probs(self, temperature: float) -> Tensor:
        """`log_softmax(v / T)` `[m, C]`."""
        return tempered(bounded(summed(self.product), self.logit_scale, self.softcap), temperature)

    def unbounded_logits(self) -> tuple[Product, float, float | None]:
        """The matmul's result, its scale and its soft cap."""
        return self.product, self.logit_scale, self.softcap

    def bad_rows(self, divergence: Divergence) -> Tensor:
        """Rows with nan, +inf or only -inf; with any -inf, where the divergence is infinite there."""
        return DenseTargets(self.all_log_probs(1.0)).bad_rows(divergence)


def bounded(logits: Tensor, logit_scale: float = 1.0, softcap: float | None = None) -> Tensor:
    """`softcap * tanh(logit_scale * logits / softcap)`, in float32 or wider; without a cap, `logit_scale * logits`."""
    logits = widened(logits)
    if logit_scale != 1:
        logits = logits * logit_scale
    return logits if softcap is None else softcap * (logits / softcap).tanh()
