"""The formats of records of text, told by their columns, and a record of each format as pieces.

What this file does not know: token ids, what of a conversation is learned.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import datasets
from transformers import PreTrainedTokenizerBase

from limbeck.errors import DataError
from limbeck.transfer import arrow
from limbeck.transfer.text.chat import Piece, chat_pieces
from limbeck.transfer.text.conversations import alpaca_conversation, alpaca_prompt, conversation_of

_COLUMNS = {
    "text": ("text",),
    "prompt": ("prompt", "completion"),
    "messages": ("messages",),
    "conversations": ("conversations",),
    "instruction": ("instruction", "output"),
}
"""The formats by their first column, with the columns that each record has."""

CHATS = ("messages", "conversations")
_TEACHERS = {"messages": "teacher_messages", "prompt": "teacher_prompt"}
_FURTHER = {**dict.fromkeys(CHATS, ("system", "tools", "functions")), "instruction": ("input", "system", "history")}
"""Columns that are read where a record has a value in them."""
_TEXTS = ("prompt", "completion", "instruction", "output", "text", "input", "system", "teacher_prompt")
"""Columns of strings."""

NESTED = (*CHATS, "teacher_messages", "tools", "functions", "history")
"""Columns of lists, which may be given as JSON text."""


@dataclass(frozen=True)
class Format:
    """How records are read.

    kind: the first column of the format. sides: the column that the student reads, and the teacher's where it has one.
    is_chat: whether a chat template writes the records. columns: the features of all columns that are read, by name.
    """

    kind: str
    sides: tuple[str, ...]
    is_chat: bool
    columns: dict[str, Any]


def format_of(records: datasets.Dataset, tokenizer: PreTrainedTokenizerBase) -> Format:
    """The format of the records; DataError where their columns are those of no format, or of several.

    tokenizer: the student's. Instructions are conversations where it has a chat template.
    """
    if not isinstance(records, datasets.Dataset):
        raise DataError(
            f"Records must be a datasets.Dataset, but are a {type(records).__name__}; take a split of a DatasetDict, "
            "or make one by Dataset.from_list."
        )
    found = [name for name in records.column_names if name != "row_id"]
    fitting = [kind for kind, columns in _COLUMNS.items() if set(columns) <= set(found)]
    if len(fitting) != 1:
        raise DataError(_unfit(found, fitting))
    kind = fitting[0]
    teachers = [name for name in found if name in _TEACHERS.values()]
    if teachers and teachers != [_TEACHERS.get(kind)]:
        raise DataError(
            f"`teacher_prompt` goes with `prompt` and `completion`, `teacher_messages` with `messages`, but {found} "
            f"has {teachers}; text has nothing that the teacher could read in its place."
        )
    if len(records) == 0:
        raise DataError("There must be a record to learn from, but there is none.")
    further = [name for name in _FURTHER.get(kind, ()) if name in found]
    names = [*_COLUMNS[kind], *teachers, *further]
    for name in names:
        _check_type(records, name)
    features = records.features
    is_chat = kind in CHATS or (kind == "instruction" and bool(tokenizer.chat_template))
    return Format(kind, (_COLUMNS[kind][0], *teachers), is_chat, {name: features[name] for name in names})


def pieces_of(
    record: Mapping[str, Any], side: str, form: Format, tokenizer: PreTrainedTokenizerBase, assistant: str
) -> list[Piece]:
    """A record as one side reads it: pieces of text, learned or not. DataError where it cannot be used.

    side: the column that the side reads.
    """
    for name in (side, *_COLUMNS[form.kind][1:]):
        if record[name] is None:
            raise DataError(f"it has no `{name}`")
    record = {name: without_padding(record[name], feature) for name, feature in form.columns.items()}
    if form.kind in CHATS:
        tools = record.get("tools") or record.get("functions")
        found = conversation_of(record[side], record.get("system"), tools)
        return chat_pieces(found.messages, tokenizer, assistant, found.tools)
    if form.kind == "instruction":
        if form.is_chat:
            return chat_pieces(alpaca_conversation(record).messages, tokenizer, assistant)
        prompt, output = alpaca_prompt(record)
        return [(prompt, False), (output, True)]
    learned = "text" if form.kind == "text" else "completion"
    if not record[learned]:
        raise DataError(f"its `{learned}` is empty")
    return [(record["text"], True)] if form.kind == "text" else [(record[side], False), (record["completion"], True)]


def without_padding(value: Any, feature: Any) -> Any:
    """The value without what Arrow filled in: a struct has the keys of all records, None where this one has none.

    feature: that of the column. Values that are stored as JSON are as they were written, None included.
    """
    if isinstance(value, Mapping) and isinstance(feature, Mapping):
        return {key: without_padding(inner, feature.get(key)) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        of_items = feature[0] if isinstance(feature, list) and feature else getattr(feature, "feature", None)
        return [without_padding(inner, of_items) for inner in value]
    return value


def _unfit(found: list[str], fitting: list[str]) -> str:
    """Why columns are those of no format, or of several."""
    if fitting:
        return (
            f"Records must be of one format, but the columns {found} are those of {len(fitting)}: "
            f"{', or '.join(_named(kind) for kind in fitting)}; remove the columns of the others (in Python "
            "remove_columns), or name the one of a text by --text_column."
        )
    known = {name for columns in _COLUMNS.values() for name in columns}
    near = {name: get_close_matches(name.lower(), known - set(found), n=1) for name in found}
    hints = [f"{close[0]!r} for {name!r}" for name, close in near.items() if close]
    hint = f" Did you mean {' and '.join(hints)}?" if hints else ""
    return (
        f"Records need the columns {', or '.join(map(_named, _COLUMNS))}, but {found} fits none of these.{hint} Rename "
        "columns (in Python rename_columns, select_columns), or name that of a text by --text_column."
    )


def _named(kind: str) -> str:
    return " and ".join(f"`{name}`" for name in _COLUMNS[kind])


def _check_type(records: datasets.Dataset, name: str) -> None:
    """DataError where a column has another type than its name promises; further ones may have no values at all."""
    kind = str(arrow.kind(records, name))
    if kind == "null" and name not in _COLUMNS:
        return
    if name in _TEXTS:
        right, wanted = arrow.is_text(records, name), "strings"
    else:
        right = arrow.is_list(records, name) or arrow.is_text(records, name) or "json" in kind
        wanted = "lists of {role, content} or {from, value}" if name not in ("tools", "functions") else "lists of tools"
        wanted = "lists of pairs" if name == "history" else f"{wanted}, or such as JSON"
    if not right:
        raise DataError(f"`{name}` must hold {wanted}, but has the type {kind}.")
