"""Writes the files beside it with the Limbeck that is installed: `python tests/old_files/make.py COMMIT`.

The files were made once, at the commit that VERSION names, and are not made again: tests/test_old_files.py shows
that later versions of Limbeck read them. To add the files of a later format, copy this folder to one of another name
and run its make.py at the commit that introduced the format.

    teacher/            a small classifier of the digits
    tuned/              a search for the temperature (tune.json) and the settings that it chose
    run/                a run of `limbeck distill` that names the search, exported, with a checkpoint of step 4 of 6
    sets/               labelled transfer sets of digits and of text, one of each kind
    texts.jsonl         records of text
    writer/             a small language model with a tokenizer of bytes
    language_run/       a run of `limbeck distill` that cut a student from the writer
    recorded.json       the numbers and fingerprints that were found at that commit
"""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
import transformers
from sklearn.naive_bayes import GaussianNB
from torch import Tensor, nn
from transformers import AutoTokenizer, ByT5Tokenizer, LlamaConfig, LlamaForCausalLM

import limbeck

HERE = Path(__file__).parent
FOLDERS = ("teacher", "tuned", "run", "sets", "writer", "language_run")

STEPS = ["--use_cpu", "true", "--learning_rate", "0.03", "--logging_steps", "2"]
TUNE = ["tune", "--teacher", "teacher", "--hidden", "8", "--max_steps", "4", "--save_strategy", "no", *STEPS]
TUNE += ["--temperatures", "1", "3", "--hard_weights", "0.2", "--seeds", "2", "--output_dir", "tuned"]
RUN = ["distill", "--teacher", "teacher", "--tuned", "tuned", "--hidden", "8", "--dropout", "0.1", *STEPS]
RUN += ["--temperature", "3", "--hard_weight", "0.2", "--labelled", "400", "--baseline", "--max_steps", "6"]
RUN += ["--save_strategy", "steps", "--save_steps", "4", "--output_dir", "run"]
LANGUAGE_RUN = ["distill", "--data", "texts.jsonl", "--teacher", "writer", "--student", "take_layers:1", *STEPS]
LANGUAGE_RUN += ["--max_steps", "4", "--save_strategy", "no", "--output_dir", "language_run"]

IMAGE_SETS: dict[str, dict[str, Any]] = {
    "dense": {"kind": "dense", "dtype": "float16", "rows_per_shard": 8},
    "dense_float32": {"kind": "dense", "dtype": "float32"},
    "top_k": {"kind": "top_k", "k": 3},
    "top_k_16_bits": {"kind": "top_k", "k": 3, "bits": 16, "temperature": 2.0},
    "sampled": {"kind": "sampled", "k": 6, "temperature": 2.0, "seed": 5},
    "views": {"kind": "top_k", "k": 4, "views": 2},
}
TEXT_SETS: dict[str, dict[str, Any]] = {
    "text_hidden": {"kind": "hidden", "dtype": "float16"},
    "text_hidden_int8": {"kind": "hidden", "dtype": "int8"},
    "text_top_k": {"kind": "top_k", "k": 5, "rows_per_shard": 5},
}

SHORT = [*STEPS, "--max_steps", "2", "--validation", "0", "--save_strategy", "no"]
ON_SETS = {
    "dense": ["distill", "--transfer_set", "sets/dense", "--hidden", "8", *SHORT],
    "text_hidden": ["distill", "--transfer_set", "sets/text_hidden", "--student", "language_run/student", *SHORT],
}
MEASURED = ("accuracy", "nll", "brier", "ece", "perplexity", "entropy")
COMPARED = ("agreement", "forward_kl", "reverse_kl", "acceptance")


def filled(network: Any, start: int = 0, unit: float = 1 / 128) -> Any:
    """The network with weights that follow from their place, whole numbers of a unit, the same on every machine."""
    for _, weight in sorted(network.named_parameters()):
        places = torch.arange(start, start + weight.numel())
        weight.data = ((37 * places % 101 - 50) * unit).reshape(weight.shape)
        start += weight.numel()
    return network.eval()


