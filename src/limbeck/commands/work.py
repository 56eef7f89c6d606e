"""What `limbeck distill` is about to do, whatever kind of model it is for."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Work:
    """A student, the data by split, and how both are trained and measured.

    teacher: what training listens to; None for labels alone.
    splits: "train", "test" and, where there is one, "validation". with_trainer: what DistillTrainer is given besides.
    labelled: the part of the training examples that a baseline learns from.
    measure: `(student, baseline or None, curves, batch_size) -> results`, of both as they are by then.
    """

    student: nn.Module
    teacher: Any
    splits: Mapping[str, Any]
    with_trainer: Mapping[str, Any]
    labelled: Any
    measure: Callable[[nn.Module, nn.Module | None, Mapping[str, Any], int], dict[str, Any]]
    label_names: tuple[str, ...] | None = None
