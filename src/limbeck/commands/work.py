"""What `limbeck distill` trains and measures, for classifiers and language models alike."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from limbeck.networks.outputs import Task


@dataclass(frozen=True)
class Work:
    """A student, the data by split, and how both are trained and measured.

    teacher: what the student learns from; None for labels alone.
    splits: "train", "test" and, where there is one, "validation". with_trainer: further arguments of DistillTrainer.
    baseline_train: the training examples that have labels, for the baseline.
    measure: `(students, baselines, curves, batch_size) -> results`, of all models after training; no baselines, or one
        for each student.
    task: what the student's outputs mean; None for a language model.
    of_seed: `(seed, student as opened, or None for a new mlp) -> (student, with_trainer)`, for each further seed.
    """

    student: nn.Module
    teacher: Any
    splits: Mapping[str, Any]
    with_trainer: Mapping[str, Any]
    baseline_train: Any
    measure: Callable[[Sequence[nn.Module], Sequence[nn.Module], Mapping[str, Any], int], dict[str, Any]]
    of_seed: Callable[[int, nn.Module | None], tuple[nn.Module, Mapping[str, Any]]]
    label_names: tuple[str, ...] | None = None
    task: Task | None = None
