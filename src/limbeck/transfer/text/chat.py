"""A conversation as text, and which of it is learned: what the assistant says, its thoughts included.

    chat_pieces([{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}], tokenizer)
    # [("<|user|>2 + 2?<|end|><|assistant|>", False), ("4<|end|>", True)]

What this file does not know: token ids, lengths, students and teachers.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import jinja2
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from limbeck.errors import DataError
from limbeck.transfer.text.messages import (
    THOUGHTS,
    Message,
    Record,
    check_keys,
    joined_parts,
    missing_in,
    missing_tool,
    named_for,
    part_missing_in,
    squeezed,
    thought_of,
    with_arguments,
    with_names,
)

Piece = tuple[str, bool]
"""A part of a text, and whether it is learned."""

Span = tuple[int, int]
"""The first and the last + 1 character of a part of a text."""


LONGEST_END = 40
"""Characters of a token that ends a turn, at most: longer answers need no look at the tokenizer's tokens."""


@dataclass(frozen=True)
class _Writer:
    """Writes messages by a tokenizer's chat template. tools: definitions of the tools that may be called, or None."""

    tokenizer: PreTrainedTokenizerBase
    tools: list[Message] | None

    @property
    def template(self) -> str:
        return str(self.tokenizer.get_chat_template(tools=self.tools))

    def write(self, messages: Sequence[Message], ask: bool = False) -> str:
        """The text. ask: with the prompt for the next answer at its end."""
        return str(
            self.tokenizer.apply_chat_template(
                list(messages), tools=self.tools, tokenize=False, add_generation_prompt=ask
            )
        )

    def marks(self, messages: Sequence[Message]) -> tuple[str, list[Span]]:
        """The text, and what is in {% generation %} in it."""
        texts, spans = render_jinja_template(
            [list(messages)],
            tools=self.tools,
            chat_template=self.template,
            return_assistant_tokens_mask=True,
            **self.tokenizer.special_tokens_map,
        )
        return texts[0], spans[0]


def chat_pieces(
    messages: Sequence[Record],
    tokenizer: PreTrainedTokenizerBase,
    assistant: str = "all",
    tools: list[Message] | None = None,
) -> list[Piece]:
    """The text of a conversation by the tokenizer's chat template, in pieces that join to the whole.

    Learned is what the template marks with {% generation %}; where it marks nothing, what a turn adds to the prompt
    that asks for it. The token that ends the turn is learned with it.

    A thought is learned with its answer: `<think>...</think>` in the content, or a key `reasoning_content`,
    `reasoning` or `thinking`, whichever the template reads. Templates that drop thoughts from a conversation (R1) are
    followed by their prompt: the last turn is written after it as the model would write it.

    messages: `role`, `content` (a string, or a list of parts of text), `tool_calls` and whatever else the template
        reads; up to the last turn of the assistant, what follows is left out. Keys without a value do not exist.
        Arguments of calls are objects or JSON text, and are given to the template in the form that it writes as JSON.
    assistant: whether "all" of its turns are learned, or the "last".
    tools: the definitions of functions that the template writes before the conversation; None for none.

    DataError where there is no such turn, where it is empty, cannot be told from the rest, where a role or a key is
    not known, or where the template does not write all of the messages, calls and tools.
    """
    conversation = [{key: value for key, value in message.items() if value is not None} for message in messages]
    turns = [place for place, message in enumerate(conversation) if message.get("role") == "assistant"]
    if not turns:
        raise DataError(f"no message has the role assistant, only {sorted({str(m.get('role')) for m in conversation})}")
    conversation = conversation[: turns[-1] + 1]
    for turn in turns if assistant == "all" else turns[-1:]:
        if not any(conversation[turn].get(key) for key in ("content", "tool_calls", *THOUGHTS)):
            keys = [key for key in conversation[turn] if key not in ("role", "content")]
            only = f", only {', '.join(keys)}" if keys else ""
            raise DataError(f"message {turn}, of the assistant, is empty: it has no content and calls no tool{only}")
    writer = _Writer(tokenizer, tools)
    check_keys(conversation, writer.template)
    for turn in turns:
        conversation[turn].setdefault("content", "")  # beside a call; templates join it to other text
    conversation = [named_for(writer.template, message) for message in conversation]
    errors = []
    for way in _ways(conversation):
        try:
            return _pieces(way, conversation, turns if assistant == "all" else turns[-1:], writer)
        except DataError as error:
            errors.append(error)
    raise errors[0]


