"""Targets over classes drawn at random, with importance weights."""

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from limbeck.errors import ObjectiveError, ShapeError, TargetError
from limbeck.losses.divergences import Divergence, cross_entropy, forward_kl
from limbeck.losses.numbers import tempered, widened
from limbeck.losses.targets.protocol import TensorRows, require_positive


@dataclass(frozen=True, eq=False)
class SampledTargets(TensorRows):
    """Classes drawn from a proposal r, with importance weights: an unbiased view of the teacher's gradient.

    ids `[n, K]`: classes, as drawn, repeats and all.
    weights `[n, K]`: p_c / (K r_c), never renormalised (arXiv 2503.16870).
    classes: C. made_at: the temperature of the p that was sampled.

    These are no partition into events. Only cross_entropy and forward_kl accept them, at the temperature
    they were drawn for; for both, the value is the cross-entropy (forward KL up to the teacher's entropy,
    which samples do not give) and its expected gradient is the dense one's.
    """

    ids: Tensor
    weights: Tensor
    classes: int
    made_at: float = 1.0
    partition: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.ids.ndim != 2 or self.ids.shape != self.weights.shape:
            raise ShapeError(
                "SampledTargets need ids [n, K] and weights [n, K], but got "
                f"{list(self.ids.shape)} and {list(self.weights.shape)}."
            )

    @classmethod
    def draw(cls, logits: Tensor, k: int, temperature: float = 1.0, generator: torch.Generator | None = None) -> Self:
        """`k` classes a row, drawn with replacement from the teacher's softmax at `temperature`."""
        require_positive(temperature)
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
        """Raises TargetError: samples do not give the probabilities of all classes."""
        raise TargetError("Sampled targets do not give the probabilities of all classes; use dense or hidden targets.")

    def events(self, student_log_probs: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """The drawn classes with log-weights in the place of log-probabilities."""
        return student_log_probs.gather(-1, self.ids), widened(self.weights).log()

    def compared_by(self, divergence: Divergence, temperature: float) -> Divergence:
        """cross_entropy, for itself and for forward_kl; ObjectiveError for any other divergence."""
        if divergence not in (forward_kl, cross_entropy):
            raise ObjectiveError(
                f"Sampled targets estimate cross_entropy and forward_kl only, not {divergence.name}; "
                "use one of those, or dense or sparse targets."
            )
        if temperature != self.made_at:
            raise ObjectiveError(
                f"These samples were drawn at temperature {self.made_at:g} and are valid at no other, but the "
                f"objective's is {temperature:g}; draw them at {temperature:g}."
            )
        return cross_entropy

    def spread(self, slope: Tensor, student_log_probs: Tensor, log_q: Tensor) -> Tensor:
        """The slope of each draw is added to its class; a class that was drawn twice gets both."""
        return torch.zeros_like(student_log_probs).scatter_add_(-1, self.ids, slope)

    def bad_rows(self, divergence: Divergence) -> Tensor:
        """Rows with an id outside the classes, or a weight that is negative or not finite."""
        bad = ((self.ids < 0) | (self.ids >= self.classes)).any(-1)
        return bad | ~((self.weights >= 0) & self.weights.isfinite()).all(-1)
