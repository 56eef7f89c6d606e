"""What `limbeck distill` does for all but language models: data of examples, an mlp if nothing else is named.

What this file does not know: training, the folder of a run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from torch import nn
from transformers import set_seed

from limbeck.commands import console
from limbeck.commands.input_statistics import input_statistics
from limbeck.commands.jobs import TrainingJob
from limbeck.commands.language import in_float32, refuse_options_of_language
from limbeck.commands.options import StudentOptions
from limbeck.commands.texts import open_data, open_tokenizers, split_off_a_fifth, with_test
from limbeck.commands.work import Work
from limbeck.errors import ConfigError, DataError
from limbeck.evaluation.class_verdict import MOST_CLASSES
from limbeck.evaluation.classes import evaluate
from limbeck.evaluation.scores import score_named
from limbeck.evaluation.task_scores import TASK_SCORES
from limbeck.networks.asking import inputs_of
from limbeck.networks.mlp import mlp
from limbeck.networks.outputs import CLASSES, CLASSIFICATION, SEGMENTATION, Task, task_of, with_task
from limbeck.networks.table import TableEncoder, table_columns, table_encoder_of, with_table_encoder
from limbeck.store.opened import Labelled
from limbeck.teachers.protocol import BaseTeacher
from limbeck.training.numbers import center_and_scale
from limbeck.training.objectives import settled_task
from limbeck.transfer import TransferSet, jitter
from limbeck.transfer.labels import labelled_rows


def prepare(
    job: TrainingJob, student: nn.Module | None, teacher: BaseTeacher | None, stored_set: Labelled | None = None
) -> Work:
    """The models, data and measurements of a run for classifiers; student is None for a new mlp."""
    refuse_options_of_language(job.texts)
    readers = (student, teacher)
    splits, tokenizer = _read_data(job, readers) if stored_set is None else _read_stored(job, stored_set, readers)
    train = splits["train"]
    training_teacher = teacher if stored_set is None else stored_set.teacher
    if stored_set is not None and teacher is None and has_all_classes(splits["test"]):
        teacher = training_teacher

    task = train.task or (None if student is None else task_of(student)) or CLASSES
    if job.student.variance and not task.is_regression:
        raise ConfigError(f"--variance is for numbers (regression), but the task is {task.kind}; remove it.")
    if job.split.jitter and task.kind == SEGMENTATION:
        raise ConfigError("--jitter shifts images, but not their masks; remove it.")

    def made(seed: int, opened: nn.Module | None) -> tuple[nn.Module, str | None]:
        if opened is None:
            set_seed(seed)  # whatever was read before, the same seed gives the same student
            opened = _new_mlp(job.student, train, task)
        else:
            if table_encoder_of(opened) is None:
                with_table_encoder(opened, _encoder(job.student, train))
            if task_of(opened) is None:
                with_units(opened, replace(task, variance=job.student.variance and task.is_regression), train)
        return in_float32(opened)

    def augment_of(seed: int) -> Any:
        if stored_set is not None and stored_set.manifest.augmentation_seed is not None:
            seed = stored_set.manifest.augmentation_seed  # the views that have stored targets are shown again
        return jitter(job.split.jitter, seed=seed, column=image_column(train)) if job.split.jitter else None

    score_named(job.judge_by, TASK_SCORES[task.kind])  # a wrong name is refused before anything is trained
    student, note = made(job.seed, student)
    if note:
        console.say(note)

    judge_by, inputs = job.judge_by, input_statistics(train, student)

    def measure(
        students: Sequence[nn.Module], baselines: Sequence[nn.Module], curves: Mapping[str, Any], batch_size: int
    ) -> dict[str, Any]:
        if teacher is not None:
            teacher.to(next(students[0].parameters()).device)  # training may have moved the student alone
        results = evaluate(
            students,
            splits["test"],
            baseline=baselines,
            teacher=teacher,
            held_out=splits.get("validation"),
            curves=curves,
            judge_by=judge_by,
            batch_size=batch_size,
            show=None if tokenizer is None else lambda x: tokenizer.decode(x["input_ids"], skip_special_tokens=True),
        )
        per_class = _per_class(train, results["test"]["classes"]) if task.kind == CLASSIFICATION else None
        return results | {
            "transfer_set": {"examples": len(train), "per_class": per_class},
            "held_out": held_out_of(splits),
            "inputs": inputs,
        }

    with_trainer = {"eval_dataset": splits.get("validation"), "augment": augment_of(job.seed)}
    with_trainer["processing_class"] = tokenizer
    baseline_train = train.select(_labelled_rows(train)) if job.with_baseline else train

    def of_seed(seed: int, opened: nn.Module | None) -> tuple[nn.Module, Mapping[str, Any]]:
        return made(seed, opened)[0], with_trainer | {"augment": augment_of(seed)}

    settled = settled_task(student, training_teacher, train)
    names = train.label_names
    return Work(student, training_teacher, splits, with_trainer, baseline_train, measure, of_seed, names, settled)


def _read_data(job: TrainingJob, readers: Sequence[object]) -> tuple[dict[str, TransferSet], Any]:
    """The splits "train", "test" and, where there is one, "validation"; and the tokenizer of texts."""
    split, data = job.split, job.data
    tokenizer, of_teacher = open_tokenizers(data.tokenizer, [job.student.student], job.teacher.teacher)
    splits = open_data(data, tokenizer, of_teacher, readers)
    if "train" not in splits:
        raise DataError(f"{data.data} has no training split; it has {', '.join(splits)}.")
    if (labels := splits["train"].labels) is not None and labels.ndim > 1 and splits["train"].task == CLASSES:
        raise ConfigError(
            "The examples of this data have a label per token, but limbeck distill needs one per example; train a "
            "token classifier in Python, with limbeck.DistillTrainer."
        )
    splits, note = with_test(splits, split_off_a_fifth)
    if note:
        console.say(note)
    if "validation" not in splits and split.validation:
        splits["train"], splits["validation"] = splits["train"].split(split.validation, seed=1)
    if split.labelled is not None:
        splits["train"] = _keep_labels(splits["train"], split.labelled)
    return splits, tokenizer


def _read_stored(job: TrainingJob, stored_set: Labelled, readers: Sequence[object]) -> tuple[dict[str, Any], Any]:
    """Returns the same splits of a stored set; a separate test comes from --data."""
    split, data = job.split, job.data
    labels = stored_set.manifest.columns.get("labels")
    if labels is not None and labels.is_list:
        raise ConfigError(f"{split.transfer_set} is a stored set of a language model; pass --student a language model.")
    if split.labelled is not None:
        raise ConfigError("--labelled removes labels from --data, not from a stored set; remove it.")
    tokenizer, of_teacher = open_tokenizers(data.tokenizer, [job.student.student], job.teacher.teacher)
    splits: dict[str, Any] = {"train": stored_set}
    if data.data is None:
        splits["train"], splits["test"] = stored_set.split(0.2, seed=0)
        console.say(f"{len(splits['test']):,} of the stored examples are held out as the test.")
    else:
        splits["test"] = with_test(
            open_data(data, tokenizer, of_teacher, readers, stored_set.features), split_off_a_fifth
        )[0]["test"]
    if split.validation:
        splits["train"], splits["validation"] = splits["train"].split(split.validation, seed=1)
    return splits, tokenizer


def _keep_labels(train: TransferSet, labelled: int) -> TransferSet:
    known = train.select(_labelled_rows(train))
    if not 0 < labelled < len(known):
        raise ConfigError(f"--labelled must be between 1 and the {len(known)} labelled examples, but is {labelled}.")
    _, part = known.split(labelled / len(known), seed=2)
    places = {int(row): place for place, row in enumerate(train.row_ids)}
    return train.without_labels(except_rows=[places[int(row)] for row in part.row_ids])


def has_all_classes(examples: object) -> bool:
    """Whether the examples hold a teacher's targets over every class, for the inputs as stored."""
    manifest = getattr(examples, "manifest", None)
    return manifest is not None and manifest.kind["kind"] in ("dense", "hidden") and manifest.augmentation is None


