"""What linear_divergence costs on a GPU, against the matmuls that nobody can do without, and against other ways.

Run with a python that has torch, nothing installed: `PYTHONPATH=src python3 benchmarks/gpu.py --budget_s 180`.

    floor            the matmuls alone: the student's logits, the gradients of hidden and of weight, and the teacher's
                     logits where the targets are its hidden states; each over all rows at once
    auto, triton, compiled, chunked    `impl` of linear_divergence; auto takes triton where that works
    triton:BLOCK:WARPS         the same with other sizes of the kernel's programs, only by --ways
    fast             "auto" with `precision="fast"`: rounded logits
    naive            `impl="reference"`, `precision="fast"`: all logits, rounded to bfloat16, autograd
    naive compiled   the same lines within torch.compile
    trl, liger       where they can be imported, and only for what they compute

Forward and backward, hidden and weight in bfloat16; the median of the rounds, after two to warm up. Memory is the peak
beyond the inputs, gradients included. "off" is how far the gradient of the weight is from the first way's that fitted,
relative to its norm. Cases come in the order of what they tell; what the budget or the memory does not allow is
reported as skipped.
"""

import argparse
import gc
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

import limbeck
from limbeck.losses.divergences import Divergence, forward_kl, jensen_shannon
from limbeck.losses.linear import triton
from limbeck.losses.targets import Head, HiddenTargets, SparseTargets

T, KEPT, WARM = 2.0, 64, 2
SIZES = triton.BLOCK, triton.WARPS
DIVERGENCES = {"forward_kl": forward_kl, "jensen_shannon(0.5)": jensen_shannon(0.5)}
WAYS = ["auto", "triton", "compiled", "chunked", "fast", "naive", "naive compiled", "trl", "liger"]

Gradients = tuple[Tensor, ...]


class Case(NamedTuple):
    """Rows, classes and H, the same for student and teacher; targets "hidden" or "sparse"."""

    rows: int
    classes: int
    width: int
    divergence: str
    targets: str

    def __str__(self) -> str:
        return f"{self.rows:>5} x {self.classes:>7,}  H {self.width:<5} {self.divergence:<20} {self.targets:<7}"

    def flops(self) -> int:
        """Of the matmuls that have to be done."""
        return 2 * self.rows * self.classes * self.width * (4 if self.targets == "hidden" else 3)


def cases(rows: int) -> list[Case]:
    """The most telling first: one of each kind, then the widest range, then the rest."""
    first = [
        (131_072, 2048, "forward_kl", "hidden"),
        (131_072, 2048, "forward_kl", "sparse"),
        (131_072, 2048, "jensen_shannon(0.5)", "hidden"),
        (151_936, 4096, "forward_kl", "hidden"),
        (32_768, 1024, "forward_kl", "hidden"),
        (151_936, 1024, "jensen_shannon(0.5)", "hidden"),
        (32_768, 4096, "forward_kl", "hidden"),
        (131_072, 4096, "forward_kl", "hidden"),
        (131_072, 1024, "forward_kl", "hidden"),
    ]
    every = [
        (classes, width, divergence, targets)
        for targets in ("hidden", "sparse")
        for divergence in DIVERGENCES
        for classes in (131_072, 151_936, 32_768)
        for width in (2048, 4096, 1024)
    ]
    return [Case(rows, *each) for each in dict.fromkeys([*first, *every])]


