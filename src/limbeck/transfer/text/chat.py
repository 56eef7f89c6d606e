"""A conversation as text, and which of it the assistant says.

    chat_pieces([{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}], tokenizer)
    # [("<|user|>2 + 2?<|end|><|assistant|>", False), ("4<|end|>", True)]

What this file does not know: token ids, lengths, students and teachers.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
from transformers.utils.chat_template_utils import render_jinja_template

from limbeck.errors import DataError

Piece = tuple[str, bool]
"""Some text, and whether it is learned."""


def chat_pieces(messages: Sequence[Mapping[str, Any]], tokenizer: Any, assistant: str = "all") -> list[Piece]:
    """The text that the tokenizer's chat template makes of messages, in pieces: joined, they are the whole.

    messages: `role`, `content` and whatever else the template reads; up to the last turn of the assistant, what
        follows is left out. assistant: whether "all" of its turns are learned or the "last".

    Learned is what the template marks with {% generation %}; where it marks nothing, what a turn adds to the text of
    the turns before it and of the header that asks for an answer. The token that ends the turn is learned with it.
    DataError where there is no such turn, or it is empty, or cannot be told from the rest.
    """
    # columns of a dataset have every key in every message; a template asks which ones there are
    conversation = [{key: value for key, value in message.items() if value is not None} for message in messages]
    turns = [place for place, message in enumerate(conversation) if message.get("role") == "assistant"]
    if not turns:
        raise DataError(f"no message has the role assistant, only {sorted({str(m.get('role')) for m in conversation})}")
    conversation = conversation[: turns[-1] + 1]
    turns = turns if assistant == "all" else turns[-1:]
    for turn in turns:
        if not any(value for key, value in conversation[turn].items() if key != "role"):
            raise DataError(f"message {turn}, of the assistant, is empty")
    try:
        text, spans = (_marked if _marks_turns(tokenizer) else _grown)(conversation, turns, tokenizer)
    except (jinja2.TemplateError, TypeError, KeyError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"the chat template refuses it: {error}") from error
    pieces, done = [], 0
    for start, end in spans:
        pieces += [(text[done:start], False), (text[start:end], True)]
        done = end
    return [*pieces, (text[done:], False)]


def _marks_turns(tokenizer: Any) -> bool:
    return re.search(r"\{%-?\s*generation\s*-?%\}", tokenizer.get_chat_template()) is not None


def _marked(messages: list[dict[str, Any]], turns: Sequence[int], tokenizer: Any) -> tuple[str, list[tuple[int, int]]]:
    """`(text, where it is learned)` of a template that marks what the assistant says."""

    def render(some: list[dict[str, Any]]) -> tuple[str, list[tuple[int, int]]]:
        texts, spans = render_jinja_template(
            [some],
            chat_template=tokenizer.get_chat_template(),
            return_assistant_tokens_mask=True,
            **tokenizer.special_tokens_map,
        )
        return texts[0], spans[0]

    text, spans = render(messages)
    if not spans:
        raise DataError("the chat template marks nothing in it with {% generation %}")
    # Many templates close the mark before the token that ends the turn, which a student would then never say.
    closing = next((token for token in _added_tokens(tokenizer) if text.startswith(token, spans[-1][1])), "")
    closed = [(start, end + len(closing) if text.startswith(closing, end) else end) for start, end in spans]
    if len(turns) == 1 and turns[0] > 0:
        closed = closed[len(render(messages[: turns[0]])[1]) :] or closed[-1:]
    return text, closed


def _grown(messages: list[dict[str, Any]], turns: Sequence[int], tokenizer: Any) -> tuple[str, list[tuple[int, int]]]:
    """`(text, where it is learned)` of any template: what each turn adds to the text before it."""

    def render(some: list[dict[str, Any]], ask: bool = False) -> str:
        return str(tokenizer.apply_chat_template(some, tokenize=False, add_generation_prompt=ask))

    text, spans = render(messages), []
    for turn in turns:
        if turn == 0:
            raise DataError(
                "its first message is the assistant's, and the chat template does not mark the assistant's turns"
            )
        before, after = render(messages[:turn], ask=True), render(messages[: turn + 1])
        if not (after.startswith(before) and text.startswith(after)):
            raise DataError(
                f"the chat template writes the messages before and after message {turn} in another way when others "
                'follow, so that its tokens cannot be told; use assistant="last", or a template that marks what the '
                "assistant says with {% generation %}"
            )
        spans.append((len(before), _end_of_turn(after, tokenizer)))
    return text, spans


def _end_of_turn(text: str, tokenizer: Any) -> int:
    """Where the assistant stops: after the token that ends its turn; blanks behind it are the template's."""
    stripped = text.rstrip()
    return len(stripped) if stripped.endswith(_added_tokens(tokenizer)) else len(text)


def _added_tokens(tokenizer: Any) -> tuple[str, ...]:
    """Control tokens such as <|im_end|>, special or not; the longest first."""
    tokens = {token.content for token in tokenizer.added_tokens_decoder.values() if token.content.strip()}
    return tuple(sorted(tokens, key=len, reverse=True))