def held_out_of(splits: Mapping[str, Any]) -> dict[str, int] | None:
    """The `held_out` of results.json: on how many labels calibration temperatures are fitted; None without any."""
    labels = getattr(splits.get("validation"), "labels", None)
    return None if labels is None else {"examples": int(labelled_rows(labels).sum())}


def _per_class(train: Any, classes: int) -> list[int] | None:
    """How many examples each class has; None where some have no label, or with more than MOST_CLASSES classes."""
    labels = train.labels
    if labels is None or labels.ndim > 1 or bool((labels < 0).any()) or classes > MOST_CLASSES:
        return None
    counts: list[int] = torch.as_tensor(labels).bincount(minlength=classes).tolist()
    return counts


def _labelled_rows(train: TransferSet) -> Any:
    known = None if train.labels is None else labelled_rows(train.labels)
    if known is None or not known.any():
        raise ConfigError("--baseline and --labelled need labels, but the training set has none.")
    return known


def refuse_options_of_mlp(options: StudentOptions) -> None:
    """Raises ConfigError for options that shape an mlp where the student is another model."""
    usual = StudentOptions()
    names = [f"--{f.name}" for f in fields(options) if f.name not in ("student", "scale", "variance")]
    given = [name for name in names if getattr(options, name[2:]) != getattr(usual, name[2:])]
    if given and options.student != "mlp":
        raise ConfigError(
            f"{', '.join(given)} {'applies' if len(given) == 1 else 'apply'} only to a new mlp, but the student is "
            f"{options.student}; remove {'it' if len(given) == 1 else 'them'}."
        )