def writer() -> Any:
    """A language model of bytes with `filled` weights."""
    sizes = {"vocab_size": 259, "hidden_size": 8, "intermediate_size": 12, "max_position_embeddings": 48}
    sizes |= {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    return filled(LlamaForCausalLM(LlamaConfig(**sizes)), unit=1 / 32)


def bayes() -> GaussianNB:
    """A scikit-learn classifier whose means and variances are exact in binary."""
    features = np.array([[0, 0, 1], [2, 4, 3], [5, 1, 1], [7, 3, 1]], dtype=np.float64)
    return GaussianNB().fit(features, np.array([0, 0, 1, 1]))


def told(batch: Any) -> Tensor:
    """A function as a teacher."""
    return batch["inputs"].flatten(1)[:, :10]


def members() -> dict[str, Any]:
    """A teacher of each kind, by name; their fingerprints are recorded."""
    network = filled(limbeck.mlp([64, 12, 10]))
    other = filled(limbeck.mlp([64, 5, 10]), start=3)
    function = limbeck.FunctionTeacher(told, fingerprint="the first ten pixels")
    special = limbeck.Specialist(filled(limbeck.mlp([64, 4]), start=7), (1, 4, 7))
    return {
        "network": limbeck.ModelTeacher(network),
        "language model": limbeck.ModelTeacher(writer()),
        "classifier": limbeck.Ensemble([bayes()]).members[0],
        "function": function,
        "arithmetic mean": limbeck.Ensemble([network, other]),
        "geometric mean": limbeck.Ensemble([network, function], mean="geometric", weights=[1.0, 3.0]),
        "specialists": limbeck.Specialists(network, [special], guesses=2),
    }


def examples(count: int) -> Tensor:
    """The first digits, as a network reads them."""
    inputs: Tensor = limbeck.digits().__getitems__(range(count))["inputs"]
    return inputs


@torch.no_grad()
def says(network: nn.Module) -> list[Any]:
    """The logits of a classifier for four digits."""
    rows: list[Any] = network(examples(4)).tolist()
    return rows


@torch.no_grad()
def writes(network: Any) -> list[Any]:
    """The logits of a language model after some bytes: the first eight of each position."""
    rows: list[Any] = network(input_ids=torch.arange(60, 72)[None]).logits[0, :, :8].tolist()
    return rows


def labelled(name: str, folder: Path) -> Any:
    """The labelled transfer set of that name: made where `folder` has none, and otherwise opened if it is the same."""
    if name in TEXT_SETS:
        tokenizer = ByT5Tokenizer(extra_ids=0)
        records = [json.loads(line) for line in (HERE / "texts.jsonl").read_text().splitlines()[:8]]
        rows = limbeck.tokenise(datasets.Dataset.from_list(records), tokenizer)
        return limbeck.label(writer(), rows, folder / name, tokenizer=tokenizer, **TEXT_SETS[name])
    options = IMAGE_SETS[name]
    augment = limbeck.jitter(1, seed=3) if "views" in options else None
    rows, teacher = limbeck.digits().select(range(20)), filled(limbeck.mlp([64, 12, 10]))
    return limbeck.label(teacher, rows, folder / name, augment=augment, **options)


def targets_of(opened: Any) -> dict[str, Any]:
    """Every tensor of the first three examples' batch and of the targets in it; of logits, the first eight classes."""
    batch = opened.__getitems__([0, 1, 2])
    kept = {name: values.tolist() for name, values in batch.items() if not name.startswith("target_")}
    kept["inputs"] = float(batch["inputs"].sum()) if "inputs" in batch else None
    targets = opened.teacher(batch)
    for name in ("logits", "hidden", "ids", "log_probs", "tail", "tail_mean", "weights"):
        values = getattr(targets, name, None)
        if values is not None:
            kept[name] = (values[:, :8] if name == "logits" else values).tolist()
    return kept


def loss_of(opened: Any) -> float:
    """The value of the soft term, at the temperature 2, of a fixed student that learns from these targets."""
    targets = opened.teacher(opened.__getitems__([0, 1, 2]))
    places = torch.arange(len(targets) * opened.num_classes)
    logits = (11 * places % 17 / 4).reshape(len(targets), opened.num_classes)
    return float(limbeck.Objective(temperature=2.0)(logits, targets).mean)


def trained_on_views(opened: Any, folder: str) -> list[Any]:
    """The logits of a student that was trained for two epochs on the labelled views."""
    student = filled(limbeck.mlp([64, 8, 10]), start=11)
    config = limbeck.DistillConfig(
        output_dir=folder,
        num_train_epochs=2,
        per_device_train_batch_size=5,
        learning_rate=0.01,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    objective = limbeck.Objective(temperature=2.0, hard_weight=0.5)
    augment = limbeck.jitter(1, seed=3)
    limbeck.DistillTrainer(student, opened.teacher, objective, config, train_dataset=opened, augment=augment).train()
    return says(student.eval())


def numbers(results: Any) -> dict[str, float]:
    """What was measured of each role, timings left out."""
    found = {}
    for role, of in results["roles"].items():
        told = {name: of[name] for name in MEASURED if name in of}
        told |= {name: of["to_teacher"][name] for name in COMPARED if name in (of.get("to_teacher") or {})}
        found |= {f"{role} {name}": value["mean"] for name, value in told.items() if value is not None}
    return found


def command(*words: str) -> None:
    """`limbeck words`, in this folder."""
    subprocess.run([sys.executable, "-m", "limbeck", *words], cwd=HERE, check=True)


def make_runs(scratch: Path) -> None:
    """The folders that commands leave, without pages and pictures, which are drawn anew."""
    taught = ["--hidden", "12", "--max_steps", "60", "--save_strategy", "no", *STEPS]
    command("distill", *taught, "--output_dir", str(scratch / "taught"))
    shutil.copytree(scratch / "taught" / "student", HERE / "teacher")
    command(*TUNE)
    command(*RUN)
    checkpoints = HERE / "run" / "checkpoints"
    shutil.rmtree(checkpoints / "student" / "checkpoint-6")
    shutil.rmtree(checkpoints / "baseline")
    command("export", "run", "--data", "digits", "--int8")
    for i, name in enumerate(("one", "two", "three", "four", "five", "six")):
        pairs = [{"prompt": f"{name} and {j} is", "completion": f" {i + 1 + j}"} for j in range(7)]
        with open(HERE / "texts.jsonl", "w" if i == 0 else "a") as file:
            file.writelines(json.dumps(pair) + "\n" for pair in pairs)
    limbeck.save(writer(), HERE / "writer", tokenizer=ByT5Tokenizer(extra_ids=0))
    command(*LANGUAGE_RUN)
    for path in (path for name in FOLDERS for path in (HERE / name).rglob("*")):
        if path.suffix in (".html", ".png"):
            path.unlink()


def record(scratch: Path) -> dict[str, Any]:
    """The numbers that today's Limbeck finds in the files."""
    sets = {name: labelled(name, HERE / "sets") for name in [*IMAGE_SETS, *TEXT_SETS]}
    on_sets = {}
    for name, words in ON_SETS.items():
        command(*words, "--output_dir", str(scratch / name))
        on_sets[name] = numbers(limbeck.read_results(scratch / name / "results.json"))
    plain = {name: opened for name, opened in sets.items() if name != "views"}
    tokenizer = AutoTokenizer.from_pretrained(HERE / "language_run" / "student")
    return {
        "transformers": transformers.__version__,
        "fingerprints": {name: teacher.fingerprint() for name, teacher in members().items()},
        "classifiers": {name: says(limbeck.load(HERE / name)) for name in ("teacher", "run/student", "run/baseline")},
        "language models": {name: writes(limbeck.load(HERE / name)) for name in ("writer", "language_run/student")},
        "tokens": tokenizer("six and 3 is")["input_ids"],
        "targets": {name: targets_of(opened) for name, opened in plain.items()},
        "losses": {name: loss_of(opened) for name, opened in plain.items()},
        "trained on sets": on_sets,
        "trained on views": trained_on_views(sets["views"], str(scratch / "views")),
    }


def main(commit: str) -> None:
    """Makes everything anew."""
    for name in FOLDERS:
        shutil.rmtree(HERE / name, ignore_errors=True)
    with tempfile.TemporaryDirectory() as folder:
        datasets.config.HF_DATASETS_CACHE = Path(folder, "cache")
        make_runs(Path(folder))
        recorded = record(Path(folder))
    (HERE / "recorded.json").write_text(json.dumps(recorded, indent=None) + "\n")
    (HERE / "VERSION").write_text(commit + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
