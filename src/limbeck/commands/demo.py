"""`limbeck demo`: distillation with few labels, on the handwritten digits that scikit-learn ships.

The teacher, an ensemble of ten nets, has seen every label of its training folds. The student may use 100 labels,
but all the images as an unlabelled transfer set. Two students from the same initial weights, for the same steps:
the baseline learns from its labels, the distilled one from the teacher's soft targets and its labels. Five folds,
so that each of the 1,797 images is tested once; several seeds. The same with all the labels stands beside it.

Written to the folder: the student, its log.jsonl and the baseline's baseline.jsonl, and the results and
a page of both comparisons: results.json and report.html, results_every_label.json and report_every_label.html.
"""

import copy
import gc
from pathlib import Path
from typing import Any

import torch
from sklearn.model_selection import StratifiedKFold
from torch import nn

from limbeck.commands.console import LogFile, hush, print_results, quiet, say
from limbeck.commands.demo_language import demonstrate_language
from limbeck.commands.jobs import DemoJob, read_job
from limbeck.commands.options import new_parser
from limbeck.commands.progress import counted
from limbeck.commands.report import page_of
from limbeck.commands.run_folder import remove_exports
from limbeck.errors import ConfigError
from limbeck.evaluation.classes import Predictions, compare, predict
from limbeck.files import in_use
from limbeck.losses.objective import Objective
from limbeck.networks.folder import load, save
from limbeck.networks.mlp import mlp
from limbeck.report import write_report
from limbeck.results import Json, write_results
from limbeck.teachers import Ensemble, record
from limbeck.training.config import DistillConfig
from limbeck.training.trainer import DistillTrainer
from limbeck.transfer import TransferSet, digits

FOLDS, MEMBERS, LABELS = 5, 10, 100
MEMBER_STEPS, STUDENT_STEPS = 100, 250
ON_LABELS = Objective(soft_weight=0.0, hard_weight=1.0)
DISTILLED = Objective(temperature=4.0, hard_weight=0.5)


def run(words: list[str]) -> None:
    """The command; `words` are its arguments."""
    parser = new_parser("demo", "See distillation work, on handwritten digits or, with --language, on text.")
    parser.add_argument(
        "--language", action="store_true", help="distil a language model, on the text of the Python reference"
    )
    parser.add_argument(
        "--output_dir",
        type=str,
        help="folder for the student, the results and the log; by default runs/demo or runs/demo_language",
    )
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds each student is trained with")
    job = read_job(DemoJob, parser, words)
    if job.seeds < 1:
        raise ConfigError(f"--seeds must be 1 or more, but is {job.seeds}.")
    folder = Path(job.output_dir or ("runs/demo_language" if job.language else "runs/demo"))
    with in_use(folder):
        (_language_demo if job.language else _digits_demo)(folder, job.seeds)


def _digits_demo(folder: Path, seeds: int) -> None:
    torch.set_num_threads(1)  # with networks this small, a second thread costs more than it gains
    gc.freeze()  # Trainer collects garbage at every start, and need not scan the libraries each time
    say(f"Teacher: {MEMBERS} nets that have seen every label. Student: a small net that may see {LABELS} labels.")
    few, every = demonstrate(folder, seeds)
    names = {"student": "distilled", "baseline": "labels alone"}
    for results, what in ((every, "every label"), (few, f"{LABELS} labels")):
        say(f"\nThe student may use {what}, and every image:")
        print_results(results, names)
    files = "results.json, report.html, results_every_label.json, report_every_label.html"
    say(f"\n{folder}: student, {files}, log.jsonl, baseline.jsonl")


def _language_demo(folder: Path, seeds: int) -> None:
    hush()
    say("Teacher: a Llama that reads bytes. Student: half as deep and half as wide. Text: the Python reference.")
    results = demonstrate_language(folder, seeds)
    say("\nOn topics that no model was trained on:")
    print_results(results, {"student": "distilled", "baseline": "text alone"})
    say(f"\n{folder}: student, results.json, report.html, log.jsonl")


