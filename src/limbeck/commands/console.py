"""What the commands print: tables, the verdict; and the log of a run as a file.

What this file does not know: how a number came about.
"""

import json
import unicodedata
from collections.abc import Mapping, Sized
from pathlib import Path
from typing import Any, TypeVar

import datasets
import torch
import transformers
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import nn
from transformers import (
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from limbeck.files import write_whole
from limbeck.losses.objective import Objective
from limbeck.report.headline import headline
from limbeck.results import JsonView
from limbeck.teachers.protocol import BaseTeacher
from limbeck.training.config import DistillConfig
from limbeck.transfer.labels import labelled_rows

console = Console(highlight=False, soft_wrap=True)

AnyTrainer = TypeVar("AnyTrainer", bound=Trainer)

COMPLETIONS, WIDTH = 2, 100
"""How many of the completions are printed, and how much of each; results.json has them all."""

TURNS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters that change the direction of the text after them."""

MOST_CLASSES_COUNTED = 20
"""Classes up to which the plan says how many training examples each has."""

# A line of the table -> where in a role's results it stands, and how it is printed.
LINES: dict[str, tuple[tuple[str, ...], str]] = {
    "right": (("accuracy", "mean"), "{:.2%}"),
    "errors": (("errors", "mean"), "{:,.1f}"),
    "NLL, nats": (("nll", "mean"), "{:.4f}"),
    "Brier score": (("brier", "mean"), "{:.4f}"),
    "balanced accuracy": (("scores", "balanced_accuracy", "mean"), "{:.2%}"),
    "F1, macro": (("scores", "f1_macro", "mean"), "{:.2%}"),
    "ROC-AUC": (("scores", "roc_auc", "mean"), "{:.4f}"),
    "calibration error (ECE)": (("ece", "mean"), "{:.4f}"),
    "  after temperature scaling": (("scaled", "ece", "mean"), "{:.4f}"),
    "agrees with the teacher": (("to_teacher", "agreement", "mean"), "{:.2%}"),
    "  where the teacher is right": (("to_teacher", "agreement_where_teacher_right", "mean"), "{:.2%}"),
    "  where the teacher is wrong": (("to_teacher", "agreement_where_teacher_wrong", "mean"), "{:.2%}"),
    "KL(teacher‖student), nats": (("to_teacher", "forward_kl", "mean"), "{:.4f}"),
    "KL(student‖teacher), nats": (("to_teacher", "reverse_kl", "mean"), "{:.4f}"),
    "parameters": (("parameters",), "{:,}"),
    "bytes": (("bytes",), "{:,}"),
    "ms per example, batch of 1": (("latency_ms", "batch_1"), "{:.3f}"),
    "ms per example, batch of 256": (("latency_ms", "batch_256"), "{:.4f}"),
}
LANGUAGE_LINES: dict[str, tuple[tuple[str, ...], str]] = {
    "perplexity": (("perplexity", "mean"), "{:,.2f}"),
    "nats per token": (("nll", "mean"), "{:.4f}"),
    "next token right": (("accuracy", "mean"), "{:.2%}"),
    "entropy, nats": (("entropy", "mean"), "{:.4f}"),
    "KL(teacher‖student), nats": (("to_teacher", "forward_kl", "mean"), "{:.4f}"),
    "KL(student‖teacher), nats": (("to_teacher", "reverse_kl", "mean"), "{:.4f}"),
    "agrees with the teacher": (("to_teacher", "agreement", "mean"), "{:.2%}"),
    "accepted as a draft": (("to_teacher", "acceptance", "mean"), "{:.2%}"),
    "parameters": (("parameters",), "{:,}"),
    "bytes": (("bytes",), "{:,}"),
}

EACH_OF = {
    "multi_label": "{:,} labels each",
    "segmentation": "{:,} classes of pixels",
    "regression": "numbers per example: {:,}",
}
"""Tasks whose scores results list, and what the title of their table says of the test."""

OF_TASKS: dict[str, tuple[tuple[str, ...], str]] = {
    "agrees with the teacher": (("to_teacher", "agreement", "mean"), "{:.2%}"),
    "R² of the teacher's numbers": (("to_teacher", "r2", "mean"), "{:.4g}"),
    "distance to the teacher (RMSE)": (("to_teacher", "rmse", "mean"), "{:.4g}"),
    "KL(teacher‖student), nats": (("to_teacher", "forward_kl", "mean"), "{:.4f}"),
}
COST_LINES = ("parameters", "bytes", "ms per example, batch of 1", "ms per example, batch of 256")


def say(text: str) -> None:
    """One line for the person at the terminal; what comes from data is not read as markup."""
    console.print(escape(text))


def visible(text: str) -> str:
    """The text with escapes for what would act on a terminal: control characters and changes of direction."""
    return "".join(repr(c)[1:-1] if _acts(c) else c for c in text)


def _acts(c: str) -> bool:
    return c in TURNS or (c not in "\n\t" and unicodedata.category(c) in ("Cc", "Cs"))


def say_plan(
    student: nn.Module,
    teacher: BaseTeacher | None,
    objective: Objective,
    splits: Mapping[str, Sized],
    config: DistillConfig,
) -> None:
    """What is about to happen."""
    sizes = ", ".join(f"{len(part):,} {name}" for name, part in splits.items())
    what = "labels alone"
    if teacher is not None and objective.soft_weight:
        softened = "" if objective.of_values else f" at T = {objective.temperature:g}"
        what = f"{objective.soft_weight:g} × {objective.divergence}{softened}"
        what += f" + {objective.hard_weight:g} × labels" if objective.hard_weight else ""
    trained = f"{config.max_steps:,} steps" if config.max_steps > 0 else f"{config.num_train_epochs:g} epochs"
    parameters = sum(p.numel() for p in student.parameters())
    say(f"Examples: {sizes}. Student: {parameters:,} parameters. Objective: {what}.")
    if (counted := labels_counted(splits.get("train"))) is not None:
        say(counted)
    say(f"Training: {trained} in batches of {config.train_batch_size}, learning rate {config.learning_rate:g}.")


def labels_counted(train: object) -> str | None:
    """How many training examples have a label, and how many of each class where there are few; None without labels."""
    labels = getattr(train, "labels", None)
    if not isinstance(labels, torch.Tensor):
        return None
    if labels.is_floating_point() or labels.ndim > 1:
        count = int(labelled_rows(labels).sum())
        counted = f"Labels: {count:,} of {len(labels):,} training examples"
        names = getattr(train, "label_names", None)
        if labels.ndim != 2 or not names or len(names) != labels.shape[1] or labels.is_floating_point():
            return f"{counted}."
        ones = (labels == 1).sum(0).tolist()
        shown = [f"{name}: {n:,}" for name, n in zip(names, ones, strict=True)][:MOST_CLASSES_COUNTED]
        return f"{counted} ({', '.join(shown)})."
    known = labels[labels >= 0]
    counted = f"Labels: {len(known):,} of {len(labels):,} training examples"
    classes = getattr(train, "num_classes", None)
    if classes is None or classes > MOST_CLASSES_COUNTED:
        return f"{counted}."
    names = getattr(train, "label_names", None) or range(classes)
    counts = known.bincount(minlength=classes).tolist()
    return f"{counted} ({', '.join(f'{name}: {count:,}' for name, count in zip(names, counts, strict=True))})."


def results_table(results: JsonView, names: Mapping[str, str] | None = None) -> Table:
    """A column per role; a line that no role has a value for is left out. names: role -> what to call it."""
    test, roles = results["test"], results["roles"]
    seeds = max(of["seeds"] for of in roles.values())
    writes, task = results.get("task") == "language", str(results.get("task"))
    lines = LANGUAGE_LINES if writes else LINES
    title = f"{test['examples']:,} test examples"
    if task in EACH_OF:
        title += f", {EACH_OF[task].format(test.get('outputs') or test.get('classes'))}"
        lines = lines_of_scores(results)
    else:
        title += f", {test['classes']:,} classes"
    if writes:
        title = f"{test['tokens']:,} tokens of {test['examples']:,} test examples, {test['classes']:,} token ids"
    table = Table(title=title + (f", mean of {seeds} seeds" if seeds > 1 else ""), title_justify="left")
    table.add_column("")
    columns = dict(roles)
    if results.get("guessing"):
        columns["guessing"] = results["guessing"]
    for role in columns:
        table.add_column(escape((names or {}).get(role, role)), justify="right")
    for line, (path, form) in lines.items():
        values = [_at(of, path) for of in columns.values()]
        if any(value is not None for value in values):
            table.add_row(line, *("" if value is None else form.format(value) for value in values))
    return table


def lines_of_scores(results: JsonView) -> dict[str, tuple[tuple[str, ...], str]]:
    """The lines of a task's scores, as LINES has those of a classifier."""
    found = {
        score["title"]: (("scores", score["name"], "mean"), "{:.2%}" if score["share"] else "{:.4g}")
        for score in results["scores"]
    }
    return found | OF_TASKS | {line: LINES[line] for line in COST_LINES}


def print_results(results: JsonView, names: Mapping[str, str] | None = None) -> None:
    """The table and the verdict; of language models, what they write and how fast."""
    console.print(results_table(results, names))
    verdict = headline(results)
    say(f"{verdict['title']}. {verdict['sentence']}" if verdict["hardly"] else verdict["sentence"])
    if draft := results.get("draft"):
        alone, assisted = draft["teacher_tokens_per_second"], draft["assisted_tokens_per_second"]
        if draft["reason"]:
            say(f"Not timed as a draft: {draft['reason']}")
        else:
            say(
                f"As the teacher's draft: {assisted:,.0f} tokens per second against {alone:,.0f} of the teacher alone, "
                f"{draft['speed_up']:.2f} times as fast."
            )
    for role, reason in (results.get("completions_failed") or {}).items():
        say(f"The {role} wrote no completions: {reason}")
    for written in results.get("completions", [])[:COMPLETIONS]:
        console.print()
        say(f"After: {_one_line(written['prompt'])[-WIDTH:]}")
        for role in results["roles"]:
            if written.get(role) is not None:
                say(f"  {(names or {}).get(role, role):>12}: {_one_line(written[role])[:WIDTH]}")


def hush() -> None:
    """No bars and notes of the libraries below, which have nothing to say to the person at the terminal."""
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    datasets.disable_progress_bars()


class LogFile(TrainerCallback):
    """The log of a run, a JSON object per line, written anew at each log so that it is never half a line."""

    def __init__(self, path: Path):
        self.path = path

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object) -> None:
        """Writes what has been logged since the run's first step, resumed or not."""
        if state.is_world_process_zero:
            write_whole(self.path, "".join(json.dumps(line) + "\n" for line in state.log_history))


class OftenEnough(TrainerCallback):
    """A run is logged twenty times, so that a short one has its curve, and no more seldom than every 50 steps."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """The steps between two logs, rounded down."""
        state.logging_steps = max(1, min(50, state.max_steps // 20))


def quiet(trainer: AnyTrainer) -> AnyTrainer:
    """Removes Trainer's progress bar and printed dicts, which progress.py replaces; returns the trainer."""
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    return trainer


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _at(of: Any, path: tuple[str, ...]) -> Any:
    """What stands there, or None; guessing has numbers where roles have the mean over seeds."""
    for key in path:
        if key == "mean" and isinstance(of, int | float):
            return of
        of = of.get(key) if isinstance(of, Mapping) else None
    return of
