"""Augmentation of a gathered batch, the same view for teacher and student.

An augmentation is a callable `(batch, epoch) -> batch`, a pure function of its seed, the epoch and the
batch's row ids: what an example looks like does not depend on which others share its batch, on their order,
on workers or on a restart. It runs where the batch is.

    augment = jitter(pixels=2)
    batch = augment(batch, epoch=0)

What this file does not know: models, transfer sets, training.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from limbeck.errors import DataError
from limbeck.networks.asking import TEACHER_PREFIX
from limbeck.transfer import draws

Uniform = Callable[[int], Tensor]
"""`uniform(k)`: k numbers for every example, `[n, k]` float32 in [0, 1); each call draws new ones."""


def jitter(pixels: int, seed: int = 0, column: str = "inputs") -> "Augmentation":
    """Shift every image by an offset of its own, -pixels to pixels in both directions, all equally likely.

    The images are `[n, H, W]` or `[n, C, H, W]`; what comes in from outside is zero. The MNIST teacher of
    arXiv 1503.02531 (section 3) is trained so, with 2 pixels.
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
    """Your own augmentation: `function(images, uniform) -> images` on a whole column `[n, ...]`.

    `uniform(k)` gives `[n, k]` random numbers in [0, 1), each example's from its own stream; use no others.
    name: how manifests describe the function and its settings; by default its module and name. Two
    augmentations of one run need different seeds, or they draw the same numbers.
    """
    name = name or f"{getattr(function, '__module__', '?')}.{getattr(function, '__qualname__', repr(function))}"
    return Augmentation(function, seed, column, name=f"augmentation({name}")


@dataclass(frozen=True, repr=False)
class Augmentation:
    """A callable `(batch, epoch) -> batch`; made by `jitter` and `augmentation`.

    Where the batch has `teacher_<column>`, the teacher's own view of it, that gets the same numbers. The batch
    passed in is left as it is. DataError where it lacks the column or the row ids.
    """

    function: Callable[[Tensor, Uniform], Tensor]
    seed: int
    column: str
    name: str

    def __call__(self, batch: Mapping[str, Tensor], epoch: int) -> dict[str, Tensor]:
        if self.column not in batch:
            raise DataError(
                f"{self!r} augments the column {self.column!r}, but the batch has {sorted(batch)}; give column= the "
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
    """Each image moved down and right by its `offsets` `[n, 2]`, of at most `most`, with zeros behind it."""
    if images.dim() not in (3, 4):
        raise DataError(f"jitter takes images [n, H, W] or [n, C, H, W], but got {list(images.shape)}.")
    height, width = images.shape[-2:]
    framed = F.pad(images, (most, most, most, most))
    windows = framed.unfold(-2, height, 1).unfold(-2, width, 1)  # a view: [n, (C,) 2 most + 1, 2 most + 1, H, W]
    down, right = (most - offsets).unbind(1)
    n = torch.arange(len(images), device=images.device)
    return windows[n, down, right] if images.dim() == 3 else windows[n, :, down, right]
