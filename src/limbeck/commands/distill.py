"""`limbeck distill`: a student from data, a teacher and an objective, judged beside its baseline.

What is left in the run's folder:
    student/, baseline/    the trained models, for limbeck.load
    results.json           what was measured (docs/results.md)
    log.jsonl              a line per logged step; baseline.jsonl for the baseline
    config.yaml            the settings: `limbeck distill --config` runs them again
    checkpoints/           of the trainer, for --resume
"""

import copy
import shutil
from dataclasses import fields
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace
from torch import nn
from transformers import EarlyStoppingCallback, IntervalStrategy, set_seed

from limbeck.checkpoints import newest_whole
from limbeck.commands import console
from limbeck.commands.options import (
    DataOptions,
    ObjectiveOptions,
    RunOptions,
    SplitOptions,
    StudentOptions,
    distill_parser,
    options_of,
    read,
)
from limbeck.commands.texts import (
    divergence_from_text,
    is_cut,
    open_data,
    open_student,
    open_teacher,
    open_tokenizers,
    with_test,
)
from limbeck.errors import ConfigError, DataError
from limbeck.evaluation import evaluate, write_results
from limbeck.language.model import is_language_model
from limbeck.objective import Objective
from limbeck.students import mlp, save
from limbeck.trainer import DistillConfig, DistillTrainer
from limbeck.transfer import TransferSet, jitter

SETTINGS = "config.yaml"
LEFT = {"student", "baseline", "results.json", "log.jsonl", "baseline.jsonl", SETTINGS, "checkpoints"}


