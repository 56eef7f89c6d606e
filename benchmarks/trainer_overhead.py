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
from typing import Any, NamedTuple

import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F

import limbeck


class Case(NamedTuple):
    """What is trained: examples per batch, units per hidden layer of the student, bf16 autocast or float32."""

    batch: int
    width: int
    bf16: bool = False


CASES = [Case(128, 800), Case(256, 800), Case(128, 1200), Case(256, 1200), Case(128, 800, bf16=True)]
BF16_STEPS = 50  # many CPUs emulate bf16, slowly
AT_MOST = 1.25
TEMPERATURE, HARD_WEIGHT, LEARNING_RATE, MAX_NORM = 20.0, 0.1, 1e-3, 1.0
OUTPUT = Path("runs/benchmarks")


def main() -> None:
    """Prints a row per case and writes runs/benchmarks/trainer_overhead.json."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=3, help="how often each of the two trains an epoch")
    parser.add_argument("--steps", type=int, help="fewer steps than an epoch has")
    chosen = parser.parse_args()
    folder = Path(os.environ.get("LIMBECK_DATA", "absent"), "mnist")
    if not folder.is_dir():
        print("trainer_overhead: skipped; set LIMBECK_DATA to a folder that has mnist/ with the four IDX files.")
        return
    transformers.logging.set_verbosity_error()
    train = limbeck.idx(folder)["train"]

    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; medians of {chosen.pairs} pairs of epochs")
    print(f"{'batch':>5}{'width':>7}{'':>7}{'steps':>7}{'bare ms/step':>14}{'Limbeck ms/step':>17}{'ratio':>7}  pairs")
    rows = []
    for case in CASES:
        steps = chosen.steps or (BF16_STEPS if case.bf16 else -(-len(train) // case.batch))
        check_same_arithmetic(train, case)
        pairs = [seconds_of_pair(train, case, steps) for _ in range(chosen.pairs)]
        bare, ours = (1e3 * statistics.median(seconds) / steps for seconds in zip(*pairs, strict=True))
        ratios = [limbecks / bares for bares, limbecks in pairs]
        ratio = statistics.median(ratios)
        measured = {"steps": steps, "bare_ms": bare, "limbeck_ms": ours, "ratio": ratio, "ratios": ratios}
        rows.append(case._asdict() | measured)
        name = f"{case.batch:5}{case.width:7}{'bf16' if case.bf16 else 'fp32':>7}{steps:7}"
        print(f"{name}{bare:14.2f}{ours:17.2f}{ratio:7.2f}  {' '.join(f'{r:.2f}' for r in ratios)}", flush=True)
    OUTPUT.mkdir(parents=True, exist_ok=True)
    found = {"torch": torch.__version__, "threads": torch.get_num_threads(), "at_most": AT_MOST, "rows": rows}
    (OUTPUT / "trainer_overhead.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    highest = max(row["ratio"] for row in rows)
    print(f"\nThe highest ratio is {highest:.2f} (wanted: at most {AT_MOST}).")
    if highest > AT_MOST:
        sys.exit("trainer_overhead: missed.")


def seconds_of_pair(train: limbeck.TransferSet, case: Case, steps: int) -> tuple[float, float]:
    """Of the bare loop and of Limbeck, from the same weights, one after the other."""
    teacher, student = networks(case)
    images, labels, order = images_of(train), train.labels, list(torch.randperm(len(train)).split(case.batch))
    started = time.perf_counter()
    train_bare(copy.deepcopy(student), teacher, images, labels, order[:steps], case.bf16)
    bare = time.perf_counter() - started
    trainer = limbecks(student, teacher, train, case, steps)
    started = time.perf_counter()
    trainer.train()
    return bare, time.perf_counter() - started


def train_bare(
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


def limbecks(
    student: nn.Module, teacher: nn.Module, train: limbeck.TransferSet, case: Case, steps: int, augment: Any = None
) -> limbeck.DistillTrainer:
    """The same with DistillTrainer."""
    config = limbeck.DistillConfig(
        output_dir=str(OUTPUT / "checkpoints"),
        max_steps=steps,
        per_device_train_batch_size=case.batch,
        learning_rate=LEARNING_RATE,
        max_grad_norm=MAX_NORM,
        bf16=case.bf16,
        use_cpu=True,
        save_strategy="no",
        disable_tqdm=True,
    )
    objective = limbeck.Objective(temperature=TEMPERATURE, hard_weight=HARD_WEIGHT)
    trainer = limbeck.DistillTrainer(student, teacher, objective, config, train_dataset=train, augment=augment)
    trainer.remove_callback(transformers.PrinterCallback)
    return trainer


def check_same_arithmetic(train: limbeck.TransferSet, case: Case, steps: int = 10) -> None:
    """Both, on the same batches from the same weights, end with the same weights; and both are warm after that."""
    teacher, student = networks(case)
    other, seen = copy.deepcopy(student), []

    def note_rows(batch: Any, epoch: int) -> Any:
        seen.append(batch["row_id"])
        return batch

    limbecks(student, teacher, train, case, steps, augment=note_rows).train()
    order = seen[-steps:]  # one more batch was looked at before training
    train_bare(other, teacher, images_of(train), train.labels, order, case.bf16)
    pairs = zip(student.parameters(), other.parameters(), strict=True)
    apart = max(float((a - b).detach().abs().max()) for a, b in pairs)
    if apart > (2e-3 if case.bf16 else 1e-4):  # a step is 1e-3 long
        sys.exit(f"trainer_overhead: the two do not do the same; their weights are {apart:.1e} apart.")


def networks(case: Case) -> tuple[nn.Module, nn.Module]:
    """An untrained teacher and student, the same every time: how well they do is not measured."""
    torch.manual_seed(0)
    return limbeck.mlp([784, 1200, 1200, 10]).eval(), limbeck.mlp([784, case.width, case.width, 10])


def images_of(train: limbeck.TransferSet) -> Tensor:
    """All images as bytes, `[N, 28, 28]`: what the transfer set holds in memory too."""
    return (train.__getitems__(range(len(train)))["inputs"] * 255).round().to(torch.uint8)


if __name__ == "__main__":
    main()
