"""What a training step of a language model costs without logits, beside the same step with all of them.

    python benchmarks/language_step.py

DistillTrainer with a Llama of random weights as the student and another as the teacher, soft targets at T = 1, AdamW:
as it is (`impl="auto"`: hidden states and linear_divergence) and with all logits (`impl="reference"`), from the same
weights, over the same batches. The two take turns in one run; a ratio is of their median steps, each from the batch in
memory to the optimizer's step, the teacher's pass included; beside it stands the same ratio of processor time, which
others at work on the machine lengthen less. The first step of a turn is not counted: in the very first
"auto" compiles, and what that took is told.

Memory is that of one step in a process of its own, beyond what was there before the step (weights, the optimizer's
state). A third way, "bodies", is the step without a divergence: both models up to their last hidden states, whose mean
is the loss, and gradients for every weight, the output layer's too. What the other two need beyond that is the loss's
extra memory, which the wanted ratio is of.
"""

import argparse
import copy
import ctypes
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

import limbeck
from limbeck.networks.halves import head_of, hidden_of

OUTPUT = Path("runs/benchmarks")
WAYS = ("auto", "reference")
OBJECTIVE = limbeck.Objective(temperature=1.0)


class Case(NamedTuple):
    """C classes, sequences and tokens per batch, width and layers of student and teacher, bf16 autocast or float32."""

    classes: int
    batch: int
    tokens: int
    student: tuple[int, int]
    teacher: tuple[int, int]
    bf16: bool

    def __str__(self) -> str:
        models = f"{'x'.join(map(str, self.student))}, {'x'.join(map(str, self.teacher))}"
        return f"{self.classes:>7,}  {self.batch} x {self.tokens}  {models:<14} {'bf16' if self.bf16 else 'fp32'}"


SHAPES = [
    (32_000, 4, 256, (256, 4), (384, 6)),
    (512, 4, 256, (48, 3), (64, 5)),  # a vocabulary of few classes, which is not compiled
]
CASES = [Case(*shape, bf16) for shape in SHAPES for bf16 in (False, True)]
FASTER, MEMORY = 1.0, 1 / 4  # at most, from so many classes on:
MANY_CLASSES = 32_000


