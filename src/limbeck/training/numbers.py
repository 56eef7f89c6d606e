"""Numbers in standard units while a student learns them, so that labels of any size are learned alike.

The student's values, the teacher's targets and the labels of each of the D numbers of an example are compared as
`(value - center) / scale`, with the mean and the standard deviation of the training labels.

What this file does not know: the loss, how a network's outputs become values in the units of the labels.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from limbeck.losses.targets import SoftTargets
from limbeck.losses.targets.gaussian import require_gaussian
from limbeck.networks.outputs import Task


@dataclass(frozen=True)
class Units:
    """center, scale: one of each per number, `[D]`."""

    center: tuple[float, ...]
    scale: tuple[float, ...]

    def of_values(self, values: Tensor) -> Tensor:
        """The student's values `[n, D, 1 or 2]` in standard units."""
        center, scale = self._tensors(values.device)
        mean = (values[..., 0] - center) / scale
        if values.shape[-1] == 1:
            return mean[..., None]
        return torch.stack([mean, values[..., 1] - 2 * scale.log()], -1)

    def of_labels(self, labels: Tensor | None) -> Tensor | None:
        """Labels `[n, D]` in standard units."""
        if labels is None:
            return None
        center, scale = self._tensors(labels.device)
        return (labels.float() - center) / scale

    def of_targets(self, targets: SoftTargets | None) -> SoftTargets | None:
        """The teacher's targets, `[n * D]`, in standard units."""
        if targets is None:
            return None
        numbers = require_gaussian(targets)
        repeats = len(numbers) // len(self.center)
        center, scale = (x.repeat(repeats) for x in self._tensors(numbers.mean.device))
        return numbers.in_units(center, scale)

    def _tensors(self, device: torch.device) -> tuple[Tensor, Tensor]:
        return torch.tensor(self.center, device=device), torch.tensor(self.scale, device=device)


def units_of(task: Task, examples: Any) -> Units:
    """The units of a run: the student's own where its outputs are scaled, else those of the labels; else 0 and 1.

    examples: the training examples; their `labels` `[N]` or `[N, D]` are numbers, nan where one is missing.
    """
    if task.scale:
        return Units(task.center, task.scale)
    assert task.outputs is not None
    labels = getattr(examples, "labels", None)
    if not isinstance(labels, Tensor) or not labels.is_floating_point():
        return Units((0.0,) * task.outputs, (1.0,) * task.outputs)
    return Units(*center_and_scale(labels))


def center_and_scale(labels: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The mean and the standard deviation of each number, over the labels `[N]` or `[N, D]` that are not nan.

    A number that does not vary, or has no label, has the scale 1.
    """
    values = labels.reshape(len(labels), -1).double()
    center = values.nanmean(0).nan_to_num(0.0)
    scale = ((values - center) ** 2).nanmean(0).sqrt().nan_to_num(0.0)
    scale = torch.where(scale > 0, scale, 1.0)
    return tuple(center.tolist()), tuple(scale.tolist())
