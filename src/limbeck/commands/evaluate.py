"""`limbeck evaluate`: students measured beside a teacher and baselines, on data that none was trained on."""

from pathlib import Path

from limbeck.commands import console
from limbeck.commands.options import DataOptions, EvaluateOptions, TeacherOptions, evaluate_parser, options_of, read
from limbeck.commands.texts import open_data, open_model, open_teacher, open_tokenizers, with_test
from limbeck.errors import ConfigError, DataError
from limbeck.evaluation import evaluate, write_results


def run(words: list[str]) -> None:
    """The command; `words` are its arguments."""
    parser = evaluate_parser()
    chosen = read(parser, words)
    options, data = options_of(EvaluateOptions, chosen), options_of(DataOptions, chosen)
    teachers = options_of(TeacherOptions, chosen)
    if not options.student:
        raise ConfigError("There is nothing to measure; give --student with one folder or more.")
    students = [open_model(text) for text in options.student]
    baselines = [open_model(text) for text in options.baseline]
    teacher = open_teacher(teachers.teacher, teachers.mean)
    tokenizer, of_teacher = open_tokenizers(data.tokenizer, options.student, teachers.teacher)
    splits = open_data(data, tokenizer, of_teacher)
    if options.split in ("train", "test"):  # as distill has them: what it trained on is not measured as a test
        splits, said = with_test(splits)
        if said:
            console.say(said)
    if options.split not in splits:
        raise DataError(f"{data.data} has no split {options.split!r}; it has {', '.join(splits)}.")
    results = evaluate(
        students,
        splits[options.split],
        baseline=baselines,
        teacher=teacher,
        held_out=splits.get("validation") if options.split != "validation" else None,
        batch_size=options.batch_size,
        show=None if tokenizer is None else lambda row: tokenizer.decode(row["input_ids"], skip_special_tokens=True),
    )
    results["settings"] = {k: v for k, v in chosen.as_dict().items() if k != "config"}
    Path(options.output).parent.mkdir(parents=True, exist_ok=True)
    write_results(results, options.output)
    console.print_results(results)
    console.say(f"{options.output}: all that was measured")