def main() -> None:
    """Prints a row per case and writes runs/benchmarks/language_step.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=3, help="how often each way takes its turn")
    parser.add_argument("--steps", type=int, default=2, help="steps of a turn, and one before them")
    parser.add_argument("--only", help="cases whose line holds this text, such as fp32")
    parser.add_argument("--memory", nargs=2, metavar=("CASE", "WAY"), help="of one way in this process, in bytes")
    chosen = parser.parse_args()
    transformers.logging.set_verbosity_error()
    if chosen.memory:
        print(memory_here(Case(*json.loads(chosen.memory[0])), chosen.memory[1]))
        return
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads; {chosen.turns} turns of {chosen.steps} steps\n"
    )
    print(f"{'':42}{'ms a step':>26}{'proc.':>7}{'compiling':>11}{'MB of a step':>27}{'extra,':>13}")
    print(
        f"{'classes  batch    student, teacher':42}{'ours':>7}{'all logits':>12}{'ratio':>7}{'ratio':>7}{'s':>11}"
        f"{'bodies':>9}{'ours':>6}{'all logits':>12}{'ratio':>13}"
    )
    with tempfile.TemporaryDirectory() as empty:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = empty  # so that nothing compiled before is found
        cases = [case for case in CASES if not chosen.only or chosen.only in str(case)]
        rows = [measured(case, chosen.turns, chosen.steps) for case in cases]
    OUTPUT.mkdir(parents=True, exist_ok=True)
    found = {"torch": torch.__version__, "threads": torch.get_num_threads(), "rows": rows}
    (OUTPUT / "language_step.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    missed = [text for row in rows for text in misses(row)]
    print("\n" + ("\n".join(f"missed: {text}" for text in missed) or "Every figure is within what was wanted."))
    if missed:
        sys.exit(1)


def measured(case: Case, turns: int, steps: int) -> dict[str, Any]:
    """Times, memory and ratios of one case."""
    times, processor, first = seconds(case, turns, steps)
    memory = {way: memory_elsewhere(case, way) for way in (*WAYS, "bodies")}
    extra = {way: memory[way] - memory["bodies"] for way in WAYS}
    ratios = {
        "time": times["auto"] / times["reference"],
        "processor": processor["auto"] / processor["reference"],
        "memory": extra["auto"] / extra["reference"],
        "memory of a step": memory["auto"] / memory["reference"],
    }
    megabytes = {way: f"{needed / 1e6:.0f}" for way, needed in memory.items()}
    print(
        f"{case!s:42}{1e3 * times['auto']:7.0f}{1e3 * times['reference']:12.0f}{ratios['time']:7.2f}"
        f"{ratios['processor']:7.2f}{first:11.1f}{megabytes['bodies']:>9}{megabytes['auto']:>6}"
        f"{megabytes['reference']:>12}{ratios['memory']:13.2f}",
        flush=True,
    )
    row: dict[str, Any] = {"case": case._asdict(), "seconds": times, "processor": processor, "compiling": first}
    return row | {"memory": memory, "extra": extra, "ratios": ratios}


def misses(row: dict[str, Any]) -> list[str]:
    """What of a row is not within what was wanted."""
    case, ratios = Case(**row["case"]), row["ratios"]
    wanted = {"time": FASTER, "memory": MEMORY} if case.classes >= MANY_CLASSES else {}  # the loss of few is a trifle
    return [
        f"{case} {name} {ratios[name]:.2f} (wanted: at most {at_most})"
        for name, at_most in wanted.items()
        if ratios[name] > at_most
    ]


def seconds(case: Case, turns: int, steps: int) -> tuple[dict[str, float], dict[str, float], float]:
    """The median step of each way, by the clock and of the processor; what the very first of "auto" took beyond it."""
    student, teacher = models(case)
    clocks: dict[str, list[Clock]] = {way: [] for way in WAYS}
    losses = {}
    for turn in range(turns):
        for way in WAYS if turn % 2 else reversed(WAYS):
            clock = Clock()
            clocks[way].append(clock)
            losses[way] = make(case, way, copy.deepcopy(student), teacher, 1 + steps, clock).train().training_loss
    if abs(losses["auto"] / losses["reference"] - 1) > (1e-2 if case.bf16 else 1e-4):
        sys.exit(f"language_step: the two do not do the same; their losses are {losses}.")
    times, processor = {}, {}
    for way, each in clocks.items():
        times[way] = statistics.median(second for clock in each for second in clock.seconds[1:])
        processor[way] = statistics.median(second for clock in each for second in clock.processor[1:])
    return times, processor, clocks["auto"][0].seconds[0] - times["auto"]


def make(case: Case, way: str, student: Any, teacher: Any, steps: int, callback: Any) -> limbeck.DistillTrainer:
    """A trainer of this way, ready to train for so many steps."""
    config = limbeck.DistillConfig(
        output_dir=str(OUTPUT / "checkpoints"),
        max_steps=steps,
        per_device_train_batch_size=case.batch,
        bf16=case.bf16,
        use_cpu=True,
        save_strategy="no",
        disable_tqdm=True,
    )
    ids = torch.randint(case.classes, (case.batch * steps, case.tokens), generator=torch.Generator().manual_seed(0))
    rows = [{"input_ids": row, "labels": row} for row in ids]
    kind, impl = (Bodies, "auto") if way == "bodies" else (limbeck.DistillTrainer, way)
    trainer = kind(student, teacher, OBJECTIVE, config, train_dataset=rows, callbacks=[callback], impl=impl)
    trainer.remove_callback(transformers.PrinterCallback)
    return trainer


def models(case: Case) -> tuple[Any, Any]:
    """Student and teacher, untrained, the same every time."""
    torch.manual_seed(0)
    return llama(case, *case.student), llama(case, *case.teacher)


def llama(case: Case, width: int, layers: int) -> Any:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=case.classes,
            hidden_size=width,
            intermediate_size=8 * width // 3,
            num_hidden_layers=layers,
            num_attention_heads=8,
            num_key_value_heads=4,
            max_position_embeddings=case.tokens,
        )
    )


class Bodies(limbeck.DistillTrainer):
    """The step without a divergence."""

    def compute_loss(self, model: Any, inputs: Any, *_: Any, **__: Any) -> Tensor:
        """The mean of the hidden states; 0 times the output layer, so that its weight has a gradient too."""
        head = head_of(model)
        assert self.teacher is not None
        assert head is not None
        with self.accelerator.autocast():
            self.teacher(inputs)
            return hidden_of(model, inputs).float().mean() + 0 * head.weight.sum()


class Clock(transformers.TrainerCallback):
    """How long each step takes, by the clock and of the processor."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.processor: list[float] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.began = time.perf_counter(), time.process_time()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seconds.append(time.perf_counter() - self.began[0])
        self.processor.append(time.process_time() - self.began[1])


class Peak(transformers.TrainerCallback):
    """The most memory that each step needed beyond what was there before it."""

    def __init__(self) -> None:
        self.bytes: list[int] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        ctypes.CDLL(None).malloc_trim(0)  # what is free is not counted as there
        self.before = resident()
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak is counted from here on

    def on_step_end(self, *_: Any, **__: Any) -> None:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        most = int(next(line.split()[1] for line in lines if line.startswith("VmHWM:"))) * 1024
        self.bytes.append(most - self.before)


def resident() -> int:
    """Bytes of memory that this process has now."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()


def memory_here(case: Case, way: str) -> int:
    """Of the third step: the first compiles and makes the optimizer's state."""
    peak = Peak()
    make(case, way, *models(case), 3, peak).train()
    return peak.bytes[-1]


def memory_elsewhere(case: Case, way: str) -> int:
    """The same in a process of its own."""
    command = [sys.executable, __file__, "--memory", json.dumps(case), way]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"The memory of {way}, {case}, was not measured:\n{done.stderr}")
    return int(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
