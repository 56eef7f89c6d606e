"""What the commands do for language models: records become rows of tokens, and their tokens are measured.

What this file does not know: training, the folder of a run.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import datasets
import torch
from datasets import Dataset, disable_progress_bars
from torch import nn
from transformers import PreTrainedTokenizerBase

from limbeck.commands import console
from limbeck.commands.jobs import TrainingJob
from limbeck.commands.options import DataOptions, LabelOptions, LanguageOptions, SplitOptions
from limbeck.commands.texts import names_python_data, open_tokenizers, python_data, with_test
from limbeck.commands.work import Work
from limbeck.errors import ConfigError, DataError
from limbeck.evaluation.tokens import evaluate_language
from limbeck.networks.asking import networks_of
from limbeck.networks.decoding import is_encoder_decoder
from limbeck.networks.halves import is_language_model, position_limit
from limbeck.networks.tasks import require_supported_tasks
from limbeck.store.opened import Labelled
from limbeck.teachers.protocol import BaseTeacher
from limbeck.transfer.splits import load_splits
from limbeck.transfer.text.examples import tokenise
from limbeck.transfer.text.formats import NESTED
from limbeck.transfer.text.pack import pack
from limbeck.transfer.text.view import first_examples
from limbeck.transfer.text.vocabulary import shared_vocabulary

CLASSIFIER_OPTIONS = (
    "image_column",
    "label_column",
    "feature_columns",
    "num_classes",
    "image_size",
    "labelled",
    "jitter",
)
"""Options that apply only to classifiers."""

EXAMPLES_IN_REPORT = 3
"""How many training examples are shown on the page of a run."""

TEST_SHARE, MOST_TESTED = 0.1, 1000
"""The share of a single split that is set apart as the test."""


def prepare(
    job: TrainingJob, student: nn.Module, teacher: BaseTeacher | None, stored_set: Labelled | None = None
) -> Work:
    """The models, data and measurements of a run for language models."""
    data, split, texts = job.data, job.split, job.texts
    refuse_options_of_classes(data, split)
    student, note = in_float32(student)
    if note:
        console.say(note)
    tokenizer, of_teacher = open_tokenizers(data.tokenizer, [job.student.student], job.teacher.teacher)
    splits: dict[str, Any]
    if stored_set is not None:
        _check_stored(stored_set, job)
        if of_teacher is None and stored_set.manifest.tokenizer is not None:
            of_teacher = tokenizer  # student and baseline are cut to its tokens, as the stored targets are
    if stored_set is None or data.data is not None:
        splits, note = open_rows(data, texts, [student], teacher, tokenizer, of_teacher)
        if stored_set is None and "train" not in splits:
            raise DataError(f"{data.data} has no training split; it has {', '.join(splits)}.")
        if note:
            console.say(note)
        if stored_set is not None:
            splits = {"train": stored_set, "test": splits["test"]}
    else:
        rest, test = part_of(stored_set, TEST_SHARE, seed=0)
        console.say(f"{len(test):,} of the stored examples are held out as the test.")
        splits = {"train": rest, "test": test.dataset}
    if "validation" not in splits and split.validation:
        splits["train"], splits["validation"] = part_of(splits["train"], split.validation, seed=1)
    first_rows = splits["train"] if stored_set is None else splits["train"].dataset
    first_rows = first_rows.select(range(min(EXAMPLES_IN_REPORT, len(first_rows))))
    if texts.packing:
        longest = _least(data.max_length, _context_of(student))
        if longest is None:
            raise ConfigError(
                "Packing fills rows of --max_length tokens, and the student has no limit; pass --max_length."
            )
        whole = len(splits["train"])
        splits["train"] = pack(splits["train"], longest, teacher_max_length=_context_of(teacher))
        console.say(f"{whole:,} training examples are packed into {len(splits['train']):,} rows.")

    def measure(
        students: Sequence[nn.Module], baselines: Sequence[nn.Module], curves: Mapping[str, Any], batch_size: int
    ) -> dict[str, Any]:
        if teacher is not None:
            teacher.to(next(students[0].parameters()).device)  # training may have moved the student alone
        results = evaluate_language(
            students,
            splits["test"],
            baseline=baselines,
            teacher=teacher,
            tokenizer=tokenizer,
            teacher_tokenizer=of_teacher,
            curves=curves,
            batch_size=batch_size,
        )
        if tokenizer is not None:
            read = first_examples(first_rows, tokenizer, of_teacher, is_encoder_decoder(students[0]))
            results["training_examples"] = read
        return results

    with_trainer = {"eval_dataset": splits.get("validation"), "processing_class": tokenizer}
    with_trainer["teacher_tokenizer"] = of_teacher
    training_teacher, baseline_train = teacher, splits["train"]
    if stored_set is not None:
        training_teacher, baseline_train = stored_set.teacher, splits["train"].dataset

    def of_seed(seed: int, opened: nn.Module | None) -> tuple[nn.Module, Mapping[str, Any]]:
        if opened is None:
            raise ConfigError("A language model starts from --student; an mlp is none.")
        return in_float32(opened)[0], with_trainer

    return Work(student, training_teacher, splits, with_trainer, baseline_train, measure, of_seed)


def are_language_models(student: object, teacher: object) -> bool:
    """Whether the models are language models; ConfigError where one is and the other is not."""
    for who, model in (("student", student), ("teacher", teacher)):
        require_supported_tasks(networks_of(model) or [], who)
    writes = [is_language_model(network) for model in (student, teacher) for network in networks_of(model) or []]
    if len(set(writes)) > 1 or (any(writes) and student is None):
        other = "the student is an mlp" if student is None else "one of student and teacher is not"
        raise ConfigError(
            f"Language models learn from language models, but {other}; pass --student a language model, or "
            "take_layers:6 for a copy of some of the teacher's layers."
        )
    return any(writes)


def open_rows(
    data: DataOptions,
    language: LanguageOptions,
    students: Sequence[object],
    teacher: object,
    tokenizer: PreTrainedTokenizerBase | None,
    teacher_tokenizer: PreTrainedTokenizerBase | None = None,
    make_test: bool = True,
) -> tuple[dict[str, datasets.Dataset], str | None]:
    """Returns the splits of the data as rows of token ids (`limbeck.tokenise`), and a note on how the test was made.

    Rows are truncated to the shortest context of the students. The test is split off before tokenisation, so that it
    does not depend on what is truncated or dropped for one model. The note is None where no test was made.

    make_test: where the data has no test split, turn its validation split, or a part of train, into one; False
        leaves the splits as the data has them.
    """
    if data.data == "digits":
        raise ConfigError("The digits are images, but a language model learns from text; pass --data.")
    if tokenizer is None:
        raise ConfigError("Text needs a tokenizer, but neither student nor teacher has one; pass --tokenizer.")
    if teacher_tokenizer is not None:
        shared_vocabulary(tokenizer, teacher_tokenizer)  # before a long read
    found = records_by_split(data)
    kinds = {is_encoder_decoder(network) for model in students for network in networks_of(model) or []}
    if len(kinds) > 1:
        raise ConfigError("Encoder-decoders and causal models need different rows; pass models of one kind.")
    splits, note = dict(found), None
    if make_test:
        splits, note = with_test(found, lambda records: part_of(records, TEST_SHARE, seed=0))
    settings = tokenise_settings(data, language, students, teacher)
    settings |= {"encoder_decoder": True in kinds, "teacher_tokenizer": teacher_tokenizer}
    return {name: tokenise(records, tokenizer, **settings) for name, records in splits.items()}, note


def tokenise_settings(
    data: DataOptions, language: LanguageOptions, students: Sequence[object], teacher: object
) -> dict[str, Any]:
    """The arguments of `tokenise` that stand for options; rows are truncated to what all models can read."""
    return {
        "assistant": language.assistant,
        "max_length": _least(data.max_length, *map(_context_of, students)),
        "teacher_max_length": _least(language.teacher_max_length, _context_of(teacher)),
        "num_proc": language.num_proc,
    }


def records_by_split(data: DataOptions) -> dict[str, Dataset]:
    """The records of --data by split, train first, each with a row_id; the column of --text_column is `text`."""
    disable_progress_bars()  # of reading: training has its own
    found, first = _records_of(data), 0
    for name in sorted(found, key=lambda name: name != "train"):
        records = found[name]
        if data.text_column is not None:
            if data.text_column not in records.column_names:
                raise DataError(
                    f"--text_column {data.text_column} is not in {name}; its columns are {records.column_names}."
                )
            records = records.select_columns([data.text_column]).rename_column(data.text_column, "text")
        if "row_id" not in records.column_names:
            records = records.add_column("row_id", list(range(first, first + len(records))))
            first += len(records)
        found[name] = records
    return found


def _records_of(data: DataOptions) -> dict[str, Dataset]:
    """The records of --data by split: read from files or from the hub, or returned by the user's callable."""
    if not names_python_data(data.source):
        return load_splits(data.source, data.column_names or None)
    if data.column_names:
        raise ConfigError(f"--column_names applies only to files, but {data.source} is a Python object; remove it.")
    returned = python_data(data.source)
    splits = dict(returned) if isinstance(returned, Mapping) else {"train": returned}
    return {name: _as_dataset(records, data.source, name) for name, records in splits.items()}


