"""Targets over all classes, from hidden states and the output layer that reads them."""

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from limbeck.errors import ObjectiveError, ShapeError
from limbeck.losses.divergences import Divergence
from limbeck.losses.numbers import tempered, widened
from limbeck.losses.targets.dense import DenseTargets
from limbeck.losses.targets.protocol import EveryClass, TensorRows


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
        """Logits `[..., C]` of hidden states `[..., H]`: the matmul in their dtype, everything after it in float32."""
        return self.bounded(F.linear(hidden, self.weight, self.bias))

    def bounded(self, logits: Tensor) -> Tensor:
        """The matmul's result with scale and soft cap applied, in float32 or wider."""
        return bounded(logits, self.logit_scale, self.softcap)

    def matmul(self, hidden: Tensor, buffer: Tensor) -> Tensor:
        """Logits `[m, C]` of hidden states `[m, H]` before scale and soft cap, in the first m rows of `buffer`."""
        out = buffer[: len(hidden)]
        if self.bias is None:
            return torch.mm(hidden, self.weight.T, out=out)
        return torch.addmm(self.bias, hidden, self.weight.T, out=out)

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
        """Bytes of a logit in the layer's dtype."""
        return self.head.weight.element_size()

    def chunk_reader(self, chunk_rows: int) -> "_HiddenReader":
        """Computes logits a chunk at a time, in one buffer `[chunk_rows, C]`."""
        weight = self.head.weight
        return _HiddenReader(self, weight.new_empty(chunk_rows, len(weight)))

    def bad_rows(self, divergence: Divergence) -> Tensor:
        """Rows whose hidden states are not all finite; an output layer that is not finite shows in the loss."""
        return ~self.hidden.isfinite().all(-1)


@dataclass(frozen=True, eq=False)
class _HiddenReader:
    """Maps a chunk to its logits; see `defaults.chunk_reader`. buffer `[chunk_rows, C]`: where they are written."""

    targets: HiddenTargets
    buffer: Tensor

    def __call__(self, chunk: slice) -> "_ChunkLogits":
        hidden, head = self.targets.hidden[chunk], self.targets.head
        return _ChunkLogits(head.matmul(hidden.to(head.weight.dtype), self.buffer), head)


@dataclass(frozen=True, eq=False)
class _ChunkLogits:
    """Logits `[m, C]` of a chunk before scale and soft cap, which are applied a block at a time."""

    logits: Tensor
    head: Head

    def __getitem__(self, block: slice) -> DenseTargets:
        logits = self.logits[block]
        plain = self.head.logit_scale == 1 and self.head.softcap is None
        return DenseTargets(logits if plain else self.head.bounded(logits))


def bounded(logits: Tensor, logit_scale: float = 1.0, softcap: float | None = None) -> Tensor:
    """`softcap * tanh(logit_scale * logits / softcap)`, in float32 or wider; without a cap, `logit_scale * logits`."""
    logits = widened(logits)
    if logit_scale != 1:
        logits = logits * logit_scale
    return logits if softcap is None else softcap * (logits / softcap).tanh()
