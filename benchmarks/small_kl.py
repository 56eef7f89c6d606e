"""What exact logits are worth near the teacher: recovering a language model whose weights were rounded to few bits.

    LIMBECK_DATA=path/to/data python benchmarks/small_kl.py

The teacher is stories260k ($LIMBECK_DATA/stories260k). The student starts as the teacher with each row of its weight
matrices rounded to 4 or 8 bits (a symmetric scale per output channel), so near the teacher that most of a rounded
logit's difference from the teacher's is rounding. All its weights are then trained on forward KL at T = 1, from the
same start, on the same batches, in three ways:

    float32     everything
    exact       autocast to bfloat16, logits in float32 (precision="exact", the default)
    fast        autocast to bfloat16, logits rounded to bfloat16 (precision="fast")

Measured is KL(teacher || student) in nats per token on stories that were held out, in float32, before and after; and
the error of the first step's gradient of the hidden states, relative to float64 of the same bfloat16 operands.
"""

import argparse
import copy
import json
import os
import statistics
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer

import limbeck
from limbeck import Head, HiddenTargets, Objective, linear_divergence

OUTPUT = Path("runs/benchmarks")
WAYS = ("float32", "exact", "fast")
OBJECTIVE = Objective(temperature=1.0)
BATCH, LENGTH, HELD_OUT = 8, 192, 48


def main() -> None:
    """Prints a row per number of bits and way, and writes runs/benchmarks/small_kl.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--seeds", type=int, default=3, help="orders of the batches")
    parser.add_argument("--bits", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--learning_rate", type=float, nargs="+", default=[3e-4, 3e-5], help="one for each of --bits")
    chosen = parser.parse_args()
    folder = Path(os.environ["LIMBECK_DATA"])
    teacher: Any = limbeck.load(folder / "stories260k")
    train, test = tokens(folder)
    found = []
    print(f"{'bits':>4}  {'way':<8} {'KL before':>10} {'KL after, mean':>15}  {'each seed':<32} {'gradient error':>14}")
    for bits, rate in zip(chosen.bits, chosen.learning_rate, strict=True):
        start = rounded(teacher, bits)
        before = kl(teacher, start, test)
        for way in WAYS:
            after = [
                trained(teacher, start, way, train, test, chosen.steps, rate, seed) for seed in range(chosen.seeds)
            ]
            row = {"bits": bits, "way": way, "rate": rate, "steps": chosen.steps, "before": before, "after": after}
            row["gradient_error"] = None if way == "float32" else gradient_error(teacher, start, way, train[:BATCH])
            found.append(row)
            each = " ".join(f"{value:.2e}" for value in after)
            error = "" if row["gradient_error"] is None else f"{row['gradient_error']:.1%}"
            print(
                f"{bits:>4}  {way:<8} {before:>10.2e} {statistics.mean(after):>15.2e}  {each:<32} {error:>14}",
                flush=True,
            )
    OUTPUT.mkdir(parents=True, exist_ok=True)
    (OUTPUT / "small_kl.json").write_text(json.dumps({"torch": torch.__version__, "rows": found}, indent=1))


def tokens(folder: Path) -> tuple[Tensor, Tensor]:
    """Token ids `[n, LENGTH]` of the stories, one after the other, to train on and held out."""
    tokenizer = AutoTokenizer.from_pretrained(folder / "stories260k")
    text = (folder / "tinystories_sample" / "tinystories_sample.txt").read_text("utf-8")
    ids = torch.tensor(tokenizer(text)["input_ids"])
    rows = ids[: len(ids) // LENGTH * LENGTH].view(-1, LENGTH)
    return rows[HELD_OUT:], rows[:HELD_OUT]


def rounded(teacher: nn.Module, bits: int) -> Any:
    """A copy whose matrices have 2^bits - 1 levels per output channel."""
    student = copy.deepcopy(teacher)
    most = 2 ** (bits - 1) - 1
    with torch.no_grad():
        for weight in {id(p): p for p in student.parameters() if p.ndim == 2}.values():
            scale = weight.abs().amax(1, keepdim=True).clamp(min=1e-12) / most
            weight.copy_((weight / scale).round() * scale)
    return student


def states(model: Any, ids: Tensor) -> Tensor:
    """The last hidden states of every token but the last, `[n, H]`."""
    return model.model(input_ids=ids).last_hidden_state[:, :-1].flatten(0, 1)


def trained(
    teacher: Any, start: Any, way: str, train: Tensor, test: Tensor, steps: int, rate: float, seed: int
) -> float:
    """KL(teacher || student) on the held-out tokens after training."""
    student = copy.deepcopy(start).train()
    optimizer = torch.optim.Adam(student.parameters(), rate)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    order = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        ids = train[torch.randint(len(train), (BATCH,), generator=order)]
        with torch.autocast("cpu", torch.bfloat16, enabled=way != "float32"):
            loss_of(student, teacher, way, ids).backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    return kl(teacher, student.eval(), test)


def loss_of(student: Any, teacher: Any, way: str, ids: Tensor) -> Tensor:
    """Forward KL per token."""
    precision = "fast" if way == "fast" else "exact"
    with torch.no_grad():
        targets = HiddenTargets(states(teacher, ids), Head(teacher.lm_head.weight, precision=precision))
    hidden = states(student, ids)
    return linear_divergence(hidden, student.lm_head.weight, targets, OBJECTIVE, precision=precision).mean


@torch.no_grad()
def kl(teacher: Any, student: Any, ids: Tensor) -> float:
    """KL(teacher || student) per token, in float32."""
    log_p, log_q = (model(input_ids=ids).logits[:, :-1].double().log_softmax(-1) for model in (teacher, student))
    return float((log_p.exp() * (log_p - log_q)).sum(-1).mean())


def gradient_error(teacher: Any, student: Any, way: str, ids: Tensor) -> float:
    """The relative error of the gradient of the hidden states, against float64 of the same bfloat16 operands."""
    precision = "fast" if way == "fast" else "exact"
    with torch.no_grad():
        operands = [x.bfloat16() for x in (states(student, ids), student.lm_head.weight, states(teacher, ids))]
    gradients = []
    for dtype in (torch.bfloat16, torch.float64):
        hidden, weight, theirs = (x.to(dtype) for x in operands)
        head = Head(teacher.lm_head.weight.bfloat16().to(dtype), precision=precision)
        leaf = hidden.requires_grad_()
        loss = linear_divergence(leaf, weight, HiddenTargets(theirs, head), OBJECTIVE, precision=precision)
        gradients.append(torch.autograd.grad(loss.mean, leaf)[0].double())
    return float((gradients[0] - gradients[1]).norm() / gradients[1].norm())


if __name__ == "__main__":
    main()
