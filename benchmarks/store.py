"""What labelling a transfer set costs beside the teacher's bare passes, and training from it beside hard labels.

    OMP_NUM_THREADS=1 python benchmarks/store.py         # about eight minutes on one core

The two sides of a ratio take turns in one run; a ratio is the median over turns.

    labelling   the teacher's passes alone, over the same rows in the same batches, logits made and nothing kept, to
                `limbeck.label` into a fresh folder: from the call to its return (hashes of data and weights, every
                file brought to the disk); and without the start, which is what passes before and after the first
                pass until the second, as a set of many more rows would have it.
                Labelling keeps what was said in a thread beside the teacher's: by the clock it may use two cores
                where the bare passes use one, and the processor's time says what it costs
    training    a step of DistillTrainer from stored targets alone to the same step on hard labels alone, in memory:
                from the end of one step to the end of the next, so that the loader is in it. From hidden states, to
                that step and the matmul that makes the teacher's logits, which is timed by itself
    killed      labelling in a process that gets SIGKILL at a random moment of its run, and again, until so many were
                killed; each set that ends is compared with an undisturbed one's, byte by byte

Images are 28 x 28 noise in batches of 128, with a teacher 784-4096-4096-100 and a student 784-800-800-100; texts are
8 x 128 random tokens of 32,000, with Llamas of random weights: none of the ratios depends on what is learned.
"""

import argparse
import copy
import json
import multiprocessing
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as pq
import torch
import transformers
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

import limbeck

OUTPUT = Path("runs/benchmarks")
LABELLING, TRAINING = 0.95, 1.05  # at least, at most
CLASSES, VOCABULARY, TOKENS = 100, 32_000, 128
IMAGES, TEXTS = 128, 8  # of a batch
IMAGE_KINDS: dict[str, dict[str, Any]] = {"dense": {}, "top_k": {"k": 16, "temperature": 2.0}}
TEXT_KINDS: dict[str, dict[str, Any]] = {"top_k": {"k": 64}, "hidden": {}}
FORKED = multiprocessing.get_context("fork")


def main() -> None:
    """Prints the tables and writes runs/benchmarks/store.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=3, help="how often each side takes its turn")
    parser.add_argument("--image_batches", type=int, default=64, help="that are labelled, and trained on")
    parser.add_argument("--text_batches", type=int, default=8, help="the same")
    parser.add_argument("--kills", type=int, default=50, help="how often labelling is killed; 0 for not at all")
    parser.add_argument("--only", choices=["images", "texts", "kills"], help="one part")
    chosen = parser.parse_args()
    transformers.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    started = time.perf_counter()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; medians of {chosen.turns} turns")
    found: dict[str, Any] = {"torch": torch.__version__, "threads": torch.get_num_threads(), "turns": chosen.turns}
    found |= {"labelling": [], "training": []}
    if chosen.kills and chosen.only in (None, "kills"):  # first: a process is forked best before others are started
        found["killed"] = killed(chosen.kills)
    with tempfile.TemporaryDirectory() as folder:
        parts = {"images": (image_case, chosen.image_batches), "texts": (text_case, chosen.text_batches)}
        for name, (case, batches) in parts.items():
            if chosen.only in (None, name):
                case(Path(folder), batches, chosen.turns, found)
    found["minutes"] = (time.perf_counter() - started) / 60
    OUTPUT.mkdir(parents=True, exist_ok=True)
    (OUTPUT / "store.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    missed = misses(found)
    print("\n" + ("\n".join(f"missed: {text}" for text in missed) or "Every figure is within what was wanted."))
    print(f"{found['minutes']:.1f} minutes")
    if missed:
        sys.exit(1)


def misses(found: dict[str, Any]) -> list[str]:
    """What is not within what was wanted."""
    texts = []
    for row in found["labelling"]:
        if row["ratio"] < LABELLING:
            texts.append(f"labelling {row['what']}, {row['kind']}: {row['ratio']:.2f} (wanted: at least {LABELLING})")
    for row in found["training"]:
        if row["ratio"] > TRAINING:
            of = f"{row['what']}, {row['kind']}, {row['workers']} workers"
            texts.append(f"training {of}: {row['ratio']:.2f} (wanted: at most {TRAINING})")
    if "killed" in found and found["killed"]["different"]:
        texts.append(f"killed: {found['killed']['different']} sets differ from an undisturbed one (wanted: none)")
    return texts


def image_case(folder: Path, batches: int, turns: int, found: dict[str, Any]) -> None:
    """A classifier's rows of both tables."""
    rows = images(batches * IMAGES)
    torch.manual_seed(0)
    teacher = limbeck.mlp([784, 4096, 4096, CLASSES]).eval()
    student = limbeck.mlp([784, 800, 800, CLASSES])

    def bare() -> None:
        for start in range(0, len(rows), IMAGES):
            teacher(rows.__getitems__(range(start, start + IMAGES))["inputs"])

    sets = labelling("images", teacher, rows, IMAGES, bare, IMAGE_KINDS, folder, turns, found)
    training("images", student, rows, sets, IMAGES, min(batches - 2, 60), 2.0, turns, found)


