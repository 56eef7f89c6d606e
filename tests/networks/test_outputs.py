"""Outputs of networks laid out by position, the task they have, and the folder that remembers it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from limbeck.errors import ConfigError, ModelError, ShapeError, TargetError
from limbeck.networks.asking import logits_of
from limbeck.networks.folder import load, save
from limbeck.networks.mlp import mlp
from limbeck.networks.outputs import CLASSES, Task, as_positions, refuse_sigmoid, settle_task, task_of, with_task
from limbeck.networks.positions import positions_of
from limbeck.transfer import arrays

G = torch.Generator().manual_seed(0)


def rows(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=G)


def test_one_logit_and_several_labels_become_pairs_whose_softmax_is_a_sigmoid() -> None:
    z = rows(5, 3)
    found = as_positions(z, Task("multi_label", outputs=3), {}, "Net")
    assert found.shape == (5, 3, 2)
    assert torch.allclose((found / 4).softmax(-1)[..., 1], (z / 4).sigmoid())
    for single in (z[:, 0], z[:, :1]):
        assert torch.allclose(as_positions(single, CLASSES, {}, "Net").softmax(-1)[:, 1], z[:, 0].sigmoid())


def test_maps_are_resized_to_the_labels_or_to_the_image_as_transformers_does() -> None:
    logits, task = rows(2, 3, 4, 4), Task("segmentation")
    wanted = nn.functional.interpolate(logits, (8, 6), mode="bilinear", align_corners=False).movedim(1, -1)
    labels = torch.zeros(2, 8, 6, dtype=torch.int64)
    assert torch.equal(as_positions(logits, task, {"labels": labels}, "Net"), wanted)
    assert torch.equal(as_positions(logits, task, {"pixel_values": rows(2, 3, 8, 6)}, "Net"), wanted)
    assert torch.equal(as_positions(logits, task, {"labels": labels[:, :4, :4]}, "Net"), logits.movedim(1, -1))
    assert as_positions(logits[:, :1], task, {"labels": labels}, "Net").shape == (2, 8, 6, 2)


def test_numbers_come_in_the_units_of_the_labels() -> None:
    z = rows(5, 4)
    task = Task("regression", outputs=2, variance=True, center=(10.0, -1.0), scale=(3.0, 0.5))
    found = as_positions(z, task, {}, "Net")
    scale = torch.tensor([3.0, 0.5])
    assert torch.allclose(found[..., 0], torch.tensor([10.0, -1.0]) + scale * z[:, :2])
    assert torch.allclose((found[..., 1] / 2).exp(), scale * (z[:, 2:] / 2).exp())
    assert torch.equal(as_positions(z[:, 0], Task("regression", outputs=1), {}, "Net"), z[:, :1, None])


def test_positions_follow_the_task_and_masks_of_examples_hold_for_each() -> None:
    batch = {
        "inputs": rows(4, 9),
        "labels": torch.zeros(4, 3, dtype=torch.int64),
        "mask": torch.tensor([True, False, True, True]),
        "weights": torch.tensor([1.0, 2.0, 3.0, 4.0]),
    }
    found = positions_of(batch, 2, Task("multi_label", outputs=3))
    assert found.shape == (4, 3)
    assert found.counts().soft.item() == 3 * (1 + 3 + 4)
    pixels = {"inputs": rows(4, 1, 5, 6)}
    assert positions_of(pixels, 3, Task("segmentation")).shape == (4, 5, 6)


@pytest.mark.parametrize(
    ("outputs", "task", "message"),
    [
        (rows(5, 2), Task("multi_label", outputs=3), r"a logit for each of 3 labels, \[n, 3\], but gave \[5, 2\]"),
        (rows(5, 2), Task("segmentation"), r"\[n, C, h, w\], but gave \[5, 2\]"),
        (rows(5, 2), Task("regression", outputs=2, variance=True), r"a mean and a log-variance for each of 2 numbers"),
        (rows(5, 1), None, 'has one output per example.*task="classification" or "regression"'),
    ],
)
def test_other_shapes_are_refused(outputs: torch.Tensor, task: Task | None, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        as_positions(outputs, task, {"labels": torch.zeros(5, 4, 4)}, "Net")


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "detection"},
        {"kind": "regression"},
        {"kind": "multi_label", "outputs": 0},
        {"kind": "classification", "outputs": 3},
        {"kind": "multi_label", "outputs": 3, "variance": True},
        {"kind": "regression", "outputs": 2, "center": (0.0,), "scale": (1.0,)},
        {"kind": "regression", "outputs": 1, "center": (0.0,), "scale": (0.0,)},
    ],
)
def test_a_task_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Task(**wrong)


def test_the_data_tells_the_task_of_networks_that_do_not_say() -> None:
    student, teacher = mlp([4, 1]), mlp([4, 1])
    numbers = arrays(rows(6, 4), rows(6), task="regression")
    assert settle_task([("student", student), ("teacher", teacher)], numbers) == Task("regression", outputs=1)
    assert task_of(teacher) == Task("regression", outputs=1)
    classes = arrays(rows(6, 4), torch.arange(6) % 2)
    assert settle_task([("student", student)], classes) == CLASSES  # a task that was only settled is replaced
    with_task(student, Task("regression", outputs=1))
    with pytest.raises(ConfigError, match="The student is for regression, and the data has labels of classification"):
        settle_task([("student", student)], classes)
    with pytest.raises(ShapeError, match="2 numbers per example, and the data 1"):
        settle_task([("student", with_task(mlp([4, 2]), Task("regression", outputs=2)))], numbers)


def test_transformers_configuration_tells_the_task() -> None:
    sizes = {"vocab_size": 16, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.BertConfig(
        **sizes, intermediate_size=8, problem_type="multi_label_classification", num_labels=5
    )
    assert task_of(transformers.BertForSequenceClassification(config)) == Task("multi_label", outputs=5)


def test_sigmoids_are_refused() -> None:
    z = rows(8, 3)
    task = Task("multi_label", outputs=3)
    refuse_sigmoid(as_positions(z, task, {}, "Net"), "student")
    with pytest.raises(TargetError, match=r"The teacher returns probabilities .*remove its sigmoid"):
        refuse_sigmoid(as_positions(z.sigmoid(), task, {}, "Net"), "teacher")


def test_a_folder_remembers_the_task_and_is_checked(tmp_path: Path) -> None:
    task = Task("regression", outputs=2, center=(1.0, 2.0), scale=(3.0, 4.0))
    network = with_task(mlp([4, 2]), task)
    save(network, tmp_path / "student")
    opened, x = load(tmp_path / "student"), rows(3, 4)
    assert task_of(opened) == task
    assert torch.equal(logits_of(opened, {"inputs": x}), logits_of(network, {"inputs": x}))
    file = tmp_path / "student" / "task.json"
    file.write_text(json.dumps({"kind": "regression", "outputs": 2, "center": [9.0, 2.0], "scale": [3.0, 4.0]}))
    with pytest.raises(ModelError, match=r"task\.json has"):
        load(tmp_path / "student")
    (tmp_path / "student" / "limbeck_model.json").unlink()
    file.write_text('{"kind": "detection"}')
    with pytest.raises(ModelError, match=r"task\.json does not say what the outputs"):
        load(tmp_path / "student")
    save(mlp([4, 2]), tmp_path / "classes")
    assert not (tmp_path / "classes" / "task.json").exists()