def _ways(conversation: list[Message]) -> list[list[Message]]:
    """The ways to give a conversation to a template, the first that it writes as a whole counts.

    Some templates print a list of parts as Python does, others read nothing but such lists; some write arguments of
    calls as JSON, others expect JSON text; some refuse results of tools without the tool's name.
    """
    ways = [joined_parts(conversation)]
    if ways[0] != conversation:
        ways.append(conversation)
    for as_text in (False, True):
        for way in list(ways):
            other = [with_arguments(message, as_text) for message in way]
            ways += [other] if other not in ways else []
    for way in list(ways):
        other = with_names(way)
        ways += [other] if other not in ways else []
    return ways


def _pieces(messages: list[Message], given: list[Message], turns: Sequence[int], writer: _Writer) -> list[Piece]:
    """The pieces of messages. given: the same messages before the parts of their contents were joined."""
    try:
        text, spans = (_marked if _marks_turns(writer) else _grown)(messages, turns, writer)
        without_tools = writer.tools and replace(writer, tools=None).write(messages) == writer.write(messages)
    except (jinja2.TemplateError, TypeError, KeyError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"the chat template refuses it: {error}") from error
    for place, message in enumerate(given):
        part = part_missing_in(message, text)
        if part is not None:
            raise DataError(f"the chat template does not write {part!r}, a part of message {place}, as text")
    squeezed_text = squeezed(text)
    for place, message in enumerate(messages):
        if message["role"] == "assistant":
            continue  # learned ones are looked at where they are; templates may shorten the others
        missing = missing_in(message, text, squeezed_text)
        if missing is not None:
            raise DataError(
                f"the chat template does not write {missing} of message {place}, of the {message['role']}; remove it, "
                "or use a tokenizer whose template writes it"
            )
    if writer.tools:
        missing = "any of them" if without_tools else missing_tool(writer.tools, text)
        if missing is not None:
            raise DataError(
                f"it has tools, but the chat template does not write {missing}; remove `tools`, or use a tokenizer "
                "whose template writes them"
            )
    for place, (start, end) in enumerate(spans):
        if len(spans) == len(turns) and _is_end_alone(text[start:end], writer.tokenizer):
            raise DataError(
                f"the chat template writes nothing of message {turns[place]}, of the assistant, but its end"
            )
    pieces, done = [], 0
    for start, end in spans:
        pieces += [(text[done:start], False), (text[start:end], True)]
        done = end
    return [*pieces, (text[done:], False)]


def _marks_turns(writer: _Writer) -> bool:
    return re.search(r"\{%-?\s*generation\s*-?%\}", writer.template) is not None


def _marked(messages: list[Message], turns: Sequence[int], writer: _Writer) -> tuple[str, list[Span]]:
    """`(text, learned spans)` of a template that marks what the assistant says."""
    text, spans = writer.marks(messages)
    if not spans:
        raise DataError("the chat template marks nothing in it with {% generation %}")
    # Many templates close the mark before the token that ends the turn, which a student would then never write.
    closing = next((token for token in _added_tokens(writer.tokenizer) if text.startswith(token, spans[-1][1])), "")
    closed = [(start, end + len(closing) if text.startswith(closing, end) else end) for start, end in spans]
    if len(turns) == 1 and turns[0] > 0:
        closed = closed[len(writer.marks(messages[: turns[0]])[1]) :] or closed[-1:]
    learned = " ".join(text[start:end] for start, end in closed)
    for turn in turns:
        missing = missing_in(messages[turn], learned)
        if missing is not None:
            raise DataError(
                f"the chat template does not mark {missing} of message {turn} with {{% generation %}}; it marks "
                f"{_shown(learned)}"
            )
    return text, closed


