"""Sources: what turns the batches of a transfer set into the batches that are trained on.

    DistillTrainer(student, teacher, train_dataset=examples, source=my_source)

A source is a callable `source(batches, student, epoch) -> batches`. The trainer calls it once per optimizer step with
all of the step's micro-batches, on the training device, before any position of them is counted: labels, masks and
weights that a source changes are counted as it returns them. Evaluation sets never pass through a source.

What every source guarantees (tests/contracts/test_sources.py):
- It returns as many batches as it was given, in their order, and leaves those it was given unchanged.
- The result is a function of the batches' rows, the epoch and the source's seed: no global random generator, and a row
  is the same whichever rows share its batch, so that accumulation and interrupted runs change nothing.
- The student's weights, modes and gradients stay as they were.

What this file does not know: teachers, objectives, where batches come from.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import nn

from limbeck.errors import DataError
from limbeck.networks.asking import Batch


class Source(Protocol):
    """Anything that returns the batches to be trained on."""

    def __call__(self, batches: list[Batch], student: nn.Module, epoch: int) -> list[Batch]:
        """The final batches of one optimizer step, one for each of `batches`.

        batches: dicts of tensors, on the training device.
        student: the model in training, in any mode; run it under `limbeck.networks.modes.evaluating`.
        epoch: from 0.
        """


@dataclass(frozen=True)
class Augmented:
    """Applies an augmentation to every batch.

    augment: `(batch, epoch) -> batch`, such as `limbeck.jitter(2)`, or the one that replays the views of a stored set
        together with their targets (`StoredTeacher.replayed`).
    """

    augment: Callable[[Batch, int], Batch]

    def __call__(self, batches: list[Batch], student: nn.Module, epoch: int) -> list[Batch]:
        """The augmented batches."""
        return [self.augment(batch, epoch) for batch in batches]


@dataclass(frozen=True)
class InOrder:
    """Applies sources one after the other. sources: the first is applied to the batches of the transfer set."""

    sources: tuple[Source, ...] = ()

    def __call__(self, batches: list[Batch], student: nn.Module, epoch: int) -> list[Batch]:
        """The batches that the last source returns; DataError where one returns more or fewer than it was given."""
        for source in self.sources:
            given, batches = len(batches), list(source(batches, student, epoch))
            if len(batches) != given:
                raise DataError(
                    f"A source must return one batch for each it is given, but {source!r} was given {given} and "
                    f"returned {len(batches)}; change the rows within the batches instead."
                )
        return batches
