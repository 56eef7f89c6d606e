"""`limbeck inspect DATA`: the first examples as the models will read them, before anything is trained.

With a language model, records as the text of their tokens, with what is learned of them marked; any other data as
columns, their roles, classes and first rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.markup import escape
from rich.table import Table
from rich.text import Text
from torch import nn
from transformers import AutoConfig, PreTrainedConfig

from limbeck.commands import console, language, plain_data
from limbeck.commands.jobs import InspectJob, inspect_parser, read_job
from limbeck.commands.texts import is_cut, names_python_data, open_model, open_tokenizers, refuse_unused_networks
from limbeck.errors import ConfigError, DataError, ModelError
from limbeck.losses.numbers import NO_LABEL
from limbeck.networks.asking import TEACHER_PREFIX
from limbeck.networks.decoding import is_encoder_decoder
from limbeck.store import manifest
from limbeck.transfer.text.examples import Counts, tokenise_counted
from limbeck.transfer.text.view import Part, parts_of, shortened
from limbeck.transfer.text.vocabulary import shared_vocabulary

MOST_CHARACTERS = 2000
"""Of a part of a record; the middle of a longer one is left out."""

LEARNED = "bold green"
MARKS = ("⟦", "⟧")
"""Around what is learned, where there are no colours."""


def run(words: list[str]) -> None:
    """The command; `words` are its arguments."""
    console.hush()
    job = read_job(InspectJob, inspect_parser(), words)
    view = job.view
    if job.path is not None and job.data.data is not None:
        raise ConfigError(f"The data is given twice, as {job.path} and as --data {job.data.data}; give it once.")
    job = replace(job, data=replace(job.data, data=job.data.data or job.path))
    if job.data.data is None:
        raise ConfigError("There is no data; name it: limbeck inspect DATA, such as a file, a folder or digits.")
    if Path(job.data.data, manifest.NAME).is_file():
        raise ConfigError(
            f"{job.data.data} is a stored set, of targets beside rows that are read already; limbeck info describes it."
        )
    if view.examples < 1:
        raise ConfigError(f"--examples must be 1 or more, but is {view.examples}.")
    networks = job.own.network
    refuse_unused_networks(networks, [*view.teacher, *([view.student] if view.student else [])])
    teachers = [_network(text, networks) for text in view.teacher]
    student = _student(view.student, teachers, networks)
    models = [model for model in (student, *teachers) if model is not None]
    writes = {language.are_language_models(student or model, model) for model in models}  # raises for a mixture
    records = None if models else plain_data.records_of_text(job.data)
    if True in writes or (records is not None and job.data.tokenizer is not None):
        _show_records(job, student or next(iter(teachers), None), _Members(teachers))
    elif records is not None:
        plain_data.show_records(records, view.split, view.examples)
    else:
        language.refuse_options_of_language(job.texts)
        plain_data.show(job, models)


@dataclass(frozen=True)
class _Members:
    """Several models where one is expected."""

    members: list[Any]


def _student(text: str | None, teachers: Sequence[Any], networks: Sequence[str]) -> Any:
    if text is None or text == "mlp":
        return None
    if not is_cut(text):
        return _network(text, networks)
    if not teachers:
        raise ConfigError(f"{text} copies layers of the teacher, but there is no teacher; pass --teacher.")
    return teachers[0]  # it reads what the teacher reads


def _network(text: str, networks: Sequence[str]) -> Any:
    """A model that tells how long a text it reads: of transformers without its weights, any other as it is loaded."""
    if names_python_data(text):
        return open_model(text, networks)
    try:
        config = AutoConfig.from_pretrained(text, trust_remote_code=False)
    except OSError as error:
        if (
            Path(text).exists() or "/" in text
        ):  # a model of another kind, or a wrong path: opening it says what is wrong
            return open_model(text, networks)
        cause = " ".join(str(error).split())
        raise ModelError(f"{text} is not a local folder, and could not be loaded from the hub: {cause}") from error
    except Exception:  # a configuration that transformers cannot read
        return open_model(text, networks)
    try:
        kind = getattr(transformers, (config.architectures or [""])[0])
        if not isinstance(config, PreTrainedConfig) or not issubclass(kind, transformers.PreTrainedModel):
            return open_model(text, networks)
        with torch.device("meta"):
            network: nn.Module = kind(config)
        return network
    except Exception:  # a configuration of any content reaches code of every kind
        return open_model(text, networks)


def _show_records(job: InspectJob, student: Any, teachers: _Members) -> None:
    """Counts of every split, and the first records of one as student and teacher read them."""
    view, data = job.view, job.data
    language.refuse_options_of_classes(data)
    tokenizer, of_teacher = open_tokenizers(data.tokenizer, [view.student] if view.student else [], view.teacher)
    if tokenizer is None:
        raise ConfigError("Text needs a tokenizer, but neither student nor teacher has one; pass --tokenizer.")
    if of_teacher is not None:
        shared_vocabulary(tokenizer, of_teacher)
    settings = language.tokenise_settings(data, job.texts, [student], teachers)
    pairs = is_encoder_decoder(student)
    splits = {
        name: tokenise_counted(records, tokenizer, encoder_decoder=pairs, teacher_tokenizer=of_teacher, **settings)
        for name, records in language.records_by_split(data).items()
    }
    if view.split not in splits:
        raise DataError(f"{data.data} has no split {view.split!r}; it has {', '.join(splits)}.")
    console.console.print(_counts(splits, settings["max_length"]))
    rows = splits[view.split][0]
    colours = _has_colours()
    marked = Text("in colour", style=LEARNED) if colours else Text(f"between {MARKS[0]} and {MARKS[1]}")
    console.console.print(Text.assemble("Learned is what stands ", marked, "; special tokens are shown as they are."))
    for row in rows.select(range(min(view.examples, len(rows)))):
        learned = sum(label != NO_LABEL for label in row["labels"])
        whole = len(row["input_ids"]) + (len(row["labels"]) if pairs else 0)
        console.say(f"\nRecord {row['row_id']} of {view.split}: {whole:,} tokens, {learned:,} learned")
        console.console.print(marked_text(parts_of(row, tokenizer, encoder_decoder=pairs), colours))
        if TEACHER_PREFIX + "input_ids" in row:
            console.say(f"\nRecord {row['row_id']} as the teacher reads it:")
            theirs = parts_of(row, of_teacher or tokenizer, teacher=True, encoder_decoder=pairs)
            console.console.print(marked_text(theirs, colours))
    if view.teacher and TEACHER_PREFIX + "input_ids" not in rows.column_names:
        console.say("\nThe teacher reads the same tokens as the student.")


def marked_text(parts: Sequence[Part], colours: bool) -> Text:
    """The parts of a record as one text: what is learned in colour, or between marks. Nothing in it is markup."""
    text = Text()
    for part, learned in shortened(list(parts), MOST_CHARACTERS):
        shown = console.visible(part)
        if learned and not colours:
            shown = f"{MARKS[0]}{shown}{MARKS[1]}"
        text.append(shown, style=LEARNED if learned and colours else "")
    return text


def _counts(splits: dict[str, tuple[Any, Counts]], limit: int | None) -> Table:
    """What became of the records of each split. limit: of a row, in tokens."""
    lines: dict[str, list[str]] = {}
    for rows, counts in splits.values():
        tokens = learned = longest = 0
        for batch in rows.select_columns(["input_ids", "labels"]).iter(1000):
            lengths = [len(ids) for ids in batch["input_ids"]]
            tokens, longest = tokens + sum(lengths), max(longest, *lengths)
            learned += sum(label != NO_LABEL for labels in batch["labels"] for label in labels)
        found = {
            "records": f"{counts.records:,}",
            "rows": f"{len(rows):,}",
            "tokens": f"{tokens:,}",
            "learned": f"{learned:,} ({learned / tokens:.1%})",
            "longest row": f"{longest:,}",
            "truncated rows": f"{counts.cut:,}",
            "dropped records": f"{counts.dropped:,}",
        }
        for name, value in found.items():
            lines.setdefault(name, []).append(value)
    table = Table(title="Rows of tokens" + (f", at most {limit:,} tokens each" if limit else ""), title_justify="left")
    table.add_column("")
    for name in splits:
        table.add_column(escape(name), justify="right")
    for name, values in lines.items():
        table.add_row(name, *values)
    return table


def _has_colours() -> bool:
    return console.console.color_system is not None and not console.console.no_color
