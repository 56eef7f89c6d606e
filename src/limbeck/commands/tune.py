"""`limbeck tune`: the temperature and the weight of the labels, chosen on examples that are held out of training.

Files in the folder:
    tune.json        every trial, the candidates, the best (docs/tuning.md)
    tune.png         the measure over the temperature
    report.html      why it was chosen, as a page (docs/report.md)
    distill.yaml     the settings to train with: `limbeck distill --config`

What this file does not know: how candidates are tried and ranked (that is limbeck.tuning).
"""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accelerate import PartialState
from rich.table import Table
from torch import nn

from limbeck.commands import classifiers, console, language
from limbeck.commands.jobs import DistillJob, TuneJob, distill_parser, read_job, tune_parser
from limbeck.commands.options import yaml_of
from limbeck.commands.run_folder import settings_of
from limbeck.commands.texts import (
    divergence_from_text,
    open_student,
    open_teacher,
    refuse_unused_networks,
    was_trained,
)
from limbeck.errors import ConfigError
from limbeck.files import require_writable, write_whole
from limbeck.networks.mlp import mlp
from limbeck.networks.table import table_encoder_of, with_table_encoder
from limbeck.report import write_report
from limbeck.report.tuning import ranked
from limbeck.store.opened import open as open_stored
from limbeck.tuning import MEASURES, PLOT, RESULTS, tune

NEXT, PAGE = "distill.yaml", "report.html"


def run(words: list[str]) -> None:
    """The command; `words` are its arguments."""
    console.hush()
    job = read_job(TuneJob, tune_parser(brief="--help" in words or "-h" in words), words)
    if not job.has_targets:
        raise ConfigError("Soft targets are required; pass --teacher or --transfer_set.")
    classifiers.refuse_options_of_mlp(job.student)
    refuse_unused_networks(job.own.network, [job.student.student, *job.teacher.teacher])
    divergence = divergence_from_text(job.search.divergence)
    teacher = open_teacher(job.teacher.teacher, job.teacher.mean, job.own.network)
    stored_set = open_stored(job.split.transfer_set) if job.split.transfer_set else None
    is_new_mlp = job.student.student == "mlp"
    student = None if is_new_mlp else open_student(job.student.student, teacher, job.own.network)
    if not is_new_mlp and not isinstance(student, nn.Module):
        raise ConfigError(
            f"{job.student.student} is not a network that can be trained, but a {type(student).__name__}."
        )
    writes = language.are_language_models(student, teacher)
    if writes:
        job = job.for_language_models()
    job.training_arguments()  # raises before anything is read
    state = PartialState()  # of this process, and those that torchrun or accelerate launch started beside it
    console.console.quiet = not state.is_main_process
    with state.main_process_first():  # the others find in the cache what it has read
        work = (language if writes else classifiers).prepare(job, student, teacher, stored_set)
    job = job.with_default_rate(was_trained(job.student.student, work.student))
    options, config = job.search, job.training_arguments()
    arguments = dict(work.with_trainer)
    sizes = getattr(work.student, "settings", {})

    def make_student() -> nn.Module:
        if job.student.student == "mlp":
            return with_table_encoder(mlp(**sizes), table_encoder_of(work.student))
        copied = copy.deepcopy(open_student(job.student.student, teacher, job.own.network))
        return with_table_encoder(language.in_float32(copied)[0], table_encoder_of(work.student))

    train, validation = work.splits["train"], arguments.pop("eval_dataset")
    if validation is None:
        raise ConfigError(
            "Students are compared on held-out examples, but --validation is 0; set it to a share above 0."
        )
    folder = Path(options.output_dir)
    if (folder / "results.json").exists():
        raise ConfigError(f"{folder} holds a run, whose report would be overwritten; pass another --output_dir.")
    require_writable(folder)

    def say_trial(text: str) -> None:
        if state.is_main_process:
            for name in (NEXT, PLOT, PAGE):  # written for the trials so far
                (folder / name).unlink(missing_ok=True)
        console.say(text)

    count = len(options.temperatures) * len(options.hard_weights)
    console.say(
        f"Examples: {len(train):,} train, {len(validation):,} validation; the test is not used. {count} "
        f"candidates; the best {options.keep:.0%} of them continue to the next of {options.seeds} seeds."
    )
    found = tune(
        make_student,
        work.teacher,
        train,
        validation,
        config,
        temperatures=options.temperatures,
        hard_weights=options.hard_weights,
        divergence=divergence,
        seeds=options.seeds,
        keep=options.keep,
        measure=options.measure,
        folder=options.output_dir,
        say=say_trial,
        **arguments,
    )
    state.destroy_process_group()
    if not state.is_main_process:
        return
    _save_next(job, found["best"], folder)
    write_report(folder / RESULTS, folder / PAGE)
    console.console.print(_table(found, len(validation)))
    console.say(found["sentence"])
    console.say(f"{folder}: {RESULTS}, {PLOT}, {PAGE}, {NEXT}. To train with it:")
    console.say(f"  limbeck distill --config {folder / NEXT} --output_dir runs/distill")


def _save_next(job: TuneJob, best: Mapping[str, Any], folder: Path) -> None:
    """The settings of `limbeck distill` with which the best candidate was trained."""
    settings = settings_of(read_job(DistillJob, distill_parser(), []))
    same = {k: v for k, v in job.values().items() if k in settings and k not in ("output_dir", "seeds")}
    best_of = {"temperature": best["temperature"], "hard_weight": best["hard_weight"], "tuned": str(folder / RESULTS)}
    write_whole(folder / NEXT, yaml_of(distill_parser(), settings | same | best_of))


def _table(found: Mapping[str, Any], held_out: int) -> Table:
    """A row per candidate: most seeds first, then the best first."""
    measure, best = found["measure"], found["best"]
    table = Table(title=f"chosen by {measure}, on {held_out:,} examples", title_justify="left")
    shown = [name for name in MEASURES if name in best]
    for header in ("T", "hard_weight", "seeds", *shown, "against the best"):
        table.add_column(header, justify="right")
    tried = [row for row in found["candidates"] if row["seeds"]]
    for row in ranked(tried, measure, best):
        values = ["" if row[name]["mean"] is None else f"{row[name]['mean']:.4f}" for name in shown]
        against = row.get("against_best")
        against_best = "the best" if row is best else ""
        if against is not None and against["low"] is not None:
            against_best = f"{against['low']:+.4f} to {against['high']:+.4f}"
        table.add_row(f"{row['temperature']:g}", f"{row['hard_weight']:g}", str(row["seeds"]), *values, against_best)
    return table
