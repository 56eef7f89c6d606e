"""What `limbeck inspect` shows of data without a language model: columns and roles, classes, and the first rows.

What this file does not know: language models, training.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import datasets
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from limbeck.commands import console
from limbeck.commands.jobs import InspectJob
from limbeck.commands.language import records_by_split
from limbeck.commands.options import DataOptions
from limbeck.commands.texts import label_columns, names_python_data, open_data, open_tokenizers, python_data
from limbeck.errors import DataError
from limbeck.losses.numbers import NO_LABEL
from limbeck.networks.asking import inputs_of
from limbeck.networks.outputs import CLASSES
from limbeck.transfer import TransferSet, arrow
from limbeck.transfer.answers import answers_of
from limbeck.transfer.classes import Classes, label_values
from limbeck.transfer.roles import Roles, roles_of
from limbeck.transfer.splits import load_splits
from limbeck.transfer.text.formats import CHATS, NESTED

log = logging.getLogger("limbeck")

MOST_CLASSES, MOST_COLUMNS, MOST_VALUE = 20, 50, 240
"""How many classes and columns are shown, and how many characters of a value."""


def records_of_text(data: DataOptions) -> dict[str, datasets.Dataset] | None:
    """The splits of data that only language models read: conversations, prompts, instructions; None for others."""
    if names_python_data(data.source):
        returned = python_data(data.source)
        some = next(iter(returned.values()), None) if isinstance(returned, Mapping) else returned
        return records_by_split(data) if isinstance(some, list | tuple | datasets.Dataset) else None
    if not _is_file(data):
        return None
    splits = load_splits(data.source, data.column_names or None, data.missing)
    columns = set(next(iter(splits.values())).column_names)
    chats = not columns.isdisjoint(CHATS)
    return splits if chats or {"prompt", "completion"} <= columns or {"instruction", "output"} <= columns else None


def show_records(splits: Mapping[str, datasets.Dataset], split: str, examples: int) -> None:
    """The first records of text as they are in the file."""
    records = _split(splits, split)
    console.say(_sizes(splits))
    for place, record in enumerate(records.select(range(min(examples, len(records))))):
        console.say(f"\nRecord {place} of {split}:")
        for name, value in record.items():
            for line in _lines(name, value):
                console.say(line)
    console.say("\nThese are records for language models; pass --student to see the tokens that one will read.")


def show(job: InspectJob, readers: Sequence[Any]) -> None:
    """Columns and roles, classes, and the first examples of data for classifiers."""
    data, view = job.data, job.view
    tokenizer, of_teacher = open_tokenizers(data.tokenizer, [view.student] if view.student else [], view.teacher)
    roles, raw = None, None
    if _is_file(data):
        raw = load_splits(data.source, data.column_names or None, data.missing)
        training = raw.get("train", next(iter(raw.values())))
        pair = tuple(data.text_column.split(",")) if data.text_column else ()
        log.disabled = True  # what it says is said again where the data is read
        try:
            labels = label_columns(data.label_column)
            roles = roles_of(training, pair, data.image_column, labels, data.feature_columns or None)
        finally:
            log.disabled = False
        if roles.text and tokenizer is None:
            _show_texts(raw, roles, data, job)
            return
    sets = open_data(data, tokenizer, of_teacher, readers)
    shown = _split(sets, view.split)
    console.say(_sizes(sets))
    if roles is not None and raw is not None:
        console.console.print(_columns(_split(raw, view.split), roles, shown))
    task = shown.task or CLASSES
    if task.outputs is not None:
        console.say(f"Labels: {task.kind}, {task.outputs} per example ({_some(shown.label_names or ())}).")
    elif (table := _classes(sets, {name: some.labels for name, some in sets.items()}, shown.label_names)) is not None:
        console.console.print(table)
    places = list(range(min(view.examples, len(shown))))
    batch = shown.__getitems__(places)
    for place in places:
        console.say(f"\nExample {place} of {view.split}{_class_of(shown, place)}:")
        if roles is not None and raw is not None and not roles.image:
            for name in _inputs(roles):
                console.say(f"  {name}: {_value(_split(raw, view.split)[place][name])}")
        for name, values in inputs_of(batch).items():
            if not isinstance(values, Tensor):
                continue
            if name.endswith("input_ids") and tokenizer is not None:
                whose = tokenizer if of_teacher is None or not name.startswith("teacher_") else of_teacher
                length = int(batch[name.replace("input_ids", "attention_mask")][place].sum())
                text = whose.decode(values[place][:length], skip_special_tokens=False)
                console.say(
                    f"  as {length:,} tokens{' of the teacher' if name.startswith('teacher_') else ''}: {_value(text)}"
                )
            elif values.ndim >= 3:
                size = " × ".join(str(n) for n in values.shape[1:])
                low, high = float(values[place].min()), float(values[place].max())
                console.say(f"  {name}: {size}, from {low:.3g} to {high:.3g}, mean {float(values[place].mean()):.3g}")
            elif roles is None:
                numbers = values[place].flatten()[:8].tolist()
                console.say(
                    f"  {name}: {', '.join(f'{v:.4g}' for v in numbers)}{', ...' if values[place].numel() > 8 else ''}"
                )


def _show_texts(raw: Mapping[str, datasets.Dataset], roles: Roles, data: DataOptions, job: InspectJob) -> None:
    """Texts without a tokenizer: as they are in the file."""
    shown = _split(raw, job.view.split)
    console.say(_sizes(raw))
    console.console.print(_columns(shown, roles, None))
    if roles.labels:
        labelled = {name: some for name, some in raw.items() if {*roles.labels} <= {*some.column_names}}
        training = "train" if "train" in raw else next(iter(raw))
        of_words = arrow.is_list(raw[training], roles.text[0])
        answers = answers_of(labelled, roles.labels, training, data.task, data.num_classes, of_words)
        if answers.classes is None:
            console.say(f"Labels: {answers.kind} ({_some(answers.names or answers.columns)}).")
        else:
            labels = {name: _encoded(some, roles.labels[0], answers.classes) for name, some in labelled.items()}
            if (table := _classes(raw, labels, answers.classes.names)) is not None:
                console.console.print(table)
    for place in range(min(job.view.examples, len(shown))):
        console.say(f"\nExample {place} of {job.view.split}:")
        for name in (*_inputs(roles), *roles.labels):
            console.say(f"  {name}: {_value(shown[place][name])}")
    console.say("\nPass --student, or --tokenizer, to see the tokens that a model will read.")


def _encoded(data: datasets.Dataset, label: str, classes: Classes) -> Tensor | None:
    values, counts = label_values(data, label)
    return None if counts is not None else classes.encode(values, label)


def _is_file(data: DataOptions) -> bool:
    """Whether the data has columns: neither the digits, nor a folder in MNIST's format, nor a Python object."""
    path = Path(data.source)
    is_idx = path.is_dir() and any(path.glob("*idx[13]-ubyte*"))
    return data.source != "digits" and not is_idx and not names_python_data(data.source)


