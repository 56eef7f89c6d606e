"""Targets over all classes, from logits."""

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from limbeck.errors import ShapeError, TargetError
from limbeck.losses.divergences import Divergence
from limbeck.losses.matmul import Product
from limbeck.losses.numbers import tempered, widened
from limbeck.losses.targets.protocol import REQUIRED, EveryClass, SoftTargets, TensorRows


@dataclass(frozen=True, eq=False)
class DenseTargets(EveryClass, TensorRows):
    """Logits `[n, C]` over all classes (E = C). Log-probabilities are logits too; probabilities are not."""

    logits: Tensor
    compilable: ClassVar[bool] = True
    unbounded: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.logits.ndim != 2:
            raise ShapeError(f"DenseTargets hold logits [n, C], but got the shape {list(self.logits.shape)}.")

    @classmethod
    def from_probs(cls, probs: Tensor) -> Self:
        """The targets of probabilities `[n, C]`, such as `predict_proba` returns; a zero becomes -inf.

        They are normalised wherever they are used, should a row not sum to 1.
        """
        return cls(probs.log())

    @property
    def num_classes(self) -> int:
        return self.logits.shape[1]

    def all_log_probs(self, temperature: float) -> Tensor:
        """`log_softmax(v / T)` `[n, C]`."""
        return tempered(self.logits, temperature)

    @property
    def given_logits(self) -> list[Tensor]:
        """The logits, which should not be probabilities."""
        return [self.logits]

    def unbounded_logits(self) -> tuple[Product, float, float | None]:
        """The logits, whose scale is 1 and which have no cap."""
        return Product(self.logits), 1.0, None

    def softened_logits(self, temperature: float) -> Tensor:
        """`v / T` `[n, C]` in float32 or wider."""
        logits = widened(self.logits)
        return logits if temperature == 1 else logits / temperature

    def bad_rows(self, divergence: Divergence) -> Tensor:
        """Rows with nan, +inf or only -inf; with any -inf, where the divergence is infinite there."""
        bad = ~self.logits.amax(-1).isfinite()  # amax passes nan on
        if not divergence.allows_zero:
            bad |= self.logits.amin(-1) == -torch.inf
        return bad


def as_targets(output: Any) -> SoftTargets:
    """A teacher's output as SoftTargets: a tensor `[..., C]` of logits becomes DenseTargets `[n, C]`."""
    if isinstance(output, Tensor):
        return DenseTargets(output.reshape(-1, output.shape[-1]))
    if all(hasattr(output, name) for name in REQUIRED):
        targets: SoftTargets = output
        return targets
    raise TargetError(
        f"A teacher must return logits (a tensor [n, C]) or SoftTargets, but it returned {type(output).__name__}."
    )
