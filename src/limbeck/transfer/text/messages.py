"""The messages of a conversation: their thoughts, their parts, and whether a text has all of them.

What this file does not know: tokenizers, which message is learned.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from limbeck.errors import DataError

Message = dict[str, Any]

Record: TypeAlias = Mapping[str, Any]
"""A record of a data set, or a row of `tokenise`."""

THOUGHTS = ("reasoning_content", "reasoning", "thinking")
"""The keys under which data sets and templates have an assistant's thought."""


@dataclass(frozen=True)
class Thought:
    """A thought and the answer after it.

    written: both as a model writes them, `<think>...</think>` first. answer: stripped.
    """

    written: str
    answer: str


def without_nulls(value: Any) -> Any:
    """The same without keys whose value is None, at any depth; Arrow gives all rows of a column the same keys."""
    if isinstance(value, Mapping):
        return {key: without_nulls(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [without_nulls(inner) for inner in value]
    return value


def named_for(template: str, message: Message) -> Message:
    """The message with its thought under the key that the template reads, where there is one such key."""
    read = [key for key in THOUGHTS if re.search(rf"\.{key}\b|['\"]{key}['\"]", template)]
    given = [key for key in THOUGHTS if message.get(key)]
    if len(given) == 1 and len(read) == 1 and given != read:
        return {read[0] if key == given[0] else key: value for key, value in message.items()}
    return message


def joined_parts(messages: Sequence[Message]) -> list[Message]:
    """The messages with lists of parts of text as one string; DataError for parts that are not text.

    Parts of thoughts are left to the template, with their message.
    """
    return [_joined(message, place) for place, message in enumerate(messages)]


def _joined(message: Message, place: int) -> Message:
    content = message.get("content")
    if not isinstance(content, list):
        return message
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
        if kind not in ("text", "thinking") or not isinstance(part.get(kind), str | list):
            raise DataError(f"message {place} has a part of the type {kind!r} in its content, and only text is read")
    if any(part["type"] == "thinking" for part in content):
        return message
    return {**message, "content": "".join(part["text"] for part in content)}


def thought_of(message: Message) -> Thought | None:
    """The thought of a message with text as its content, in a key or within the content; None where it has none."""
    content = message.get("content", "")
    if not isinstance(content, str):
        return None
    if "</think>" in content:
        written = content.strip()
        written = written if written.startswith("<think>") else f"<think>\n{written}"
        return Thought(written, content.rpartition("</think>")[2].strip())
    given = {message[key].strip() for key in THOUGHTS if isinstance(message.get(key), str)} - {""}
    if len(given) != 1:
        return None
    answer = content.strip()
    return Thought(f"<think>\n{given.pop()}\n</think>\n\n{answer}", answer)


def missing_in(message: Message, text: str) -> str | None:
    """Which part of a message a text lacks, in words; None where it has all. Blanks are not compared."""
    found = _squeezed(text)
    for name, part in _parts(message):
        if _squeezed(part) not in found:
            shown = part if len(part) <= 60 else part[:60] + "..."
            return f"{name} ({shown!r})"
    return None


def part_missing_in(message: Message, text: str) -> str | None:
    """The first part of a content that a text lacks, or has as Python prints it; None where it has all as text.

    The assistant's are looked for where they are learned.
    """
    content = message.get("content")
    if not isinstance(content, list):
        return None
    if any(repr(dict(part)) in text for part in content):
        return _text_of(content[0])
    if message.get("role") == "assistant":
        return None
    found = _squeezed(text)
    return next((part for part in map(_text_of, content) if _squeezed(part) not in found), None)


def _parts(message: Message) -> list[tuple[str, str]]:
    """What a template should write of a message: `(name, text)`."""
    parts: list[tuple[str, str]] = []
    content = message.get("content")
    if isinstance(content, str) and "</think>" in content:
        thought, _, answer = content.rpartition("</think>")
        parts += [("the thought", thought.strip().removeprefix("<think>")), ("the content", answer)]
    elif isinstance(content, str):
        parts.append(("the content", content))
    elif isinstance(content, list):
        parts += [(f"a part of the type {part['type']!r}", _text_of(part)) for part in content]
    parts += [(key, message[key]) for key in THOUGHTS if isinstance(message.get(key), str)]
    for call in message.get("tool_calls") or []:
        function = call.get("function", call) if isinstance(call, Mapping) else {}
        if isinstance(function.get("name"), str):
            parts.append(("the call of a tool", function["name"]))
    return parts


def _text_of(part: Mapping[str, Any]) -> str:
    """The text of a part, or of the parts that it consists of."""
    inner = part[part["type"]]
    return inner if isinstance(inner, str) else "".join(str(some.get("text", "")) for some in inner)


def _squeezed(text: str) -> str:
    return " ".join(text.split())
