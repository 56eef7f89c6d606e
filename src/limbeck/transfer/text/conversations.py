"""Conversations as data sets have them (OpenAI's chats, ShareGPT, Alpaca), as messages that chat templates read.

    turns = [{"from": "human", "value": "2 + 2?"}, {"from": "gpt", "value": "4"}]
    conversation_of(turns)
    # Conversation([{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}], tools=None)

What this file does not know: tokenizers and templates, which message is learned, columns of data sets.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from limbeck.errors import DataError
from limbeck.transfer.text.messages import Message, Record

SHAREGPT = {
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant", "chatgpt", "bard", "function_call"), "assistant"),
    "system": "system",
    **dict.fromkeys(("tool", "observation", "function_response"), "tool"),
}
"""Who speaks in ShareGPT's `from` -> the role of a message."""

ALPACA = (
    "Below is an instruction that describes a task{paired}. Write a response that appropriately completes the request."
    "\n\n### Instruction:\n{instruction}{given}\n\n### Response:\n"
)
"""The prompt of Stanford Alpaca, for tokenizers without a chat template."""

_STYLES = {"role": ("role", "content"), "from": ("from", "value")}
"""The key that names the speaker -> both keys of a turn."""


@dataclass(frozen=True)
class Conversation:
    """Messages with `role` and `content`, and the definitions of the tools that they may call, None for none."""

    messages: list[Message]
    tools: list[Message] | None = None


def conversation_of(turns: Any, system: str | None = None, tools: Any = None) -> Conversation:
    """The conversation of a record.

    turns: `{role, content}` or `{from, value}` each, or the list as JSON text. Keys whose value is None are as good as
        absent. system: the content of a first message with the role system.
    tools: definitions of functions, `{"type": "function", "function": {name, ...}}` or `{name, ...}`; or JSON text.

    DataError where turns are not such, with the number of the message.
    """
    turns = _parsed(turns, "a conversation given as text")
    if not isinstance(turns, list):
        raise DataError(f"a conversation must be a list of messages, but is {_shown(turns)}")
    if not turns:
        raise DataError("its conversation is empty")
    styles: set[str] = set()
    messages = [_message(turn, place, styles) for place, turn in enumerate(turns)]
    if system:
        if messages[0].get("role") == "system":
            raise DataError("it has two system prompts, one in `system` and one as its first message; remove one")
        messages = [{"role": "system", "content": system}, *messages]
    return Conversation(messages, _tools(tools) or None)


def alpaca_conversation(record: Record) -> Conversation:
    """The conversation of a record with `instruction`, `output` and where it has them `input`, `system`, `history`.

    The input follows the instruction after an empty line. DataError where the instruction or the output is empty.
    """
    instruction, given, output = _alpaca(record)
    messages = [_said("user", f"{instruction}\n\n{given}" if given else instruction), _said("assistant", output)]
    earlier: list[Message] = []
    for place, pair in enumerate(_parsed(record.get("history") or [], "`history`")):
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise DataError(f"`history` must hold pairs of a question and an answer, but {place} is {_shown(pair)}")
        earlier += [_said("user", pair[0]), _said("assistant", pair[1])]
    system = [_said("system", record["system"])] if record.get("system") else []
    return Conversation([*system, *earlier, *messages])


def alpaca_prompt(record: Record) -> tuple[str, str]:
    """`(the prompt that Stanford Alpaca wrote, the output)` of such a record, for models without a chat template."""
    instruction, given, output = _alpaca(record)
    for name in ("system", "history"):
        if record.get(name):
            raise DataError(
                f"it has a `{name}`, for which the Alpaca prompt has no place; use a tokenizer with a chat template"
            )
    paired = ", paired with an input that provides further context" if given else ""
    section = f"\n\n### Input:\n{given}" if given else ""
    return ALPACA.format(paired=paired, instruction=instruction, given=section), output


def _alpaca(record: Record) -> tuple[str, str, str]:
    """The instruction, the input ("" for none) and the output."""
    for name in ("instruction", "output"):
        if not record.get(name):
            raise DataError(f"its `{name}` is empty")
    return record["instruction"], record.get("input") or "", record["output"]


