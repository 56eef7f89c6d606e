"""SoftTargets, the protocol of every kind of targets, and what the kinds have in common."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Protocol, Self, TypeAlias, runtime_checkable

import torch
from torch import Tensor

from limbeck.errors import ObjectiveError
from limbeck.losses.divergences import Divergence

REQUIRED = ("__len__", "__getitem__", "num_classes", "to", "events", "compared_by", "bad_rows")
"""Members that a user-defined kind needs. Without `complete` and `all_log_probs`, logs lack the statistics that need
every class; without `spread`, its gradient comes from autograd. More optional members: defaults.py."""


Index: TypeAlias = int | slice | Sequence[int] | Tensor
"""Some rows: their numbers, or a mask `[n]`."""


@runtime_checkable
class SoftTargets(Protocol):
    """A teacher's predictions for `len(targets)` positions over `num_classes` classes."""

    @property
    def num_classes(self) -> int: ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Index) -> "SoftTargets":
        """The targets of some rows: a slice, an index tensor or a boolean mask."""
        ...

    def to(self, device: torch.device | str) -> "SoftTargets": ...

    def events(self, student_log_probs: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """`(log_q, log_p)`, `[n, E]` each: the student's and the teacher's log-probabilities per event."""
        ...

    @property
    def complete(self) -> bool:
        """Whether every class is a separate event, so that `all_log_probs` are known without a student."""
        ...

    def all_log_probs(self, temperature: float) -> Tensor:
        """The teacher's `[n, C]` at this temperature; TargetError where the targets are not complete."""
        ...

    def spread(self, slope: Tensor, student_log_probs: Tensor, log_q: Tensor) -> Tensor:
        """d value / d student_log_probs `[n, C]`, from `slope [n, E]` = d value / d log_q.

        student_log_probs `[n, C]` is the argument of `events`, log_q `[n, E]` its first result.
        """
        ...

    def compared_by(self, divergence: Divergence, temperature: float) -> Divergence:
        """The divergence to evaluate on these events; ObjectiveError where it would be wrong."""
        ...

    def bad_rows(self, divergence: Divergence) -> Tensor:
        """`[n]` bool, on the targets' device: rows that are not a distribution, or that `divergence` cannot use."""
        ...


@dataclass(frozen=True, eq=False)
class TensorRows:
    """A dataclass whose tensors all have one entry per position: slicing, moving, counting and concatenating."""

    def __len__(self) -> int:
        return len(self._tensors()[0][1])

    def __getitem__(self, rows: Index) -> Self:
        return self._map(lambda tensor: tensor[rows])

    def to(self, device: torch.device | str) -> Self:
        """The same targets on another device."""
        return self._map(lambda tensor: tensor.to(device))

    def followed_by(self, others: Sequence["TensorRows"]) -> Self:
        """These rows, then those of the others, which are of the same kind and settings."""
        every = [self, *others]
        return replace(
            self, **{name: torch.cat([getattr(each, name) for each in every]) for name, _ in self._tensors()}
        )

    def _map(self, change: Callable[[Tensor], Tensor]) -> Self:
        return replace(self, **{name: change(tensor) for name, tensor in self._tensors()})

    def _tensors(self) -> list[tuple[str, Tensor]]:
        pairs = ((field.name, getattr(self, field.name)) for field in fields(self))
        return [(name, value) for name, value in pairs if isinstance(value, Tensor)]


class EveryClass:
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
        """The slope itself: every class is an event."""
        return slope


def require_positive(temperature: float) -> None:
    if not 0 < temperature < math.inf:
        raise ObjectiveError(f"A temperature is a finite number above 0, but is {temperature}.")