def text_case(folder: Path, batches: int, turns: int, found: dict[str, Any]) -> None:
    """A language model's rows of both tables."""
    ids = torch.randint(VOCABULARY, (batches * TEXTS, TOKENS), generator=torch.Generator().manual_seed(0)).int()
    rows = datasets.Dataset.from_dict({"row_id": range(len(ids)), "input_ids": ids.tolist(), "labels": ids.tolist()})
    torch.manual_seed(0)
    teacher, student = llama(768, 6).eval(), llama(256, 4)

    def bare() -> None:
        for some in ids.split(TEXTS):
            teacher(input_ids=some.long(), attention_mask=torch.ones_like(some))

    sets = labelling("texts", teacher, rows, TEXTS, bare, TEXT_KINDS, folder, turns, found)
    in_memory = [{"row_id": place, "input_ids": row, "labels": row} for place, row in enumerate(ids.long())]
    training("texts", student, in_memory, sets, TEXTS, min(batches - 1, 4), 1.0, turns, found)


def labelling(
    what: str,
    teacher: nn.Module,
    rows: Any,
    batch: int,
    bare: Callable[[], None],
    kinds: dict[str, dict[str, Any]],
    folder: Path,
    turns: int,
    found: dict[str, Any],
) -> dict[str, limbeck.Labelled]:
    """Its rows of the table, into `found`; the sets of the last turn, by kind."""
    sets, batches = {}, len(rows) // batch
    times: dict[str, list[list[float]]] = {kind: [] for kind in kinds}
    with torch.no_grad():
        bare()  # warm
        for turn in range(turns):
            for kind, options in kinds.items():
                began, worked = time.perf_counter(), time.process_time()
                bare()
                alone, alone_worked = time.perf_counter() - began, time.process_time() - worked
                watched, path = Watched(teacher), folder / f"{what}-{kind}-{turn}"
                began, worked = time.perf_counter(), time.process_time()
                limbeck.label(watched, rows, path, kind, batch_size=batch, **options)
                ended = time.perf_counter()
                worked = time.process_time() - worked
                start = watched.asked[0] - began + watched.asked[1] - watched.answered[0]
                times[kind].append([alone, ended - began, ended - began - start, alone_worked, worked])
                sets[kind] = limbeck.open(path, cache_dir=str(folder / "cache"))
    print(f"\nLabelling {what}, {batches} batches of {batch}; a ratio is of bare passes to labelling")
    print(f"{'kind':10}{'bare, ms':>10}{'label, ms':>11}{'start, ms':>11}{'ratio':>8}{'without start':>15}{'proc.':>7}")
    for kind, measured in times.items():
        alone, whole, steady, _, _ = (statistics.median(each) for each in zip(*measured, strict=True))
        row = {
            "what": what,
            "kind": kind,
            "batches": batches,
            "seconds": measured,
            "ratio": statistics.median(turn[0] / turn[1] for turn in measured),
            "without_start": statistics.median(turn[0] / turn[2] for turn in measured),
            "processor": statistics.median(turn[3] / turn[4] for turn in measured),
        }
        found["labelling"].append(row)
        print(
            f"{kind:10}{1e3 * alone / batches:10.1f}{1e3 * steady / batches:11.1f}{1e3 * (whole - steady):11.0f}"
            f"{row['ratio']:8.2f}{row['without_start']:15.2f}{row['processor']:7.2f}",
            flush=True,
        )
    return sets