def main() -> None:
    """Prints a row per case and way, and writes them as JSON after each case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--budget_s", type=float, default=180, help="no case is begun, and no way, after so long")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=8192)
    parser.add_argument("--tiny", action="store_true", help="the smallest shapes, to try this script on a CPU")
    parser.add_argument("--ways", default=",".join(WAYS), help="some of: %(default)s")
    parser.add_argument("--output", type=Path, default=Path("runs/benchmarks/gpu.json"))
    chosen = parser.parse_args()
    device = torch.device(chosen.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("skipped: torch finds no CUDA GPU")
        return
    ends = time.perf_counter() + chosen.budget_s
    wanted = cases(chosen.rows)
    if chosen.tiny:
        wanted = list(dict.fromkeys(Case(64, 2048 + case.classes % 7, 32, *case[3:]) for case in wanted))
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    print(f"{name}, torch {torch.__version__}, bfloat16, {chosen.rounds} rounds\n")
    print(f"{'':58}{'way':<16}{'ms':>9}{'of floor':>10}{'TFLOP/s':>9}{'peak MB':>9}{'off':>9}")
    found: dict[str, Any] = {"device": name, "torch": torch.__version__, "rounds": chosen.rounds, "cases": []}
    for case in wanted:
        row = measured(case, chosen.ways.split(","), chosen.rounds, device, ends)
        found["cases"].append(row)
        chosen.output.parent.mkdir(parents=True, exist_ok=True)
        chosen.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    late = [row for row in found["cases"] if row["skipped"].get("case")]
    print(f"\n{len(wanted) - len(late)} of {len(wanted)} cases within the budget of {chosen.budget_s:g} s.")
    for row in late:
        print(f"not begun: {Case(**row['case'])}")
    print(f"All is in {chosen.output}.")


def measured(case: Case, ways: list[str], rounds: int, device: torch.device, ends: float) -> dict[str, Any]:
    """Times, memory and differences of one case, way by way."""
    row: dict[str, Any] = {"case": case._asdict(), "floor_ms": None, "ways": {}, "skipped": {}}
    if time.perf_counter() > ends:
        row["skipped"]["case"] = "out of time"
        return row
    problem = Problem(case, device)
    torch.compiler.reset()
    try:
        row["floor_ms"], _ = taken(problem.floor(), rounds, device)
    except torch.OutOfMemoryError:
        row["skipped"]["floor"] = "out of memory"
    if row["floor_ms"]:
        row["floor_tflops"] = case.flops() / row["floor_ms"] / 1e9
        print(f"{case!s:58}{'floor':<16}{row['floor_ms']:9.2f}{1:10.2f}{row['floor_tflops']:9.0f}", flush=True)
    reference: Tensor | None = None
    for way in ways:
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
        if time.perf_counter() > ends:
            row["skipped"][way] = "out of time"
            continue
        try:
            run = problem.way(way)
            if run is None:
                row["skipped"][way] = "not importable, or does not compute this"
                continue
            began = time.perf_counter()
            gradient = run()[1].detach()
            first = time.perf_counter() - began
            off = 0.0 if reference is None else difference(gradient, reference)
            reference = gradient if reference is None else reference
            del gradient
            ms, peak = taken(run, rounds, device)
        except torch.OutOfMemoryError:
            row["skipped"][way] = "out of memory"
        except Exception as error:  # one way that fails must not cost the others
            row["skipped"][way] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:300]
        else:
            ratio = ms / row["floor_ms"] if row["floor_ms"] else None
            tflops = case.flops() / ms / 1e9
            row["ways"][way] = {"ms": ms, "of_floor": ratio, "tflops": tflops, "peak_bytes": peak, "off": off}
            row["ways"][way]["first_call_s"] = first
            print(f"{'':58}{way:<16}{ms:9.2f}{ratio or 0:10.2f}{tflops:9.0f}{peak / 1e6:9.0f}{off:9.1e}", flush=True)
            continue
        print(f"{'':58}{way:<16}{row['skipped'][way]}", flush=True)
    return row


def difference(found: Tensor, expected: Tensor) -> float:
    """Of two gradients, relative to the second's norm; a slice of each is enough and fits."""
    a, b = found[:4096].float(), expected[:4096].float()
    return ((a - b).norm() / b.norm()).item()


def taken(run: Callable[[], Any], rounds: int, device: torch.device) -> tuple[float, int]:
    """The median in milliseconds, and the peak memory in bytes beyond what was there before (0 on a CPU)."""
    for _ in range(WARM):
        run()
    if device.type != "cuda":
        times = []
        for _ in range(rounds):
            began = time.perf_counter()
            run()
            times.append(1e3 * (time.perf_counter() - began))
        return statistics.median(times), 0
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(rounds)]
    for start, end in events:
        start.record()
        run()
        end.record()
    torch.cuda.synchronize()
    times = [start.elapsed_time(end) for start, end in events]
    return statistics.median(times), torch.cuda.max_memory_allocated() - before