def _grown(messages: list[Message], turns: Sequence[int], writer: _Writer) -> tuple[str, list[Span]]:
    """`(text, learned spans)` of any template: what each turn adds to the prompt that asks for it."""
    text = writer.write(messages)
    spans: list[Span] = []
    for turn in turns:
        if turn == 0:
            raise DataError(
                "its first message is the assistant's, and the chat template does not mark the assistant's turns"
            )
        prompt, after = writer.write(messages[:turn], ask=True), writer.write(messages[: turn + 1])
        continues = after.startswith(prompt)
        missing = missing_in(messages[turn], after[len(prompt) :] if continues else after)
        is_last = turn == len(messages) - 1
        if is_last and not (continues and missing is None):
            answered = _after_prompt(messages[turn], turn, prompt, after, missing, writer)
            if any(answered[:end] != text[:end] for _, end in spans):
                raise DataError(_written_anew(messages, turn))
            text = after = answered
        elif not (continues and text.startswith(after)):
            raise DataError(_written_anew(messages, turn))
        elif missing is not None:
            raise DataError(_not_written(missing, turn, after[len(prompt) :]))
        spans.append((len(prompt), _end_of_turn(after, writer.tokenizer)))
    return text, spans


def _after_prompt(message: Message, turn: int, prompt: str, after: str, missing: str | None, writer: _Writer) -> str:
    """The last turn with its thought after the prompt that asks for it, where the template writes it in another way.

    after: what the template writes up to this turn: the answer without its thought, and the end of the turn.
    """
    opening = re.search(r"<think>\s*$", prompt)
    thought = thought_of(message)
    if thought is None and opening:
        raise DataError(
            f"the prompt of the chat template begins a thought ({prompt[-20:]!r}), and message {turn} has none; give "
            "it reasoning_content, or a content that begins with '<think>\\n\\n</think>\\n\\n', an empty thought"
        )
    header = prompt[: opening.start()] if opening else prompt
    if thought is None or "</think>" not in writer.template or not after.startswith(header):
        if missing is not None:
            raise DataError(_not_written(missing, turn, after.removeprefix(header)))
        raise DataError(
            f"the chat template writes message {turn} in another way than its prompt asks for: the prompt ends with "
            f"{prompt[-40:]!r}, and the conversation has {_shown(after[-len(prompt[-40:]) - 80 :])} there; use a "
            "template that marks what the assistant says with {% generation %}"
        )
    place = after.find(thought.answer, len(header))
    if place < 0 or after[len(header) : place].strip():
        raise DataError(_not_written("the answer", turn, after[len(header) :]))
    written = thought.written
    if opening:
        written = written.removeprefix("<think>")
        written = written.lstrip("\n") if prompt.endswith("\n") else written
    return prompt + written + after[place + len(thought.answer) :]


def _written_anew(messages: Sequence[Message], turn: int) -> str:
    dropped = thought_of(messages[turn]) is not None
    why = " (it drops the thoughts of earlier turns)" if dropped else ""
    return (
        f"the chat template writes the messages before and after message {turn} in another way when others "
        f'follow{why}, so that its tokens cannot be told; use assistant="last", or a template that marks what the '
        "assistant says with {% generation %}; each answer can be the last one of a record by itself"
    )


def _not_written(missing: str, turn: int, span: str) -> str:
    return (
        f"the chat template does not write {missing} of message {turn}, only {_shown(span)}; put it into the content, "
        "remove it, or use a tokenizer whose template writes it"
    )


def _shown(text: str) -> str:
    return repr(text if len(text) <= 160 else f"{text[:80]}...{text[-80:]}")


def _end_of_turn(text: str, tokenizer: PreTrainedTokenizerBase) -> int:
    """Where the assistant stops: after the token that ends its turn; blanks behind it are the template's."""
    stripped = text.rstrip()
    return len(stripped) if stripped.endswith(_added_tokens(tokenizer)) else len(text)


def _is_end_alone(span: str, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether what is learned of a turn is blank but for the token that ends it."""
    span = span.strip()
    return not span or (len(span) <= LONGEST_END and span in _added_tokens(tokenizer))


def _added_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """Control tokens such as <|im_end|>, special or not; the longest first."""
    tokens = {token.content for token in tokenizer.added_tokens_decoder.values() if token.content.strip()}
    return tuple(sorted(tokens, key=len, reverse=True))
