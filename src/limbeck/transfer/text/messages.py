"""The messages of a conversation: their thoughts, their parts, and whether a text has all of them.

What this file does not know: tokenizers, which message is learned.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from typing import Any, TypeAlias

from limbeck.errors import DataError

Message = dict[str, Any]

Record: TypeAlias = Mapping[str, Any]
"""A record of a data set, or a row of `tokenise`."""

THOUGHTS = ("reasoning_content", "reasoning", "thinking")
"""The keys under which data sets and templates have an assistant's thought."""

ROLES = ("system", "developer", "user", "assistant", "tool")

KEYS = ("role", "content", "tool_calls", "tool_call_id", "name", *THOUGHTS)
"""The keys of a message that are read."""

NOTES = frozenset(
    ("id", "index", "turn", "weight", "model", "timestamp", "created_at", "language", "lang", "source", "metadata")
)
"""Keys of a message that say something about it and are no part of it."""


@dataclass(frozen=True)
class Thought:
    """A thought and the answer after it.

    written: both as a model writes them, `<think>...</think>` first. answer: stripped.
    """

    written: str
    answer: str


def check_keys(messages: Sequence[Message], template: str) -> None:
    """DataError for roles and keys that are neither known nor read by the template, with the number of the message."""
    for place, message in enumerate(messages):
        role = message.get("role")
        if role not in ROLES and not _is_read(str(role), template):
            raise DataError(f"message {place} has the role {role!r}, which is none of {', '.join(ROLES)}")
        for key in message:
            if key not in KEYS and key not in NOTES and not _is_read(key, template):
                near = get_close_matches(key, KEYS, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise DataError(f"message {place} has the key {key!r}, which is none of {', '.join(KEYS)}{hint}")
        weight = message.get("weight", 1)
        if role == "assistant" and weight != 1:
            raise DataError(
                f"message {place}, of the assistant, has the weight {weight!r}, but each answer of a record is "
                'learned; remove it, or end the record with the answer to learn and use assistant="last"'
            )


@lru_cache(maxsize=512)
def _is_read(name: str, template: str) -> bool:
    return re.search(rf"\.{re.escape(name)}\b|['\"]{re.escape(name)}['\"]", template) is not None


def named_for(template: str, message: Message) -> Message:
    """The message with its thought under the key that the template reads, where there is one such key."""
    read = [key for key in THOUGHTS if _is_read(key, template)]
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


def with_arguments(message: Message, as_text: bool) -> Message:
    """The message with the arguments of its calls as JSON text, or as objects; other text stays as it is."""
    if not message.get("tool_calls"):
        return message
    calls = []
    for call in message["tool_calls"]:
        arguments = call["function"]["arguments"]
        if as_text and not isinstance(arguments, str):
            arguments = json.dumps(arguments, ensure_ascii=False)
        elif not as_text and isinstance(arguments, str):
            found = _object_of(arguments)
            arguments = arguments if found is None else found
        calls.append({**call, "function": {**call["function"], "arguments": arguments}})
    return {**message, "tool_calls": calls}


def with_names(messages: Sequence[Message]) -> list[Message]:
    """The messages with the name of the tool in the results of tools that have none: that of the call they answer.

    It is the call with their tool_call_id, or without one the call at their place among the results of a turn.
    """
    named, calls, place = [], list[Message](), 0
    for message in messages:
        if message.get("role") == "assistant":
            calls, place = list(message.get("tool_calls") or []), 0
        elif message.get("role") == "tool":
            given = message.get("tool_call_id")
            answered = [call for call in calls if given is not None and call.get("id") == given] or calls[place:]
            if "name" not in message and answered:
                message = {**message, "name": answered[0]["function"]["name"]}
            place += 1
        named.append(message)
    return named


def _object_of(text: str) -> dict[str, Any] | None:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def missing_in(message: Message, text: str, squeezed_text: str | None = None) -> str | None:
    """Which part of a message a text lacks, in words; None where it has all. Blanks are not compared.

    squeezed_text: `squeezed(text)`, where it is known.
    """
    found = squeezed(text) if squeezed_text is None else squeezed_text
    for name, part in _parts(message):
        if not _is_written(part, found):
            return f"{name} ({_short(part)})"
    for call in message.get("tool_calls") or []:
        function = call["function"]
        if not _is_written(function["name"], found):
            return f"the call of a tool ({function['name']!r})"
        wrong = _missing_arguments(function["arguments"], text, found)
        if wrong is not None:
            return f"the arguments of the call of {function['name']!r} as JSON ({wrong})"
    return None


def missing_tool(tools: Sequence[Message], text: str) -> str | None:
    """What of the definitions of tools a text lacks, in words; None where it has their names and descriptions."""
    found = squeezed(text)
    for tool in tools:
        function = tool.get("function", tool)
        for key in ("name", "description"):
            if isinstance(function.get(key), str) and not _is_written(function[key], found):
                return f"the {key} of the tool {function['name']!r}"
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
    found = squeezed(text)
    return next((part for part in map(_text_of, content) if not _is_written(part, found)), None)


def _parts(message: Message) -> list[tuple[str, str]]:
    """What a template should write of a message beside calls: `(name, text)`."""
    parts: list[tuple[str, str]] = []
    content = message.get("content")
    if isinstance(content, str) and "</think>" in content and message.get("role") == "assistant":
        thought, _, answer = content.rpartition("</think>")
        parts += [("the thought", thought.strip().removeprefix("<think>")), ("the content", answer)]
    elif isinstance(content, str):
        parts.append(("the content", content))
    elif isinstance(content, list):
        parts += [(f"a part of the type {part['type']!r}", _text_of(part)) for part in content]
    return parts + [(key, message[key]) for key in THOUGHTS if isinstance(message.get(key), str)]


def _missing_arguments(arguments: Any, text: str, found: str) -> str | None:
    """What of the arguments of a call a text lacks or writes otherwise; None where it has them."""
    if isinstance(arguments, str):
        if json.dumps(arguments) in text or json.dumps(arguments, ensure_ascii=False) in text:
            return f"{_short(arguments)} is a string within JSON"
        return None if _is_written(arguments, found) else _short(arguments)
    as_python = repr(arguments)
    if as_python in text and as_python != json.dumps(arguments, ensure_ascii=False):
        return f"{_short(as_python)} is Python"
    missing = (leaf for leaf in _leaves(arguments) if not _is_written(leaf, found))
    return next((_short(leaf) for leaf in missing), None)


def _leaves(value: Any) -> Iterator[str]:
    """The keys, strings and numbers of a JSON value, as text."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield str(key)
            yield from _leaves(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(inner)
    elif isinstance(value, str) or (isinstance(value, int | float) and not isinstance(value, bool)):
        yield str(value)


def _is_written(part: str, found: str) -> bool:
    """Whether a squeezed text has the part, as it is or as the string of a JSON value."""
    if part in found or squeezed(part) in found:
        return True
    return any(squeezed(json.dumps(part, ensure_ascii=ascii)[1:-1]) in found for ascii in (False, True))


def _text_of(part: Mapping[str, Any]) -> str:
    """The text of a part, or of the parts that it consists of."""
    inner = part[part["type"]]
    return inner if isinstance(inner, str) else "".join(str(some.get("text", "")) for some in inner)


def squeezed(text: str) -> str:
    """The text with one blank for each run of blanks and ends of lines."""
    return " ".join(text.split())


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:60] + "...")
