"""`limbeck evaluate`: measures students, a teacher and baselines on data that no model was trained on.

Writes the measurements to results.json (--output), and a page, report.html, beside it.
"""

from pathlib import Path
from typing import Any

import torch

from limbeck.commands import console, language
from limbeck.commands.classifiers import held_out_of
from limbeck.commands.jobs import EvaluateJob, evaluate_parser, read_job
from limbeck.commands.report import page_of
from limbeck.commands.texts import (
    open_data,
    open_model,
    open_teacher,
    open_tokenizers,
    refuse_unused_networks,
    split_off_a_fifth,
    with_test,
)
from limbeck.errors import ConfigError, DataError
from limbeck.evaluation.classes import evaluate
from limbeck.evaluation.tokens import evaluate_language
from limbeck.files import require_writable
from limbeck.report import write_report
from limbeck.results import write_results


def run(words: list[str]) -> None:
    """The command; `words` are its arguments."""
    console.hush()
    job = read_job(EvaluateJob, evaluate_parser(), words)
    options, data = job.evaluate, job.data
    if not options.student:
        raise ConfigError("A student is required; pass --student with one folder or more.")
    if Path(options.output).is_dir():  # known before anything is measured
        raise ConfigError(f"--output {options.output} is a folder; name a file, such as {options.output}/results.json.")
    if Path(options.output).is_file() or not Path(options.output).exists():  # no device or pipe
        require_writable(Path(options.output).parent, "--output")
    networks = job.own.network
    refuse_unused_networks(networks, [*options.student, *options.baseline, *job.teacher.teacher])
    students = [open_model(text, networks) for text in options.student]
    baselines = [open_model(text, networks) for text in options.baseline]
    teacher = open_teacher(job.teacher.teacher, job.teacher.mean, networks)
    if torch.accelerator.is_available():
        for model in (*students, *baselines, *([] if teacher is None else [teacher])):
            model.to(torch.accelerator.current_accelerator())
    kinds = {language.are_language_models(student, teacher) for student in [*students, *baselines]}
    if writes := True in kinds:
        job = job.for_language_models()
        options = job.evaluate
    tokenizer, of_teacher = open_tokenizers(data.tokenizer, options.student, job.teacher.teacher)
    splits: dict[str, Any]
    # A named split is used as the data has it; train and test are those of `distill`, which splits off a missing test.
    makes_test = options.split in ("train", "test")
    if writes:
        language.refuse_options_of_classes(data)
        if job.texts.packing:
            raise ConfigError("Examples are measured one by one and cannot be packed; remove --packing.")
        splits, note = language.open_rows(
            data, job.texts, [*students, *baselines], teacher, tokenizer, of_teacher, make_test=makes_test
        )
    else:
        language.refuse_options_of_language(job.texts)
        splits, note = open_data(data, tokenizer, of_teacher, [*students, *baselines, teacher]), None
        if makes_test:
            splits, note = with_test(splits, split_off_a_fifth)
    if note:
        console.say(note)
    if options.split not in splits:
        raise DataError(f"{data.data} has no split {options.split!r}; it has {', '.join(splits)}.")
    test = splits[options.split]
    arguments: dict[str, Any] = {"baseline": baselines, "teacher": teacher, "batch_size": options.batch_size}
    if writes:
        language.refuse_judge_by(options.judge_by)
        results = evaluate_language(students, test, tokenizer=tokenizer, teacher_tokenizer=of_teacher, **arguments)
    else:
        arguments["held_out"] = splits.get("validation") if options.split != "validation" else None
        if tokenizer is not None:
            arguments["show"] = lambda row: tokenizer.decode(row["input_ids"], skip_special_tokens=True)
        results = evaluate(students, test, judge_by=options.judge_by, **arguments)
        results["held_out"] = None if arguments["held_out"] is None else held_out_of(splits)
    results["settings"] = job.values()  # with the batch size that was used
    Path(options.output).parent.mkdir(parents=True, exist_ok=True)
    write_results(results, options.output)
    page = page_of(Path(options.output))
    write_report(options.output, page)
    console.print_results(results)
    console.say(f"{options.output}: the measurements; {page}: the same as a page")