def _as_dataset(records: Any, source: str, split: str) -> Dataset:
    """The records of a split that the user's callable returned; DataError where they are not records of text."""
    if isinstance(records, Dataset) and len(records):
        return records
    expected = (
        f"{source} must return records of text, prompt and completion, messages, conversations, or instruction and "
        "output: a list of dicts or a datasets.Dataset, or a dict of them by split"
    )
    if not isinstance(records, list | tuple | Dataset):
        raise DataError(f"{expected}; its {split} is a {type(records).__name__}.")
    if not len(records):
        raise DataError(f"{expected}; its {split} is empty.")
    for place, record in enumerate(records):
        if not isinstance(record, Mapping):
            raise DataError(f"{expected}; record {place} of its {split} is a {type(record).__name__}.")
    try:
        return Dataset.from_list([{name: _as_json(name, value) for name, value in r.items()} for r in records])
    except (TypeError, ValueError) as error:  # of Arrow: a column whose values have different types
        raise DataError(f"{expected}; its {split} does not fit in a table: {error}") from error


def _as_json(name: str, value: Any) -> Any:
    """The value of a column; a conversation or tools as JSON, since Arrow would give all of them the same keys."""
    if name not in NESTED or not isinstance(value, list | Mapping):
        return value
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):  # values that are not those of JSON
        return value