def _new_mlp(options: StudentOptions, train: TransferSet, task: Task) -> nn.Module:
    if task.kind == SEGMENTATION:
        raise ConfigError("Segmentation needs a network that gives a map of classes, not an mlp; pass --student.")
    if task.is_regression and train.labels is None:
        raise ConfigError("The data has no labels, so the units of an mlp's numbers are not known; pass --student.")
    if task.outputs is None and train.num_classes is None:
        raise ConfigError("The data has no labels, so the number of classes of an mlp is not known; pass --student.")
    column, example = next((name, values[0]) for name, values in inputs_of(train.__getitems__([0])).items())
    if not example.is_floating_point():
        raise ConfigError(
            f"An mlp reads numbers or pixels, but column {column!r} holds {example.dtype}; pass --student."
        )
    encoder = _encoder(options, train)
    outputs = (task.outputs or train.num_classes or 0) * (2 if options.variance else 1)
    student = mlp(
        [example.numel() if encoder is None else encoder.width, *options.hidden, outputs],
        dropout=options.dropout,
        input_dropout=options.input_dropout,
        max_norm=options.max_norm,
    )
    with_units(student, replace(task, variance=options.variance), train)
    return with_table_encoder(student, encoder)


def with_units(student: nn.Module, task: Task, train: Any) -> None:
    """A student of regression learns in the standard units of the training labels from now on; others stay."""
    if task.is_regression and train.labels is not None:
        center, scale = center_and_scale(train.labels)
        with_task(student, replace(task, center=center, scale=scale))


def _encoder(options: StudentOptions, train: Any) -> TableEncoder | None:
    """The encoder of a table's columns, fitted on the training part; None where the data is not a table."""
    return TableEncoder.fit(train, options.scale) if table_columns(train) else None


def image_column(train: TransferSet | Labelled) -> str:
    """The column of a transfer set that --jitter shifts; ConfigError where it is not one."""
    first = inputs_of(train.__getitems__([0]))
    columns = [name for name, values in first.items() if values.ndim >= 3]
    if len(columns) != 1:
        raise ConfigError(f"--jitter shifts images, but the data has {len(columns)} image columns; remove --jitter.")
    return columns[0]
