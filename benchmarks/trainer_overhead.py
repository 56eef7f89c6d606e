"""What DistillTrainer costs beside a bare PyTorch loop that does the same arithmetic.

    LIMBECK_DATA=data python benchmarks/trainer_overhead.py       # data/mnist holds the four IDX files

One epoch of MNIST distillation (student 784-w-w-10, teacher 784-1200-1200-10, T = 20 and hard labels; AdamW,
linear schedule, clipping), from the call of `train` to its return: all that Limbeck, Trainer and Accelerate do is in
it. The two take turns in one run, and a ratio is the median over these pairs. Before that, both train a few steps on
the same batches from the same weights, and must end with the same weights.
"""

import argparse
import copy
import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F

import limbeck

AT_MOST = 1.25
TEMPERATURE, HARD_WEIGHT, LEARNING_RATE, MAX_NORM = 20.0, 0.1, 1e-3, 1.0
CASES = [(128, 800, False), (256, 800, False), (128, 1200, False), (256, 1200, False), (128, 800, True)]
OUTPUT = Path("runs/benchmarks")


def main() -> None:
    """Prints a row for each batch size, width and precision; writes runs/benchmarks/trainer_overhead.json."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=3, help="how often each of the two trains an epoch")
    parser.add_argument("--steps", type=int, help="fewer steps than an epoch has")
    chosen = parser.parse_args()
    folder = Path(os.environ.get("LIMBECK_DATA", "")) / "mnist"
    if "LIMBECK_DATA" not in os.environ or not folder.is_dir():
        sys.exit(print("trainer_overhead: skipped, LIMBECK_DATA names no folder with mnist/ in it."))
    transformers.logging.set_verbosity_error()
    train = limbeck.idx(folder)["train"]

    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; medians of {chosen.pairs} pairs of epochs")
    print(f"{'batch':>5}{'width':>7}  {'precision':10}{'bare ms/step':>14}{'Limbeck ms/step':>17}{'ratio':>7}  pairs")
    rows = []
    for batch, width, bf16 in CASES:
        steps = chosen.steps or -(-len(train) // batch)
        if bf16:
            steps = min(steps, 100)  # many CPUs emulate bf16, slowly
        same_arithmetic(train, batch, width, bf16)
        pairs = [pair(train, batch, width, bf16, steps) for _ in range(chosen.pairs)]
        bare, ours = (1e3 * statistics.median(seconds) / steps for seconds in zip(*pairs, strict=True))
        ratios = [b / a for a, b in pairs]
        row = {"batch": batch, "width": width, "precision": "bf16" if bf16 else "fp32", "steps": steps}
        rows.append(row | {"bare_ms": bare, "limbeck_ms": ours, "ratio": statistics.median(ratios), "ratios": ratios})
        said = " ".join(f"{ratio:.2f}" for ratio in ratios)
        print(
            f"{batch:5}{width:7}  {row['precision']:10}{bare:14.2f}{ours:17.2f}{rows[-1]['ratio']:7.2f}  {said}",
            flush=True,
        )
    OUTPUT.mkdir(parents=True, exist_ok=True)
    said = {"torch": torch.__version__, "threads": torch.get_num_threads(), "at_most": AT_MOST, "rows": rows}
    (OUTPUT / "trainer_overhead.json").write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")
    most = max(row["ratio"] for row in rows)
    print(f"\nThe highest ratio is {most:.2f} (wanted: at most {AT_MOST}).")
    if most > AT_MOST:
        sys.exit("trainer_overhead: missed.")


def pair(train: limbeck.TransferSet, batch: int, width: int, bf16: bool, steps: int) -> tuple[float, float]:
    """Seconds of the bare loop and of Limbeck, from the same weights, one after the other."""
    torch.manual_seed(0)
    teacher, student = limbeck.mlp([784, 1200, 1200, 10]).eval(), limbeck.mlp([784, width, width, 10])
    order = list(torch.randperm(len(train)).split(batch))[:steps]
    images, labels = images_of(train), train.labels

    other = copy.deepcopy(student)
    started = time.perf_counter()
    bare(other, teacher, images, labels, order, bf16)
    bare_seconds = time.perf_counter() - started

    trainer = through_limbeck(student, teacher, train, batch, bf16, steps)
    started = time.perf_counter()
    trainer.train()
    return bare_seconds, time.perf_counter() - started


def bare(
    student: nn.Module, teacher: nn.Module, images: Tensor, labels: Tensor, order: Sequence[Tensor], bf16: bool
) -> None:
    """What one would write by hand."""
    optimizer = torch.optim.AdamW(student.parameters(), LEARNING_RATE, weight_decay=0.0, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / len(order))
    student.train()
    for rows in order:
        inputs, hard = images[rows].float().div_(255), labels[rows]
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            with torch.no_grad():
                teacher_logits = teacher(inputs).float()
            logits = student(inputs).float()
        log_q, log_p = (logits / TEMPERATURE).log_softmax(-1), (teacher_logits / TEMPERATURE).log_softmax(-1)
        soft = F.kl_div(log_q, log_p, log_target=True, reduction="batchmean")
        loss = TEMPERATURE**2 * soft + HARD_WEIGHT * F.cross_entropy(logits, hard)
        loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), MAX_NORM)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()


def through_limbeck(
    student: nn.Module, teacher: nn.Module, train: limbeck.TransferSet, batch: int, bf16: bool, steps: int, **kwargs
) -> limbeck.DistillTrainer:
    """The same with DistillTrainer."""
    config = limbeck.DistillConfig(
        output_dir=str(OUTPUT / "checkpoints"),
        max_steps=steps,
        per_device_train_batch_size=batch,
        learning_rate=LEARNING_RATE,
        max_grad_norm=MAX_NORM,
        bf16=bf16,
        use_cpu=True,
        save_strategy="no",
        disable_tqdm=True,
    )
    objective = limbeck.Objective(temperature=TEMPERATURE, hard_weight=HARD_WEIGHT)
    trainer = limbeck.DistillTrainer(student, teacher, objective, config, train_dataset=train, **kwargs)
    trainer.remove_callback(transformers.PrinterCallback)
    return trainer


def same_arithmetic(train: limbeck.TransferSet, batch: int, width: int, bf16: bool, steps: int = 10) -> None:
    """Both, on the same batches from the same weights, end with the same weights; and both are warm after that."""
    torch.manual_seed(0)
    teacher, student = limbeck.mlp([784, 1200, 1200, 10]).eval(), limbeck.mlp([784, width, width, 10])
    other, seen = copy.deepcopy(student), []
    through_limbeck(
        student, teacher, train, batch, bf16, steps, augment=lambda batch, epoch: seen.append(batch["row_id"]) or batch
    ).train()
    bare(other, teacher, images_of(train), train.labels, seen[-steps:], bf16)  # the first batch is also checked
    apart = max(float((a - b).abs().max()) for a, b in zip(student.parameters(), other.parameters(), strict=True))
    if apart > (2e-3 if bf16 else 1e-4):  # a step is 1e-3 long
        sys.exit(f"trainer_overhead: the two do not do the same; their weights are {apart:.1e} apart.")


def images_of(train: limbeck.TransferSet) -> Tensor:
    """All images as bytes, `[N, 28, 28]`: what the transfer set holds in memory too."""
    return (train.__getitems__(range(len(train)))["inputs"] * 255).round().to(torch.uint8)


if __name__ == "__main__":
    main()
