"""Augmentation of a gathered batch, the same view for teacher and student.

An augmentation is a callable `(batch, epoch) -> batch`, a pure function of its seed, the epoch and the
batch's row ids: what an example looks like does not depend on which others share its batch, on their order,
on workers or on a restart. It runs where the batch is.

    augment = jitter(pixels=2)
    batch = augment(batch, epoch=0)

What this file does not know: models, transfer sets, training.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from limbeck.errors import DataError
from limbeck.networks.asking import TEACHER_PREFIX, Batch
from limbeck.transfer import draws

Uniform = Callable[[int], Tensor]
"""`uniform(k)`: k numbers for every example, `[n, k]` float32 in [0, 1); each call draws new ones."""


def jitter(pixels: int, seed: int = 0, column: str = "inputs") -> "Augmentation":
    """Shift each image by a random offset, uniform over -pixels to pixels, in both directions.

    The images are `[n, H, W]` or `[n, C, H, W]`; pixels shifted in from outside are zero. This is how
    the MNIST teacher of arXiv 1503.02531 (section 3) is trained, with 2 pixels.
    """
    if pixels < 0 or int(pixels) != pixels:
        raise DataError(f"jitter needs a whole number of pixels, 0 or more, but got {pixels}.")

    def shift(images: Tensor, uniform: Uniform) -> Tensor:
        offsets = (uniform(2) * (2 * pixels + 1)).long() - pixels
        return _shifted(images, offsets, pixels)

    return Augmentation(shift, seed, column, name=f"jitter(pixels={pixels}")


def augmentation(
    function: Callable[[Tensor, Uniform], Tensor], seed: int = 0, column: str = "inputs", name: str | None = None
) -> "Augmentation":
    """An `Augmentation` that calls `function(images, uniform) -> images` on a whole column `[n, ...]`.

    function: draws its random numbers with `uniform(k)` only, `[n, k]` float32 in [0, 1), one stream per example.
    seed: two augmentations of one run need different seeds, or they draw the same numbers.
    column: the column that is augmented.
    name: how manifests describe the function and its settings; by default its module and name.
    """
    name = name or f"{getattr(function, '__module__', '?')}.{getattr(function, '__qualname__', repr(function))}"
    return Augmentation(function, seed, column, name=f"augmentation({name}")


@dataclass(frozen=True, repr=False)
class Augmentation:
    """A callable `(batch, epoch) -> batch`; made by `jitter` and `augmentation`.

    `teacher_<column>`, the teacher's view of the column, is augmented with the same numbers where the batch has it. The
    batch that is passed in is not changed. DataError where it lacks the column or the row ids.
    """

    function: Callable[[Tensor, Uniform], Tensor]
    seed: int
    column: str
    name: str

    def __call__(self, batch: Batch, epoch: int) -> dict[str, Tensor]:
        if self.column not in batch:
            raise DataError(
                f"{self!r} augments the column {self.column!r}, but the batch has {sorted(batch)}; pass column= the "
                "one to augment."
            )
        if "row_id" not in batch:
            raise DataError(
                f"{self!r} draws its numbers by row id, but the batch has no row_id, only {sorted(batch)}; gather "
                "batches from a limbeck.transfer.TransferSet, which gives every example its id."
            )
        views = [name for name in (self.column, TEACHER_PREFIX + self.column) if name in batch]
        augmented = {name: self.function(batch[name], self._uniform(batch["row_id"], epoch)) for name in views}
        return {**batch, **augmented}

    def _uniform(self, row_id: Tensor, epoch: int) -> Uniform:
        drawn = 0

        def uniform(count: int) -> Tensor:
            nonlocal drawn
            drawn += count
            return draws.uniform(self.seed, epoch, row_id, count, start=drawn - count)

        return uniform

    def __repr__(self) -> str:
        column = "" if self.column == "inputs" else f", column={self.column!r}"
        return f"{self.name}, seed={self.seed}{column})"


def _shifted(images: Tensor, offsets: Tensor, most: int) -> Tensor:
    """The images, each moved down and right by its `offsets` `[n, 2]` (at most `most` pixels), padded with zeros."""
    if images.dim() not in (3, 4):
        raise DataError(f"jitter takes images [n, H, W] or [n, C, H, W], but got {list(images.shape)}.")
    height, width = images.shape[-2:]
    framed = F.pad(images, (most, most, most, most))
    windows = framed.unfold(-2, height, 1).unfold(-2, width, 1)  # a view: [n, (C,) 2 most + 1, 2 most + 1, H, W]
    down, right = (most - offsets).unbind(1)
    n = torch.arange(len(images), device=images.device)
    return windows[n, down, right] if images.dim() == 3 else windows[n, :, down, right]
