"""What `limbeck distill` trains and measures, for classifiers and language models alike."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Work:
    """A student, the data by split, and how both are trained and measured.

    teacher: what the student learns from; None for labels alone.
    splits: "train", "test" and, where there is one, "validation". with_trainer: further arguments of DistillTrainer.
    baseline_train: the training examples that have labels, for the baseline.
    measure: `(student, baseline or None, curves, batch_size) -> results`, of both models after training.
    """

    student: nn.Module
    teacher: Any
    splits: Mapping[str, Any]
    with_trainer: Mapping[str, Any]
    baseline_train: Any
    measure: Callable[[nn.Module, nn.Module | None, Mapping[str, Any], int], dict[str, Any]]
    label_names: tuple[str, ...] | None = None