def run(words: list[str]) -> None:
    """The command; `words` are its arguments."""
    parser = distill_parser(brief="--help" in words or "-h" in words)
    chosen = read(parser, words)
    options = options_of(RunOptions, chosen)
    objective = _objective(chosen)
    config = _training_arguments(chosen, options)  # refuses before anything is read
    set_seed(config.seed)
    teacher = open_teacher(chosen.teacher, chosen.mean)  # a wrong name is told before data is read
    splits, tokenizer = _read_data(chosen)
    student = _open_student(options_of(StudentOptions, chosen), splits["train"], teacher)
    augment = jitter(chosen.jitter, seed=config.seed, column=_image_column(splits["train"])) if chosen.jitter else None
    folder = _claim(parser, chosen, options)
    if options.learning_rate is None:
        is_trained = is_cut(chosen.student) or (hasattr(student, "config") and ":" not in chosen.student)
        config.learning_rate = 5e-5 if is_trained else 1e-3
    console.say_plan(student, teacher, objective, splits, config)

    untrained = copy.deepcopy(student) if options.baseline else None
    shared = {"eval_dataset": splits.get("validation"), "augment": augment, "processing_class": tokenizer}
    curves = {
        "student": _train("student", student, teacher, objective, config, splits["train"], folder, options, shared)
    }
    if untrained is not None:
        on_labels = Objective(soft_weight=0.0, hard_weight=1.0)
        labelled = splits["train"].select(_labelled_rows(splits["train"]))
        matched = copy.copy(config)
        matched.max_steps = curves["student"][-1]["step"]  # as many steps, however few the labels
        _count_in_steps(matched, -(-len(splits["train"]) // config.train_batch_size))
        curves["baseline"] = _train("baseline", untrained, None, on_labels, matched, labelled, folder, options, shared)

    results = evaluate(
        student,
        splits["test"],
        baseline=untrained,
        teacher=teacher,
        held_out=splits.get("validation"),
        curves=curves,
        batch_size=config.per_device_eval_batch_size,
        show=None if tokenizer is None else lambda row: tokenizer.decode(row["input_ids"], skip_special_tokens=True),
    )
    results["settings"] = _settings(parser, chosen)
    _save_settings(parser, results["settings"], folder)
    write_results(results, folder / "results.json")
    console.print_results(results)
    console.say(
        f"{folder}: student{', baseline' if untrained is not None else ''}, results.json, log.jsonl, {SETTINGS}"
    )


def _train(
    role: str,
    student: nn.Module,
    teacher: Any,
    objective: Objective,
    config: DistillConfig,
    train: TransferSet,
    folder: Path,
    options: RunOptions,
    shared: dict[str, Any],
) -> list[dict[str, Any]]:
    """Trains and saves one model; returns its log."""
    config = copy.copy(config)
    config.output_dir = str(folder / "checkpoints" / role)
    log_file = folder / ("log.jsonl" if role == "student" else f"{role}.jsonl")
    callbacks: list[Any] = [console.LogFile(log_file), console.Progress(role)]
    if options.early_stopping:
        callbacks.append(EarlyStoppingCallback(early_stopping_patience=options.early_stopping))
    trainer = DistillTrainer(student, teacher, objective, config, train_dataset=train, callbacks=callbacks, **shared)
    console.quiet(trainer)
    resume = options.resume and newest_whole(config.output_dir)[0] is not None
    if options.resume and not resume:
        console.say(f"There is no whole checkpoint of the {role}: it starts from the beginning.")
    trainer.train(resume_from_checkpoint=resume or None)
    save(student, folder / role, label_names=train.label_names, tokenizer=shared["processing_class"])
    history: list[dict[str, Any]] = trainer.state.log_history
    return history


def _count_in_steps(config: DistillConfig, steps_per_epoch: int) -> None:
    """What happens once an epoch of the whole training set happens as often where an epoch of its labels is shorter."""
    for what in ("save", "eval", "logging"):
        if getattr(config, f"{what}_strategy") == "epoch":
            setattr(config, f"{what}_strategy", IntervalStrategy.STEPS)
            setattr(config, f"{what}_steps", steps_per_epoch)


def _objective(chosen: Namespace) -> Objective:
    wanted = options_of(ObjectiveOptions, chosen)
    if not chosen.teacher:  # the labels alone, whatever the default of soft_weight
        return Objective(soft_weight=0.0, hard_weight=wanted.hard_weight or 1.0, temperature=wanted.temperature)
    divergence = divergence_from_text(wanted.divergence)
    return Objective(divergence, wanted.temperature, wanted.soft_weight, wanted.hard_weight)


def _training_arguments(chosen: Namespace, options: RunOptions) -> DistillConfig:
    given = chosen.as_dict()
    values = {f.name: given[f.name] for f in fields(DistillConfig) if f.init and f.name in given}
    values |= {"output_dir": str(Path(options.output_dir) / "checkpoints"), "disable_tqdm": True}
    values["learning_rate"] = 1e-3 if options.learning_rate is None else options.learning_rate
    if options.early_stopping:
        values |= {"eval_strategy": values["save_strategy"], "load_best_model_at_end": True}
        values |= {"eval_steps": values["save_steps"], "metric_for_best_model": "loss", "greater_is_better": False}
    if options.resume and options.overwrite:
        raise ConfigError("--resume goes on with a run and --overwrite replaces it; give one of them.")
    if chosen.baseline and not chosen.teacher:
        raise ConfigError(
            "Without a teacher the student is the baseline itself; leave --baseline out, or give --teacher."
        )
    return DistillConfig(**values)


def _read_data(chosen: Namespace) -> tuple[dict[str, TransferSet], Any]:
    """The splits "train", "test" and, where there is one, "validation"; and the tokenizer of texts."""
    split, data = options_of(SplitOptions, chosen), options_of(DataOptions, chosen)
    tokenizer, of_teacher = open_tokenizers(data.tokenizer, [chosen.student], chosen.teacher)
    splits = open_data(data, tokenizer, of_teacher)
    if "train" not in splits:
        raise DataError(f"{data.data} has no training split; it has {', '.join(splits)}.")
    if (labels := splits["train"].labels) is not None and labels.ndim > 1:
        raise ConfigError(
            "The examples of this data have a label per token, and the command judges one class per example; train a "
            "token classifier in Python, with limbeck.DistillTrainer."
        )
    splits, said = with_test(splits)
    if said:
        console.say(said)
    if "validation" not in splits and split.validation:
        splits["train"], splits["validation"] = splits["train"].split(split.validation, seed=1)
    if split.labelled is not None:
        splits["train"] = _keep_labels(splits["train"], split.labelled)
    return splits, tokenizer


def _keep_labels(train: TransferSet, labelled: int) -> TransferSet:
    known = train.select(_labelled_rows(train))
    if not 0 < labelled < len(known):
        raise ConfigError(f"--labelled must be between 1 and the {len(known)} labelled examples, but is {labelled}.")
    _, kept = known.split(labelled / len(known), seed=2)
    places = {int(row): place for place, row in enumerate(train.row_ids)}
    return train.without_labels(except_rows=[places[int(row)] for row in kept.row_ids])


def _labelled_rows(train: TransferSet) -> Any:
    if train.labels is None or not (train.labels != -100).any():
        raise ConfigError("--baseline and --labelled need labels, but the training set has none.")
    return (train.labels != -100).reshape(len(train), -1).any(1)


def _open_student(options: StudentOptions, train: TransferSet, teacher: Any) -> nn.Module:
    if options.student != "mlp":
        student = open_student(options.student, teacher)
        if not isinstance(student, nn.Module):
            raise ConfigError(f"{options.student} is no network that can be trained, but a {type(student).__name__}.")
        if is_language_model(student):
            raise ConfigError(
                f"{options.student} writes text, and the command judges one class per example; train language models "
                "in Python, with limbeck.tokenise and limbeck.DistillTrainer (docs/language.md)."
            )
        return student
    if train.num_classes is None:
        raise ConfigError("The data has no labels, so an mlp cannot tell how many classes there are; give --student.")
    column, example = next((k, v) for k, v in train[0].items() if k not in ("labels", "row_id"))
    if not example.is_floating_point():
        raise ConfigError(f"An mlp reads numbers or pixels, but the data's column {column!r} holds {example.dtype}.")
    return mlp(
        [example.numel(), *options.hidden, train.num_classes],
        dropout=options.dropout,
        input_dropout=options.input_dropout,
        max_norm=options.max_norm,
    )


def _image_column(train: TransferSet) -> str:
    columns = [k for k, v in train[0].items() if k not in ("labels", "row_id") and v.ndim >= 2]
    if len(columns) != 1:
        raise ConfigError(f"--jitter shifts images, but the data has {len(columns)} image columns; leave it out.")
    return columns[0]


def _claim(parser: ArgumentParser, chosen: Namespace, options: RunOptions) -> Path:
    """The run's folder, made ready: an older run there is neither mixed in nor lost unasked."""
    folder = Path(options.output_dir)
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file; give another --output_dir.")
    found = {entry.name for entry in folder.iterdir()} if folder.exists() else set()
    begun = SETTINGS in found and ("student" in found or any(folder.glob("checkpoints/*/checkpoint-*")))
    strange = {name.removesuffix(".partial") for name in found} - LEFT
    if found and not begun and (strange or SETTINGS not in found):
        raise ConfigError(f"{folder} holds files that are no run of Limbeck's; give another --output_dir.")
    if begun and not options.resume and not options.overwrite:
        raise ConfigError(
            f"{folder} already holds a run; --resume goes on with it, --overwrite replaces it, and another "
            "--output_dir leaves it alone."
        )
    if not options.resume:
        _remove_run(folder)
    folder.mkdir(parents=True, exist_ok=True)
    settings = _settings(parser, chosen)
    if options.resume and (folder / SETTINGS).exists():
        before = parser.parse_path(folder / SETTINGS).as_dict()
        for name in sorted(settings):
            if before.get(name) != settings[name]:
                console.say(f"Note: {name} was {before.get(name)} when the run began and is {settings[name]} now.")
    if not (folder / SETTINGS).exists():  # a run that is resumed keeps what it began with until it has ended
        _save_settings(parser, settings, folder)
    return folder


def _save_settings(parser: ArgumentParser, settings: dict[str, Any], folder: Path) -> None:
    kept = Namespace(**settings)  # type: ignore[no-untyped-call]
    parser.save(kept, folder / SETTINGS, overwrite=True, skip_validation=True)


def _remove_run(folder: Path) -> None:
    """Deletes what a run left in its folder, and nothing that somebody else put there."""
    for path in (folder / name for name in LEFT):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _settings(parser: ArgumentParser, chosen: Namespace) -> dict[str, Any]:
    return {k: v for k, v in chosen.as_dict().items() if k not in ("config", "resume", "overwrite", "help_all")}
