"""Classifiers whose weights are stored in half precision are trained in float32 by the commands."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from limbeck.networks.folder import load

SIZES = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with images of three classes, and a student and a teacher in bfloat16."""
    drawn = np.random.default_rng(0)
    for i in range(24):
        path = tmp_path / "images" / f"class{i % 3}"
        path.mkdir(parents=True, exist_ok=True)
        Image.fromarray(drawn.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path / f"{i}.png")
    for name, seed in (("student", 0), ("teacher", 1)):
        torch.manual_seed(seed)
        config = transformers.ViTConfig(**SIZES, image_size=8, patch_size=4, num_labels=3)
        transformers.ViTForImageClassification(config).to(torch.bfloat16).save_pretrained(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


WORDS = ("--student", "student", "--teacher", "teacher", "--data", "images", "--learning_rate", "1e-5")


def test_every_weight_of_a_classifier_in_bfloat16_moves(work: Path, limbeck_says: Any) -> None:
    """A step of 1e-5 is less than half the spacing of bfloat16 numbers of a weight's size, and would be lost."""
    before = load("student").float().state_dict()
    code, out, err = limbeck_says("distill", *WORDS, "--max_steps", "1", "--output_dir", "run", "--report_to", "none")
    assert code == 0, out + err
    assert "The student's weights are bfloat16: they are trained in float32" in out
    after = load("run/student").state_dict()
    assert {weight.dtype for weight in after.values()} == {torch.float32}
    read = [
        name for name in before if "key.bias" not in name and "k_proj.bias" not in name
    ]  # no gradient reaches these
    moved = sum(int((after[name] != before[name]).sum()) for name in read)
    assert moved > 0.95 * sum(before[name].numel() for name in read)


def test_tune_tries_students_in_float32(work: Path, limbeck_says: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from limbeck.training.trainer import DistillTrainer

    trained = []
    whole = DistillTrainer.train

    def train(self: DistillTrainer, *given: Any, **named: Any) -> Any:
        trained.append({weight.dtype for weight in self.model.parameters()})
        return whole(self, *given, **named)

    monkeypatch.setattr(DistillTrainer, "train", train)
    few = ("--temperatures", "2.0", "--hard_weights", "0.0", "--seeds", "1", "--max_steps", "1")
    code, out, err = limbeck_says("tune", *WORDS, *few, "--output_dir", "tuned", "--report_to", "none")
    assert code == 0, out + err
    assert trained == [{torch.float32}] * len(trained)
    assert trained


def test_a_classifier_in_float32_is_trained_without_a_word(work: Path, limbeck_says: Any) -> None:
    load("student").float().save_pretrained("student")
    code, out, err = limbeck_says("distill", *WORDS, "--max_steps", "1", "--output_dir", "run", "--report_to", "none")
    assert code == 0, out + err
    assert "trained in float32" not in out


def test_a_teacher_in_bfloat16_is_asked_in_bfloat16(work: Path) -> None:
    """A convolution of bfloat16 weights cannot read the float32 pixels of a batch."""
    from limbeck.networks.asking import logits_of

    config = transformers.ConvNextConfig(depths=[1, 1], hidden_sizes=[4, 8], num_stages=2, num_labels=3)
    model = transformers.ConvNextForImageClassification(config).eval()
    pixels = torch.rand(2, 3, 32, 32)
    half = logits_of(model.to(torch.bfloat16), {"pixel_values": pixels})
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), model.float()(pixel_values=pixels).logits, rtol=0.05, atol=0.05)
