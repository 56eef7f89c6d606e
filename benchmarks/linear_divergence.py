"""What `linear_divergence` costs beside its own matmuls, beside full logits and beside TRL's chunked divergence.

    python benchmarks/linear_divergence.py                        # the whole table, about twenty minutes on two cores
    python benchmarks/linear_divergence.py --trl path/to/python   # and TRL's kernel, from an environment that has it
    python benchmarks/linear_divergence.py --install_trl          # the same, the environment made first (trl==1.16.0)

Forward and backward of KL(teacher || student) at T = 2 for n rows, student `[n, H]` and teacher `[n, H_t]` against
output layers over C classes; all needed gradients. Times are medians over rounds in which every way takes its turn, and
are told as ratios within one run (the naive version has its rounds after the others):

    floor       the four matmuls alone (three of the student's, one of the teacher's), same dtype, same chunks, buffers
                made once
    naive       `impl="reference"`, `precision="fast"`: all logits, rounded to the inputs' dtype, autograd
    fast        ours with precision="fast", in bfloat16: rounded logits too
    sparse      targets of K = 64 classes and a tail, against the three matmuls of the student alone

Memory is the peak of a process of its own, beyond its inputs and the gradients that it returns. On Linux,
THP_MEM_ALLOC_ENABLE=1 has torch ask for memory in huge pages; with small ones, a good part of the time in bfloat16 goes
into getting memory for the weight's gradient.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

import limbeck
from limbeck.losses.linear import chunked
from limbeck.losses.targets import Head, HiddenTargets, SparseTargets

OUTPUT = Path("runs/benchmarks")
T = 2.0
OBJECTIVE = limbeck.Objective(temperature=T)
TRL = "trl==1.16.0"


class Case(NamedTuple):
    """n rows, C classes, H of the student and of the teacher."""

    rows: int
    classes: int
    student: int
    teacher: int
    dtype: str

    def __str__(self) -> str:
        return f"{self.rows:>5} x {self.classes:>7,}  H {self.student}/{self.teacher}  {self.dtype:<8}"


SHAPES = [(2048, 32_768, 512, 1024), (2048, 131_072, 512, 1024), (999, 50_257, 384, 768)]
CASES = [Case(*shape, dtype) for shape in SHAPES for dtype in ("float32", "bfloat16")]
WANTED = {  # ratios, at most, for (float32, bfloat16)
    "floor": (1.12, 1.45),
    "naive": (0.70, 0.45),
    "trl": (0.45, 0.20),
    "sparse": (1.12, None),
    "memory": (1 / 8, 1 / 8),
}


def main() -> None:
    """Prints a row per case and writes runs/benchmarks/linear_divergence.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="how often each way takes its turn")
    parser.add_argument("--only", help="cases whose line holds this text, such as float32")
    parser.add_argument("--impl", default="compiled,chunked", help="which of ours, the first of them judged")
    parser.add_argument("--trl", help="a python that can import trl and limbeck's dependencies")
    parser.add_argument("--install_trl", action="store_true", help=f"make an environment with {TRL}")
    parser.add_argument("--measure", nargs=2, metavar=("CASE", "WAY"), help="one way in this process, as JSON")
    chosen = parser.parse_args()
    if chosen.measure:
        case = Case(*json.loads(chosen.measure[0]))
        print(json.dumps(in_this_process(case, chosen.measure[1], chosen.rounds)))
        return
    trl = install_trl() if chosen.install_trl else chosen.trl
    ours = chosen.impl.split(",")
    pages = "huge" if os.environ.get("THP_MEM_ALLOC_ENABLE") == "1" else "small"
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {pages} pages; {chosen.rounds} rounds\n")
    print(f"{'':45}{'':10}{'ms':>8}  ratio of ours to  floor  naive  extra memory: MB, of naive's    TRL")
    rows = [measured(case, ours, chosen.rounds, trl) for case in CASES if not chosen.only or chosen.only in str(case)]
    OUTPUT.mkdir(parents=True, exist_ok=True)
    found = {"torch": torch.__version__, "threads": torch.get_num_threads(), "pages": pages, "wanted": WANTED}
    found["rows"] = rows
    (OUTPUT / "linear_divergence.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    missed = [text for row in rows for text in misses(row, ours[0])]
    print("\n" + ("\n".join(f"missed: {text}" for text in missed) or "Every figure is within what was wanted."))
    if missed:
        sys.exit(1)


def measured(case: Case, ours: Sequence[str], rounds: int, trl: str | None) -> dict[str, Any]:
    """Times, ratios and memory of one case."""
    fast = [] if case.dtype == "float32" else ["fast"]  # the same as exact in float32
    times = seconds(case, [*ours, *fast, "floor", "sparse", "student floor"], rounds)
    times |= seconds(case, ["naive"], rounds)  # apart: the memory that it gives back would slow down who comes next
    memory = {way: elsewhere(sys.executable, case, f"memory {way}", 1) for way in (*ours, "naive")}
    longer = case._replace(rows=2 * case.rows)
    row: dict[str, Any] = {"case": case._asdict(), "seconds": times, "memory": memory}
    row["memory_twice_the_rows"] = elsewhere(sys.executable, longer, f"memory {ours[0]}", 1)
    row["ratios"] = {
        way: {
            "floor": times[way] / times["floor"],
            "naive": times[way] / times["naive"],
            "memory": memory[way] / memory["naive"],
        }
        for way in ours
    }
    row["ratios"][ours[0]]["sparse"] = times["sparse"] / times["student floor"]
    if trl:
        row["trl"] = elsewhere(trl, case, f"trl {ours[0]}", rounds)
        row["ratios"][ours[0]]["trl"] = row["trl"][ours[0]] / row["trl"]["trl"]
    for way in ours:
        ratios = row["ratios"][way]
        beside = f"{ratios['trl']:7.2f}" if "trl" in ratios else ""
        print(
            f"{case!s:45}{way:10}{1e3 * times[way]:8.0f}{'':18}{ratios['floor']:7.2f}{ratios['naive']:7.2f}"
            f"{memory[way] / 1e6:21.0f}{ratios['memory']:13.3f}{beside:>7}"
        )
    if fast:
        print(f"{'':45}{'fast':10}{1e3 * times['fast']:8.0f}{'':18}{times['fast'] / times['floor']:7.2f}")
    floor_ms, naive_ms, naive_mb = 1e3 * times["floor"], 1e3 * times["naive"], memory["naive"] / 1e6
    print(
        f"{'':45}sparse K = 64: {row['ratios'][ours[0]]['sparse']:.2f} of three matmuls; floor {floor_ms:.0f} ms, "
        f"naive {naive_ms:.0f} ms, {naive_mb:.0f} MB; twice the rows: {row['memory_twice_the_rows'] / 1e6:.0f} MB",
        flush=True,
    )
    return row


def misses(row: dict[str, Any], way: str) -> list[str]:
    """What of a row is not within what was wanted."""
    case = Case(**row["case"])
    column = 0 if case.dtype == "float32" else 1
    ratios = row["ratios"][way]
    wanted = {name: at_most[column] for name, at_most in WANTED.items()}
    return [
        f"{case} {name} {ratios[name]:.3f} (wanted: at most {at_most:.3g})"
        for name, at_most in wanted.items()
        if at_most is not None and name in ratios and ratios[name] > at_most
    ]


def seconds(case: Case, ways: Sequence[str], rounds: int) -> dict[str, float]:
    """The median time of each way; they take turns, after one round to warm up."""
    run = {way: make(case, way) for way in ways}
    taken: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(rounds + 1):
        for way in ways:
            started = time.perf_counter()
            run[way]()
            if turn:
                taken[way].append(time.perf_counter() - started)
    return {way: statistics.median(times) for way, times in taken.items()}


def make(case: Case, way: str) -> Callable[[], Any]:
    """One forward and backward by this way, ready to be called again and again."""
    hidden, weight, taught, head = inputs(case)
    targets: Any = HiddenTargets(taught, head)
    if way == "floor":
        return floor(case, hidden, weight, taught, head.weight)
    if way == "student floor":
        return floor(case, hidden, weight, None, None)
    if way == "trl":
        return trls(hidden, weight, taught, head.weight)
    if way == "sparse":
        ids = torch.stack([torch.randperm(case.classes)[:64] for _ in range(case.rows)])
        targets = SparseTargets(ids, torch.randn(case.rows, 64).log_softmax(-1) - 0.1, case.classes, made_at=T)
    impl = {"naive": "reference", "sparse": "auto", "fast": "auto"}.get(way, way)
    precision = "fast" if way in ("naive", "fast") else "exact"
    if precision == "fast":
        targets = HiddenTargets(taught, replace(head, precision="fast"))

    def run() -> tuple[Tensor, ...]:
        loss = limbeck.linear_divergence(hidden, weight, targets, OBJECTIVE, precision=precision, impl=impl)
        return torch.autograd.grad(loss.mean, (hidden, weight))

    return run


def inputs(case: Case) -> tuple[Tensor, Tensor, Tensor, Head]:
    """Hidden states and output layers whose logits have a deviation of about 3."""
    torch.manual_seed(0)
    dtype = getattr(torch, case.dtype)
    hidden = torch.randn(case.rows, case.student, dtype=dtype, requires_grad=True)
    weight = (3 / case.student**0.5 * torch.randn(case.classes, case.student)).to(dtype).requires_grad_()
    taught = torch.randn(case.rows, case.teacher, dtype=dtype)
    return hidden, weight, taught, Head((3 / case.teacher**0.5 * torch.randn(case.classes, case.teacher)).to(dtype))


def floor(
    case: Case, hidden: Tensor, weight: Tensor, taught: Tensor | None, taught_by: Tensor | None
) -> Callable[[], None]:
    """The matmuls alone, in the chunks that linear_divergence takes; no gradient of the logits is ever made."""
    hidden, weight = hidden.detach(), weight.detach()
    targets = None if taught is None or taught_by is None else HiddenTargets(taught, Head(taught_by))
    rows = chunked._chunk_rows(Head(weight), targets)
    logits, spoken = (torch.empty(min(rows, case.rows), case.classes, dtype=hidden.dtype) for _ in range(2))
    d_hidden, d_weight = torch.empty_like(hidden), torch.zeros_like(weight)

    def run() -> None:
        for start in range(0, case.rows, rows):
            some = slice(start, min(start + rows, case.rows))
            z = logits[: some.stop - start]
            torch.mm(hidden[some], weight.T, out=z)
            if taught is not None and taught_by is not None:
                torch.mm(taught[some], taught_by.T, out=spoken[: some.stop - start])
            torch.mm(z, weight, out=d_hidden[some])
            torch.mm(z.T, hidden[some], out=d_weight)

    return run


def trls(hidden: Tensor, weight: Tensor, taught: Tensor, taught_by: Tensor) -> Callable[[], Any]:
    """TRL's kernel: forward KL, the mean over rows times T^2."""
    from trl.kernels.chunked_divergence import ChunkedDivergenceFunction

    def run() -> tuple[Tensor, ...]:
        divergence, _ = ChunkedDivergenceFunction.apply(hidden, weight, None, taught, taught_by, None, 0.0, T)
        return torch.autograd.grad(T**2 * divergence.mean(), (hidden, weight))

    return run


def in_this_process(case: Case, what: str, rounds: int) -> Any:
    """Extra memory in bytes of "memory WAY"; seconds by way of "trl WAY", once both gradients agree."""
    kind, way = what.split(" ", 1)
    if kind == "memory":
        make(case._replace(rows=64), way)()  # libraries, threads and compiled code
        run = make(case, way)
        before = resident()
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak is counted from here on
        gradients = run()
        return peak() - before - sum(g.numel() * g.element_size() for g in gradients)
    ours, theirs = make(case, way)(), make(case, "trl")()
    for a, b in zip(ours, theirs, strict=True):
        difference = ((a.float() - b.float()).norm() / b.float().norm()).item()
        assert difference < (1e-4 if case.dtype == "float32" else 2e-2), f"TRL's gradient differs by {difference}"
    return seconds(case, [way, "trl"], rounds)


def resident() -> int:
    """Bytes of memory that this process has now."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()


def peak() -> int:
    """The most bytes of memory that this process has had."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM:"))) * 1024


def elsewhere(python: str, case: Case, what: str, rounds: int) -> Any:
    """The same in a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(Path(limbeck.__file__).parents[1])}
    command = [python, __file__, "--measure", json.dumps(case), what, "--rounds", str(rounds)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{what} of {case} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def install_trl() -> str:
    """An environment of its own, kept in runs/; its python."""
    folder = OUTPUT / "trl"
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        version = torch.__version__.split("+")[0]
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", f"torch=={version}", TRL], check=True)
    return str(python)


if __name__ == "__main__":
    main()
