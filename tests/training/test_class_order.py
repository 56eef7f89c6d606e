"""Oracle: teachers whose classes are those of the labels in a known order."""

import logging
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from limbeck import Objective, arrays, mlp
from limbeck.errors import DataError
from limbeck.networks.checks import check_label_names
from limbeck.training.class_order import better_order, check_numbered_names, warn_of_another_order
from limbeck.training.config import DistillConfig
from limbeck.training.trainer import DistillTrainer

AS_TEXT = sorted(range(12), key=str)  # 0, 1, 10, 11, 2, ...


def labels_of(n: int, classes: int, seed: int = 0) -> Tensor:
    return torch.randint(classes, (n,), generator=torch.Generator().manual_seed(seed))


def in_order(labels: Tensor, order: list[int]) -> Tensor:
    """The teacher's class of each label."""
    return torch.tensor(order)[labels]


@pytest.mark.parametrize(
    ("n", "order"), [(64, [AS_TEXT.index(i) for i in range(12)]), (16, [1, 0]), (64, [2, 0, 1, 3])]
)
def test_the_order_is_found(n: int, order: list[int]) -> None:
    labels = labels_of(n, len(order))
    assert better_order(in_order(labels, order), labels, len(order)) == order
    noisy = in_order(labels, order)
    noisy[::8] = labels_of(len(noisy[::8]), len(order), 1)
    assert better_order(noisy, labels, len(order)) == order


@pytest.mark.parametrize("classes", [2, 3, 12, 100, 1000])
@pytest.mark.parametrize("n", [16, 32, 128])
def test_neither_a_good_teacher_nor_one_that_guesses_is_suspected(n: int, classes: int) -> None:
    for seed in range(20):
        labels, guess = labels_of(n, classes, seed), labels_of(n, classes, 1000 + seed)
        assert better_order(guess, labels, classes) is None
        assert better_order(labels, labels, classes) is None
        assert better_order(torch.zeros_like(labels), labels, classes) is None
        half = torch.where(torch.arange(n) % 3 == 0, labels, guess)
        assert better_order(half, labels, classes) is None


def test_too_few_labels_tell_nothing() -> None:
    labels = labels_of(15, 2)
    assert better_order(1 - labels, labels, 2) is None


def test_the_warning_names_both_figures_and_the_order(caplog: pytest.LogCaptureFixture) -> None:
    labels = labels_of(60, 3)
    scores = torch.eye(3)[in_order(labels, [1, 2, 0])]
    unknown = torch.full((4,), -100)
    warn_of_another_order(torch.cat([scores, torch.ones(4, 3)]), torch.cat([labels, unknown]))
    (said,) = [record.getMessage() for record in caplog.records]
    assert "agrees with 0% of the labels of the first batch, but would with 100%" in said
    assert "0 -> 1, 1 -> 2, 2 -> 0" in said


def train_with(folder: Path, order: list[int]) -> DistillTrainer:
    labels = labels_of(64, len(order))
    data = arrays(torch.eye(len(order))[labels], labels)

    def teacher(batch: Any) -> Tensor:
        return 9 * torch.eye(len(order))[in_order(batch["inputs"].argmax(1), order)]

    config = DistillConfig(output_dir=str(folder), per_device_train_batch_size=64, max_steps=1, report_to=[])
    student = mlp([len(order), 4, len(order)])
    return DistillTrainer(student, teacher, Objective(hard_weight=0.5), config, train_dataset=data)


@pytest.mark.parametrize("order", [[1, 0], [AS_TEXT.index(i) for i in range(12)]])
def test_training_warns_before_it_begins(tmp_path: Path, order: list[int], caplog: pytest.LogCaptureFixture) -> None:
    train_with(tmp_path, order).check()
    assert "probably not the same" in caplog.text
    caplog.clear()
    train_with(tmp_path, sorted(order)).check()
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_classes_called_by_numbers_in_another_order_are_refused() -> None:
    names = [str(number) for number in AS_TEXT]
    said = re.escape("Class 2 is called '10' by the teacher, but in the transfer set the label 2 is class 2")
    with pytest.raises(DataError, match=said):
        check_numbered_names({"the teacher": names}, numbered=["the transfer set"])
    check_numbered_names({"the teacher": names}, numbered=[])  # the set has the same names, and they were compared
    check_label_names({"the teacher": names, "the transfer set": names})
    for other in (sorted(names, key=int), ["1", "2", "3"], ["cat", "dog"]):
        check_numbered_names({"the teacher": other}, numbered=["the transfer set"])
