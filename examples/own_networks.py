"""Distilling your own networks: plain PyTorch modules, defined below, that do not depend on Limbeck.

A ResNet-56 that was trained on all of CIFAR-10 teaches a ResNet-20 on 4,000 images without labels. The baseline is the
same ResNet-20, from the same initial weights and for as many steps, trained on the labels of these images, or a tenth.

    LIMBECK_DATA=... python examples/own_networks.py

$LIMBECK_DATA holds cifar10_subset (binary rows: 1 label byte, 3,072 bytes of pixels) and resnet_cifar10 (weights).
The results are in docs/own_networks.md.
"""

import argparse
import copy
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import limbeck
from limbeck.commands.console import print_results

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


class Block(nn.Module):
    """Two convolutions beside a shortcut without parameters: every second pixel, new channels zero (option A)."""

    def __init__(self, channels_in: int, channels: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.stride, self.new = stride, (channels - channels_in) // 2

    def forward(self, x: Tensor) -> Tensor:
        shortcut = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.new, self.new))
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + shortcut)


class ResNet(nn.Module):
    """The ResNet for CIFAR-10 of arXiv 1512.03385, section 4.2: images [n, 3, 32, 32] in [0, 1] -> logits [n, 10]."""

    def __init__(self, blocks: int):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(Block(16, 16, 1), *(Block(16, 16, 1) for _ in range(blocks - 1)))
        self.layer2 = nn.Sequential(Block(16, 32, 2), *(Block(32, 32, 1) for _ in range(blocks - 1)))
        self.layer3 = nn.Sequential(Block(32, 64, 2), *(Block(64, 64, 1) for _ in range(blocks - 1)))
        self.linear = nn.Linear(64, 10)
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1((images - self.mean) / self.std)))
        return self.linear(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))


def resnet20() -> ResNet:
    """Returns the student, with new weights."""
    return ResNet(blocks=3)


def resnet56_pretrained() -> ResNet:
    """Returns the teacher, with its published weights."""
    network = ResNet(blocks=9)
    with np.load(Path(os.environ["LIMBECK_DATA"], "resnet_cifar10", "resnet56.npz")) as arrays:
        weights = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    network.load_state_dict(weights)
    return network


def cifar10() -> dict[str, limbeck.TransferSet]:
    """Returns the transfer sets: "train" with 4,000 labelled images, "test" with 1,000."""
    files = {"train": "train_first4000.bin", "test": "test_first1000.bin"}
    sets = {}
    for split, file in files.items():
        rows = np.fromfile(Path(os.environ["LIMBECK_DATA"], "cifar10_subset", file), dtype=np.uint8).reshape(-1, 3073)
        sets[split] = limbeck.arrays(rows[:, 1:].reshape(-1, 3, 32, 32), rows[:, 0], label_names=CLASSES)
    return sets


def mirror(images: Tensor, uniform: Callable[[int], Tensor]) -> Tensor:
    """Mirrors half of the images."""
    return torch.where(uniform(1)[:, :, None, None] < 0.5, images.flip(3), images)


mirrored, shifted = limbeck.augmentation(mirror, seed=0), limbeck.jitter(pixels=4, seed=1)


def view(batch: dict[str, Tensor], epoch: int) -> dict[str, Tensor]:
    """The augmented view of a batch in an epoch, the same for teacher and student."""
    return shifted(mirrored(batch, epoch), epoch)


def train(student: nn.Module, examples: limbeck.TransferSet, steps: int, teacher: nn.Module | None = None) -> nn.Module:
    """Trains the student on the teacher's soft targets, or without a teacher on the labels, with the same settings."""
    settings = limbeck.DistillConfig(
        output_dir="runs/own_networks",
        max_steps=steps,
        per_device_train_batch_size=40,
        learning_rate=4e-3,
        weight_decay=0.05,
        warmup_steps=0.1,
        lr_scheduler_type="cosine",
        logging_steps=100,
        save_strategy="no",
    )
    objective = limbeck.Objective(temperature=1.0) if teacher is not None else None
    trainer = limbeck.DistillTrainer(student, teacher, objective, settings, train_dataset=examples, augment=view)
    trainer.train()
    return student


def main(data: dict[str, limbeck.TransferSet], steps: int) -> dict[str, dict[str, Any]]:
    """Evaluates the student distilled without labels against the same student trained on every label or on a tenth."""
    teacher, initial = resnet56_pretrained(), resnet20()
    student = train(copy.deepcopy(initial), data["train"], steps, teacher)
    limbeck.save(student, "runs/own_networks/student", label_names=CLASSES)
    _, tenth = data["train"].split(0.1)
    results = {}
    for name, labelled in {"every_label": data["train"], "tenth_of_labels": tenth}.items():
        baseline = train(copy.deepcopy(initial), labelled, steps)
        results[name] = limbeck.evaluate(student, data["test"], baseline=baseline, teacher=teacher)
        limbeck.write_results(results[name], f"runs/own_networks/{name}.json")
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1200, help="of every training, in batches of 40")
    steps = parser.parse_args().steps
    torch.manual_seed(0)
    for name, results in main(cifar10(), steps).items():
        assert results["roles"]["teacher"]["errors"]["mean"] == 74  # as published: 926 of 1,000 right
        print(f"\nBaseline: {name}")
        print_results(results)