def _check_stored(stored_set: Labelled, job: TrainingJob) -> None:
    """Raises ConfigError if a stored set does not hold text, or for options of reading text where none is read."""
    data, texts = job.data, job.texts
    labels = stored_set.manifest.columns.get("labels")
    if labels is None or not labels.is_list:
        raise ConfigError(
            f"{job.split.transfer_set} is a stored set of a classifier; pass --student a classifier, or mlp."
        )
    if texts.packing:
        raise ConfigError("A stored set is trained on row by row and cannot be packed; remove --packing.")
    if data.data is None:
        reading = {"max_length": data.max_length, "text_column": data.text_column}
        reading |= {"teacher_max_length": texts.teacher_max_length}
        reading |= {"assistant": texts.assistant if texts.assistant != LanguageOptions.assistant else None}
        for name, value in reading.items():
            if value is not None:
                raise ConfigError(f"--{name} changes how --data is read, but no --data is given; remove it.")


def part_of(rows: datasets.Dataset, share: float, seed: int) -> tuple[datasets.Dataset, datasets.Dataset]:
    """`(the rest, a random part)` of rows, the part at most MOST_TESTED."""
    size = min(round(share * len(rows)), MOST_TESTED)
    if not 0 < size < len(rows):
        raise DataError(
            f"{len(rows)} examples are too few to hold some out: a share of {share:g} is {size}; provide more, or "
            "separate files train.*, test.* and validation.*."
        )
    if isinstance(rows, Labelled):
        return rows.split(size / len(rows), seed=seed)
    parts = rows.train_test_split(size, seed=seed)
    return parts["train"], parts["test"]


def refuse_judge_by(judge_by: str | None) -> None:
    """ConfigError where a score of classes is asked for."""
    if judge_by is not None:
        raise ConfigError(
            "A language model's verdict is about nats per token, and --judge_by chooses among the scores of other "
            "tasks; remove it."
        )


def refuse_options_of_classes(data: DataOptions, more: SplitOptions | LabelOptions | None = None) -> None:
    """Raises ConfigError for options that apply only to classifiers."""
    for options in (data, more):
        for f in fields(options) if options is not None else ():
            if f.name in CLASSIFIER_OPTIONS and getattr(options, f.name):
                raise ConfigError(
                    f"--{f.name} applies only to classifiers, but the model is a language model; remove it."
                )


def refuse_options_of_language(language: LanguageOptions) -> None:
    """Raises ConfigError for options that apply only to language models."""
    for f in fields(language):
        if getattr(language, f.name) != f.default:
            raise ConfigError(
                f"--{f.name} applies only to language models, but the student is a classifier; remove it."
            )


def in_float32(student: nn.Module) -> tuple[nn.Module, str | None]:
    """Returns the student in float32 if it is trained in half precision, and a note on the conversion, or None."""
    dtypes = {parameter.dtype for parameter in student.parameters() if parameter.requires_grad}
    if not dtypes & {torch.bfloat16, torch.float16}:
        return student, None
    name = " and ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))
    note = f"The student's weights are {name}: they are trained in float32, so that small steps are not lost."
    return student.float(), note + " Pass --bf16 to multiply in bfloat16."


def _context_of(model: Any) -> int | None:
    """The longest row that the networks of a model can read; None without a limit."""
    limits = [position_limit(network) for network in networks_of(model) or [] if is_language_model(network)]
    return _least(*limits)


def _least(*limits: int | None) -> int | None:
    return min((limit for limit in limits if limit is not None), default=None)