def demonstrate(folder: Path, seeds: int) -> tuple[Json, Json]:
    """Trains all folds and seeds; returns and writes the results with few labels and with every label."""
    data = digits()
    trained = 0
    few: list[Predictions] = []
    every: list[Predictions] = []
    curves: Json = {}
    with counted("training", FOLDS * (MEMBERS + 4 * seeds), "nets") as show:
        halves = StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(data.labels, data.labels)
        for fold, (train_rows, test_rows) in enumerate(halves):
            train, test = data.select(train_rows), data.select(test_rows)
            members = []
            for member in range(MEMBERS):
                torch.manual_seed(1000 * fold + member)
                member_net = mlp([64, 200, 200, 10], dropout=0.3)
                _fit(member_net, None, ON_LABELS, train, MEMBER_STEPS, member, folder)
                members.append(member_net)
                trained += 1
                show(trained)
            teacher = Ensemble(members)
            recorded = record(teacher, train)  # one pass serves every student
            labelled = _evenly(train, LABELS, seed=fold)
            for pooled, known in ((few, labelled), (every, torch.arange(len(train)))):
                transfer_set, with_labels = train.without_labels(except_rows=known), train.select(known)
                students, baselines = [], []
                for seed in range(seeds):
                    torch.manual_seed(seed)
                    initial = mlp([64, 64, 10])
                    distilled = copy.deepcopy(initial)
                    logged = pooled is few and fold == seed == 0
                    log, other = (folder / "log.jsonl", folder / "baseline.jsonl") if logged else (None, None)
                    curve = _fit(distilled, recorded, DISTILLED, transfer_set, STUDENT_STEPS, seed, folder, log)
                    reference = _fit(initial, None, ON_LABELS, with_labels, STUDENT_STEPS, seed, folder, other)
                    if logged:
                        curves = {"student": curve, "baseline": reference}
                    students.append(distilled)
                    baselines.append(initial)
                    trained += 2
                    show(trained)
                timed = fold == 0
                pooled.append(predict(students, test, baseline=baselines, teacher=teacher, latency=timed))
                if pooled is few and fold == 0:
                    save(students[0], folder / "student", label_names=data.label_names)
    both = compare(few, curves=curves), compare(every)
    remove_exports(folder, {"student": load(folder / "student")})
    for results, name in zip(both, ("results.json", "results_every_label.json"), strict=True):
        results["settings"] = {"temperature": DISTILLED.temperature, "hard_weight": DISTILLED.hard_weight} | {
            "folds": FOLDS,
            "seeds": seeds,
            "members": MEMBERS,
            "steps": STUDENT_STEPS,
        }
        write_results(results, folder / name)
        write_report(folder / name, page_of(folder / name))
    return both


def _fit(
    net: nn.Module,
    teacher: Any,
    objective: Objective,
    transfer_set: TransferSet,
    steps: int,
    seed: int,
    folder: Path,
    log: Path | None = None,
) -> list[Json]:
    """Trains a network and returns its log; writes it to `log`, if one is given."""
    config = DistillConfig(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=128,
        learning_rate=1e-2,
        lr_scheduler_type="cosine",
        seed=seed,
        logging_strategy="steps" if log else "no",
        logging_steps=10,
        save_strategy="no",
        disable_tqdm=True,
    )
    callbacks = [LogFile(log)] if log else []
    trainer = DistillTrainer(net, teacher, objective, config, train_dataset=transfer_set, callbacks=callbacks)
    quiet(trainer).train()
    history: list[Json] = trainer.state.log_history
    return history


def _evenly(train: TransferSet, labels: int, seed: int) -> torch.Tensor:
    """The indices of `labels` examples, evenly over the classes."""
    _, part = train.split(labels / len(train), seed=seed)
    return torch.isin(train.row_ids, part.row_ids).nonzero().squeeze(1)