def _split(splits: Mapping[str, Any], name: str) -> Any:
    if name not in splits:
        raise DataError(f"There is no split {name!r}; there are {', '.join(splits)}. Choose one by --split.")
    return splits[name]


def _sizes(splits: Mapping[str, Any]) -> str:
    return "Splits: " + ", ".join(f"{len(some):,} {name}" for name, some in splits.items()) + "."


def _inputs(roles: Roles) -> tuple[str, ...]:
    return (*roles.text, *([roles.image] if roles.image else []), *roles.features)


def _columns(data: datasets.Dataset, roles: Roles, examples: TransferSet | None) -> Table:
    """A line per column: what it is, and what is in it."""
    table = Table(title="Columns", title_justify="left")
    for name in ("column", "role", "kind", "missing"):
        table.add_column(name, justify="right" if name == "missing" else "left")
    features = {feature.name: feature for feature in (examples.features if examples is not None else None) or ()}
    for name in data.column_names[:MOST_COLUMNS]:
        feature = features.get(name)
        kind = str(arrow.kind(data, name))[:40] if feature is None else feature.kind
        if feature is not None and feature.categories:
            kind += f": {_some(feature.categories)}"
        role = "label" if name in roles.labels else "left out"
        role = "text" if name in roles.text else "image" if name == roles.image else role
        role = "feature" if name in roles.features else role
        table.add_row(escape(name), role, escape(kind), f"{arrow.column(data, name).null_count:,}")
    if len(data.column_names) > MOST_COLUMNS:
        table.add_row(f"... {len(data.column_names) - MOST_COLUMNS:,} more", "", "", "")
    return table