def _said(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def _message(turn: Any, place: int, styles: set[str]) -> Message:
    """A turn as a message. styles: of the turns before it, for a conversation has one; this one's is added."""
    if not isinstance(turn, Mapping):
        raise DataError(f"message {place} must be {{role, content}} or {{from, value}}, but is {_shown(turn)}")
    message = {key: value for key, value in turn.items() if value is not None}
    found = [style for style, keys in _STYLES.items() if any(key in message for key in keys)]
    styles.update(found)
    if len(styles) > 1:
        raise DataError(f"message {place} mixes {{role, content}} with {{from, value}} ({_keys(message)}); use one")
    speaker = found[0] if found else "role"
    if not isinstance(message.get(speaker), str):
        raise DataError(
            f"message {place} must name its speaker, as {{role, content}} or {{from, value}} do, but has "
            f"{_keys(message)}"
        )
    if speaker == "from":
        message = _of_sharegpt(message, place)
    if message["role"] == "function":
        message["role"] = "tool"
    if "function_call" in message:  # of OpenAI's chats before there were several calls in a turn
        message["tool_calls"] = [message.pop("function_call"), *message.get("tool_calls", [])]
    if "tool_calls" in message:
        calls = _parsed(message.pop("tool_calls"), f"tool_calls of message {place}")
        if not isinstance(calls, list):
            raise DataError(f"tool_calls of message {place} must be a list of calls, but is {_shown(calls)}")
        if calls:
            message["tool_calls"] = [_call(call, place) for call in calls]
    _check_content(message, place)
    return message


def _of_sharegpt(message: Message, place: int) -> Message:
    speaker = message.pop("from")
    if speaker not in SHAREGPT:
        raise DataError(f"message {place} is from {speaker!r}, which is none of {', '.join(SHAREGPT)}")
    said = {"content": message.pop("value")} if "value" in message else {}
    if speaker == "function_call":
        calls = _parsed(said.get("content", ""), f"the function_call of message {place}")
        return {**message, "role": "assistant", "tool_calls": calls if isinstance(calls, list) else [calls]}
    return {**message, "role": SHAREGPT[speaker], **said}


def _check_content(message: Message, place: int) -> None:
    """DataError where the content of a message is absent, or no text and no list of parts."""
    content, role = message.get("content"), message["role"]
    if content is None and role != "assistant":
        raise DataError(f"message {place}, of the {role}, has no content, only {_keys(message)}")
    if content is not None and not isinstance(content, str | list):
        raise DataError(f"the content of message {place} must be text or a list of parts, but is {_shown(content)}")


def _call(call: Any, place: int) -> Message:
    """A call of a tool as `{"type": "function", "function": {"name", "arguments"}}`, with its other keys."""
    call = _parsed(call, f"a call of a tool in message {place}")
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise DataError(
            f"a call of a tool in message {place} must be {{function: {{name, arguments}}}} or {{name, arguments}}, "
            f"but is {_shown(call)}"
        )
    arguments = function.get("arguments")
    arguments = {} if arguments is None else arguments
    if not isinstance(arguments, Mapping | str):
        raise DataError(
            f"the arguments of {function['name']} in message {place} must be an object or JSON text, but are "
            f"{_shown(arguments)}"
        )
    others = {} if function is call else {k: v for k, v in call.items() if v is not None}
    return {"type": "function", **others, "function": {"name": function["name"], "arguments": arguments}}


def _tools(tools: Any) -> list[Message]:
    tools = _parsed(tools or [], "`tools`")
    if not isinstance(tools, list):
        raise DataError(f"`tools` must be a list of definitions of functions, or one as JSON, but is {_shown(tools)}")
    found = []
    for place, tool in enumerate(tools):
        tool = _parsed(tool, f"tool {place}")
        function = tool.get("function", tool) if isinstance(tool, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise DataError(f"tool {place} must define a function with a name, but is {_shown(tool)}")
        found.append({"type": "function", "function": dict(tool)} if function is tool else dict(tool))
    return found


def _parsed(value: Any, what: str) -> Any:
    """The value, or what it is the JSON text of."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value) if value.strip() else []
    except (ValueError, RecursionError) as error:
        raise DataError(f"{what} must be JSON, but is {_shown(value)} ({error})") from error


def _keys(message: Record) -> str:
    return f"the keys {', '.join(map(str, message))}" if message else "no keys"


def _shown(value: Any) -> str:
    text = repr(value)
    return f"{text[:80]}... (of the type {type(value).__name__})" if len(text) > 80 else text