class Watched(limbeck.ModelTeacher):
    """Notes when it is asked and when it has answered, batch by batch."""

    def __init__(self, model: nn.Module):
        super().__init__(model)
        self.asked: list[float] = []
        self.answered: list[float] = []

    def __call__(self, batch: Any, positions: Any = None) -> Any:
        self.asked.append(time.perf_counter())
        targets = super().__call__(batch, positions)
        self.answered.append(time.perf_counter())
        return targets


def training(
    what: str,
    student: nn.Module,
    in_memory: Any,
    sets: dict[str, limbeck.Labelled],
    batch: int,
    steps: int,
    temperature: float,
    turns: int,
    found: dict[str, Any],
) -> None:
    """Its rows of the table, into `found`."""
    soft, hard = limbeck.Objective(temperature=temperature), limbeck.Objective(soft_weight=0.0, hard_weight=1.0)
    print(f"\nTraining on {what}, {steps} steps a turn; a ratio is of stored targets to hard labels")
    print(f"{'kind':10}{'workers':>8}{'hard, ms':>10}{'matmul, ms':>12}{'stored, ms':>12}{'ratio':>7}{'proc.':>7}")
    for labelled in sets.values():  # compiles what is compiled
        step_of(student, None, hard, in_memory, batch, 1, 0)
        step_of(student, labelled.teacher, soft, labelled, batch, 1, 0)
    for workers in (0, 1):
        measured: dict[str, list[tuple[float, ...]]] = {kind: [] for kind in sets}
        for _ in range(turns):
            for kind, labelled in sets.items():
                labels = step_of(student, None, hard, in_memory, batch, steps, workers)
                stored = step_of(student, labelled.teacher, soft, labelled, batch, steps, workers)
                matmul = output_layer(labelled, batch) if kind == "hidden" else (0.0, 0.0)
                measured[kind].append((*labels, *stored, *matmul))
        for kind, each in measured.items():
            row = {
                "what": what,
                "kind": kind,
                "workers": workers,
                "seconds": each,
                "ratio": statistics.median(turn[2] / (turn[0] + turn[4]) for turn in each),
                "processor": statistics.median(turn[3] / (turn[1] + turn[5]) for turn in each),
            }
            found["training"].append(row)
            labels, _, stored, _, matmul, _ = (1e3 * statistics.median(times) for times in zip(*each, strict=True))
            print(
                f"{kind:10}{workers:8}{labels:10.1f}{matmul:12.1f}{stored:12.1f}{row['ratio']:7.2f}"
                f"{row['processor']:7.2f}",
                flush=True,
            )


def step_of(
    student: nn.Module, teacher: Any, objective: limbeck.Objective, examples: Any, batch: int, steps: int, workers: int
) -> tuple[float, float]:
    """Seconds of a step, with what its batch took to come, by the clock and of this process's processor."""
    clock = Clock()
    config = limbeck.DistillConfig(
        output_dir=str(OUTPUT / "checkpoints"),
        max_steps=1 + steps,
        per_device_train_batch_size=batch,
        dataloader_num_workers=workers,
        use_cpu=True,
        save_strategy="no",
        disable_tqdm=True,
    )
    trainer = limbeck.DistillTrainer(
        copy.deepcopy(student), teacher, objective, config, train_dataset=examples, callbacks=[clock]
    )
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.train()
    (began, worked), (ended, worked_in_all) = clock.ends[0], clock.ends[-1]
    return (ended - began) / steps, (worked_in_all - worked) / steps