def _classes(
    splits: Mapping[str, Any], labels: Mapping[str, Tensor | None], names: Sequence[str] | None
) -> Table | None:
    """How many examples of each split have each class; None where no split has labels."""
    known = {name: some for name, some in labels.items() if some is not None and some.numel()}
    if not known:
        return None
    count = max(int(some.max()) + 1 for some in known.values())
    count = max(count, len(names or ()))
    table = Table(title=f"{count:,} classes", title_justify="left")
    table.add_column("class")
    for name in known:
        table.add_column(escape(name), justify="right")
    counts = {name: some[some >= 0].flatten().bincount(minlength=count).tolist() for name, some in known.items()}
    for number in range(min(count, MOST_CLASSES)):
        name = str(number) if names is None or names[number] == str(number) else f"{number}: {names[number]}"
        table.add_row(escape(name), *(f"{of_split[number]:,}" for of_split in counts.values()))
    if count > MOST_CLASSES:
        table.add_row(f"... {count - MOST_CLASSES:,} more", *(f"{sum(c[MOST_CLASSES:]):,}" for c in counts.values()))
    absent = {name: int((some == NO_LABEL).sum()) for name, some in known.items()}
    if any(absent.values()):
        table.add_row("no label", *(f"{number:,}" for number in absent.values()))
    return table


def _class_of(examples: TransferSet, place: int) -> str:
    labels, task = examples.labels, examples.task or CLASSES
    if labels is not None and task.outputs is not None:
        values = labels[place].reshape(-1).tolist()
        names: Sequence[str] = examples.label_names or [str(i) for i in range(len(values))]
        if task.is_regression:
            return ", " + ", ".join(f"{name} {value:.6g}" for name, value in zip(names, values, strict=True))
        return f", labels {', '.join(n for n, v in zip(names, values, strict=True) if v == 1) or 'none'}"
    if labels is None or labels.ndim > 1:
        return ""
    number = int(labels[place])
    if number == NO_LABEL:
        return ", no label"
    classes = examples.label_names
    return f", class {number}" + ("" if classes is None or classes[number] == str(number) else f" ({classes[number]})")


def _lines(name: str, value: Any) -> list[str]:
    """The lines that show a column of a record."""
    if name in NESTED and isinstance(value, str):
        with suppress(ValueError):
            value = json.loads(value)
    if isinstance(value, list) and value and all(isinstance(turn, Mapping) for turn in value):
        turns = [", ".join(f"{k}: {_value(v)}" for k, v in turn.items() if v is not None) for turn in value]
        return [f"  {name}:", *(f"    {turn}" for turn in turns)]
    return [f"  {name}: {_value(value)}"]


def _value(value: Any) -> str:
    """A value on one line, its middle left out where it is long."""
    text = value if isinstance(value, str) else repr(value)
    text = console.visible(text).replace("\n", "\\n").replace("\t", "\\t")
    half = MOST_VALUE // 2
    return text if len(text) <= MOST_VALUE else f"{text[:half]} [...] {text[-half:]}"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (f", ... ({len(names):,})" if len(names) > 6 else "")
