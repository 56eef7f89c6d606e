"""`limbeck label`: stores the teacher's targets for every example, for `limbeck distill --transfer_set`."""

from typing import Any

from accelerate import PartialState

from limbeck.commands import console, language
from limbeck.commands.classifiers import image_column
from limbeck.commands.info import table
from limbeck.commands.jobs import LabelJob, label_parser, read_job
from limbeck.commands.options import LabelOptions
from limbeck.commands.progress import printed
from limbeck.commands.texts import (
    open_data,
    open_teacher,
    open_tokenizers,
    refuse_unused_networks,
    split_off_a_fifth,
    with_test,
)
from limbeck.errors import ConfigError, DataError
from limbeck.store.label import label
from limbeck.transfer import jitter

KIND_OPTIONS = ("k", "bits", "dtype", "temperature")


def run(words: list[str]) -> None:
    """The command; `words` are its arguments. Repeating an interrupted command resumes it."""
    console.hush()
    job = read_job(LabelJob, label_parser(), words)
    options, data, teachers, texts = job.label, job.data, job.teacher, job.texts
    refuse_unused_networks(job.own.network, teachers.teacher)
    teacher = open_teacher(teachers.teacher, teachers.mean, job.own.network)
    if teacher is None:
        raise ConfigError("A teacher is required; pass --teacher.")
    tokenizer, _ = open_tokenizers(data.tokenizer, [], teachers.teacher)
    splits: dict[str, Any]
    if language.are_language_models(teacher, teacher):
        language.refuse_options_of_classes(data, options)
        if texts.packing:
            raise ConfigError("Targets are stored example by example; remove --packing.")
        splits, note = language.open_rows(data, texts, [teacher], teacher, tokenizer)
    else:
        language.refuse_options_of_language(texts)
        splits, note = with_test(open_data(data, tokenizer, readers=[teacher]), split_off_a_fifth)
    if options.split not in splits:
        raise DataError(f"{data.data} has no split {options.split!r}; it has {', '.join(splits)}.")
    examples = splits[options.split]
    given = {name: getattr(options, name) for name in KIND_OPTIONS if getattr(options, name) is not None}
    stored_set = label(
        teacher,
        examples,
        options.output_dir,
        options.kind,
        batch_size=options.batch_size,
        rows_per_shard=options.rows_per_shard,
        augment=_jitter(options, examples),
        views=options.views,
        tokenizer=tokenizer,
        seed=options.seed,
        progress=console.console.is_terminal or printed("labelling", "rows"),
        **given,
    )
    if PartialState().is_main_process:
        if note:
            console.say(note)
        console.console.print(table(stored_set.manifest))
        console.say(
            f"{options.output_dir}: limbeck distill --transfer_set {options.output_dir} trains a student on it."
        )


def _jitter(options: LabelOptions, examples: Any) -> Any:
    if not options.jitter:
        return None
    return jitter(options.jitter, seed=options.seed, column=image_column(examples))
