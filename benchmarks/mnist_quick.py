"""MNIST in minutes: how many errors soft targets save (arXiv 1503.02531, section 3).

    LIMBECK_DATA=data python benchmarks/mnist_quick.py        # data/mnist holds the four IDX files

Teacher: 784-1200-1200-10 with dropout and max-norm, on images jittered by up to 2 pixels. Student: 784-800-800-10
without any regularisation, on the images as they are, once on the hard labels and once on those and the teacher's
soft targets at T = 20: same initial weights, same batches, same steps. Errors are those of the 10,000 test images,
which are looked at once, at the end.
"""

import copy
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

import limbeck

TEACHER_EPOCHS, STUDENT_EPOCHS = 25, 20
ON_LABELS = limbeck.Objective(soft_weight=0.0, hard_weight=1.0)
DISTILLED = limbeck.Objective(temperature=20.0, hard_weight=0.1)
AT_LEAST_FEWER = 0.35
OUTPUT = Path("runs/benchmarks")


def main() -> None:
    """Trains the three nets, prints the table and writes runs/benchmarks/mnist_quick.json."""
    folder = Path(os.environ.get("LIMBECK_DATA", "absent"), "mnist")
    if not folder.is_dir():
        print("mnist_quick: skipped; set LIMBECK_DATA to a folder that has mnist/ with the four IDX files.")
        return
    data, seconds, evaluate = limbeck.idx(folder), {}, limbeck.evaluate

    started = time.perf_counter()
    torch.manual_seed(0)
    teacher = limbeck.mlp([784, 1200, 1200, 10], dropout=0.25, max_norm=3.5)
    fit(teacher, None, ON_LABELS, data["train"], TEACHER_EPOCHS, rate=1e-3, augment=limbeck.jitter(pixels=2))
    said = limbeck.record(teacher, data["train"])  # nothing is augmented from here on: one pass serves all epochs
    seconds["teacher"] = time.perf_counter() - started

    torch.manual_seed(1)
    baseline = limbeck.mlp([784, 800, 800, 10])
    student = copy.deepcopy(baseline)
    for role, net, heard, objective in (
        ("baseline", baseline, None, ON_LABELS),
        ("student", student, said, DISTILLED),
    ):
        started = time.perf_counter()
        fit(net, heard, objective, data["train"], STUDENT_EPOCHS)
        seconds[role] = time.perf_counter() - started

    results = evaluate(student, data["test"], baseline=baseline, teacher=teacher, latency=False)
    report(results, seconds)


def fit(
    net: nn.Module,
    teacher: Any,
    objective: Any,
    train: Any,
    epochs: int,
    batch: int = 128,
    rate: float = 2e-3,
    augment: Any = None,
) -> None:
    """The same optimizer and schedule for everyone, and for the two small nets the same batches."""
    config = limbeck.DistillConfig(
        output_dir=str(OUTPUT / "checkpoints"),
        num_train_epochs=epochs,
        per_device_train_batch_size=batch,
        learning_rate=rate,
        lr_scheduler_type="cosine",
        seed=0,
        save_strategy="no",
        logging_strategy="epoch",
        disable_tqdm=True,
    )
    limbeck.DistillTrainer(net, teacher, objective, config, train_dataset=train, augment=augment).train()


def report(results: dict[str, Any], seconds: dict[str, float]) -> None:
    errors = {role: round(results["roles"][role]["errors"]["mean"]) for role in ("teacher", "baseline", "student")}
    fewer = 1 - errors["student"] / errors["baseline"]
    names = {
        "teacher": "teacher 784-1200-1200-10, dropout, max-norm, jitter",
        "baseline": "784-800-800-10, hard labels",
        "student": "784-800-800-10, hard labels and soft targets at T = 20",
    }
    print(f"\n{'':56}{'errors of 10,000':>17}{'seconds':>9}")
    for role, name in names.items():
        print(f"{name:56}{errors[role]:17}{seconds[role]:9.0f}")
    print(f"\n{fewer:.0%} fewer errors than on hard labels (wanted: at least {AT_LEAST_FEWER:.0%}).")
    print(results["verdict"]["sentence"])
    used = os.times()
    print(
        f"{sum(seconds.values()) / 60:.1f} minutes, {(used.user + used.system) / 60:.1f} of them CPU time in all;",
        end=" ",
    )
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    OUTPUT.mkdir(parents=True, exist_ok=True)
    said = {"errors": errors, "fewer": fewer, "seconds": seconds, "threads": torch.get_num_threads()}
    (OUTPUT / "mnist_quick.json").write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")
    if fewer < AT_LEAST_FEWER:
        sys.exit("mnist_quick: missed.")


if __name__ == "__main__":
    main()
