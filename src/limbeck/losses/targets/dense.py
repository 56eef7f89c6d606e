"""Targets over all classes, from logits."""

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from limbeck.errors import ShapeError, TargetError
from limbeck.losses.divergences import Divergence
from limbeck.losses.numbers import tempered, widened
from limbeck.losses.targets.protocol import REQUIRED, EveryClass, SoftTargets, TensorRows


@dataclass(frozen=True, eq=False)
class DenseTargets(EveryClass, TensorRows):
    """Logits `[n, C]` over all classes (E = C). Log-probabilities are logits too; probabilities are not."""

    logits: Tensor
    compilable: ClassVar[bool] = True

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

    @property
    def given_logits(self) -> list[Tensor]:
        """The logits, which should not be probabilities."""
        return [self.logits]

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