class Clock(transformers.TrainerCallback):
    """When each step ends, by the clock and of the processor."""

    def __init__(self) -> None:
        self.ends: list[tuple[float, float]] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.ends.append((time.perf_counter(), time.process_time()))


def output_layer(labelled: limbeck.Labelled, batch: int) -> tuple[float, float]:
    """Seconds of the matmul that makes a batch's logits of its stored hidden states, into memory that is there."""
    targets: Any = labelled.teacher(labelled.__getitems__(range(batch)))
    hidden, weight = targets.hidden.float(), targets.head.weight.float()
    logits = torch.empty(len(hidden), len(weight))
    torch.mm(hidden, weight.T, out=logits)
    began, worked = time.perf_counter(), time.process_time()
    for _ in range(3):
        torch.mm(hidden, weight.T, out=logits)
    return (time.perf_counter() - began) / 3, (time.process_time() - worked) / 3


def killed(times: int) -> dict[str, Any]:
    """Kills labelling so often, and counts the sets that came out otherwise than undisturbed ones."""
    moments, done, amid, sets, different = random.Random(0), 0, 0, 0, 0
    with tempfile.TemporaryDirectory() as folder:
        whole: dict[str, tuple[dict[str, bytes], float]] = {}
        for kind in ("dense", "sampled"):
            began = time.perf_counter()
            process = begun(Path(folder, kind), kind)
            process.join()
            whole[kind] = contents(Path(folder, kind)), time.perf_counter() - began
        while done < times:
            kind, path = ("dense", "sampled")[sets % 2], Path(folder, f"cut-{sets}")
            expected, seconds = whole[kind]
            while True:
                process = begun(path, kind)
                process.join(moments.uniform(0, seconds) if done < times else None)
                if process.exitcode is None:
                    os.kill(process.pid, signal.SIGKILL)  # type: ignore[arg-type]
                    process.join()
                    amid += len(list(path.glob("part-*.parquet"))) > 0 and not (path / "manifest.json").exists()
                if process.exitcode == 0:
                    break
                if process.exitcode != -signal.SIGKILL:
                    sys.exit(f"store: labelling ended with {process.exitcode}, and not because it was killed.")
                done += 1
            ids = [i for part in sorted(path.glob("*.parquet")) for i in pq.read_table(part)["row_id"].to_pylist()]
            same = contents(path) == expected and ids == list(range(KILLED_ROWS)) and not limbeck.verify(path)
            sets, different = sets + 1, different + (not same)
    print(
        f"\nKilled {done} times, {amid} of them with some shards made and some not, while {sets} sets of {KILLED_ROWS} "
        f"rows were labelled; {different} of the sets differ from undisturbed ones"
    )
    return {"kills": done, "amid": amid, "sets": sets, "different": different}


KILLED_ROWS = 1000


def begun(path: Path, kind: str) -> Any:
    """A process that labels, or goes on labelling: 32 shards of two batches."""
    process = FORKED.Process(target=label_images, args=(path, kind))
    process.start()
    return process


def label_images(path: Path, kind: str) -> None:
    torch.manual_seed(0)
    teacher = limbeck.mlp([784, 64, CLASSES])
    limbeck.label(teacher, images(KILLED_ROWS), path, kind, rows_per_shard=32, batch_size=16)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file, by name."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def images(n: int) -> limbeck.TransferSet:
    """Noise, the same every time."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (n, 28, 28), generator=generator, dtype=torch.uint8)
    return limbeck.TransferSet({"inputs": pixels}, torch.randint(0, CLASSES, (n,), generator=generator))


def llama(width: int, layers: int) -> Any:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=width,
            intermediate_size=8 * width // 3,
            num_hidden_layers=layers,
            num_attention_heads=8,
            num_key_value_heads=4,
            max_position_embeddings=TOKENS,
        )
    )


if __name__ == "__main__":
    main()