class Problem:
    """Hidden states and output layers whose logits have a deviation of about 3, and the targets."""

    def __init__(self, case: Case, device: torch.device):
        self.case, g = case, torch.Generator(device).manual_seed(0)

        def draw(*shape: int, scale: float = 1.0) -> Tensor:
            return (torch.randn(*shape, generator=g, device=device, dtype=torch.bfloat16)).mul_(scale)

        scale = 3 / case.width**0.5
        self.hidden = draw(case.rows, case.width).requires_grad_()
        self.weight = draw(case.classes, case.width, scale=scale).requires_grad_()
        self.taught: Tensor | None = None
        self.taught_by: Tensor | None = None
        self.targets: HiddenTargets | SparseTargets
        if case.targets == "hidden":
            self.taught, self.taught_by = draw(case.rows, case.width), draw(case.classes, case.width, scale=scale)
            self.targets = HiddenTargets(self.taught, Head(self.taught_by))
        else:
            ids = torch.rand(64, case.classes, generator=g, device=device).topk(KEPT).indices
            ids = ids.repeat(-(-case.rows // 64), 1)[: case.rows].contiguous()
            log_probs = torch.randn(case.rows, KEPT, generator=g, device=device).log_softmax(-1) - 0.1
            self.targets = SparseTargets(ids, log_probs, case.classes, made_at=T)
        self.divergence: Divergence = DIVERGENCES[case.divergence]
        self.objective = limbeck.Objective(self.divergence, T)

    def floor(self) -> Callable[[], None]:
        """The matmuls alone, results written over each other."""
        hidden, weight = self.hidden.detach(), self.weight.detach()
        logits = hidden.new_empty(self.case.rows, self.case.classes)
        d_hidden, d_weight = torch.empty_like(hidden), torch.empty_like(weight)
        torch.mm(hidden, weight.T, out=logits)

        def run() -> None:
            if self.taught is not None and self.taught_by is not None:
                torch.mm(self.taught, self.taught_by.T, out=logits)
            torch.mm(hidden, weight.T, out=logits)
            torch.mm(logits, weight, out=d_hidden)
            torch.mm(logits.T, hidden, out=d_weight)

        return run

    def way(self, way: str) -> Callable[[], Gradients] | None:
        """One forward and backward; None where it cannot be imported or computes something else."""
        if way == "naive compiled":
            compiled = torch.compile(self.plain)
            return lambda: self.gradients(compiled(self.hidden, self.weight))
        if way == "trl":
            return self.trl()
        if way == "liger":
            return self.liger()
        impl, *sizes = {"naive": "reference", "fast": "auto"}.get(way, way).split(":")
        block, warps = map(int, sizes or SIZES)
        precision = "fast" if way in ("naive", "fast") else "exact"
        targets = self.rounded_targets() if precision == "fast" else self.targets

        def run() -> Gradients:
            triton.BLOCK, triton.WARPS = block, warps
            loss = limbeck.linear_divergence(
                self.hidden, self.weight, targets, self.objective, precision=precision, impl=impl
            )
            return self.gradients(loss.mean)

        return run

    def rounded_targets(self) -> HiddenTargets | SparseTargets:
        """The targets, whose logits are rounded to bfloat16 where they come from hidden states."""
        if isinstance(self.targets, SparseTargets):
            return self.targets
        return replace(self.targets, head=replace(self.targets.head, precision="fast"))

    def gradients(self, loss: Tensor) -> Gradients:
        return torch.autograd.grad(loss, (self.hidden, self.weight))

    def plain(self, hidden: Tensor, weight: Tensor) -> Tensor:
        """The naive lines."""
        log_probs = ((hidden @ weight.T).float() / T).log_softmax(-1)
        return T**2 * self.divergence(*self.rounded_targets().events(log_probs, T)).mean()

    def trl(self) -> Callable[[], Gradients] | None:
        """TRL's kernel, for hidden states."""
        if self.taught is None or self.taught_by is None:
            return None
        try:
            from trl.kernels.chunked_divergence import ChunkedDivergenceFunction
        except ImportError:
            return None
        beta = 0.0 if self.case.divergence == "forward_kl" else 0.5

        def run() -> Gradients:
            found, _ = ChunkedDivergenceFunction.apply(
                self.hidden, self.weight, None, self.taught, self.taught_by, None, beta, T
            )
            return self.gradients(T**2 * found.mean())

        return run

    def liger(self) -> Callable[[], Gradients] | None:
        """Liger's fused linear Jensen-Shannon divergence, beta = 0 for forward KL, for hidden states."""
        if self.taught is None or self.taught_by is None:
            return None
        try:
            from liger_kernel.transformers import LigerFusedLinearJSD
        except ImportError:
            return None
        layer = LigerFusedLinearJSD(jsd_beta=0.0 if self.case.divergence == "forward_kl" else 0.5, temperature=T)
        return lambda: self.gradients(T**2 * layer(self.hidden, self.weight, self.taught, self.taught_by))


if __name__ == "__main__":
    main()
