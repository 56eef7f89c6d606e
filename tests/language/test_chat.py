"""Oracle: the pieces written out, and transformers' own assistant mask where a template marks its turns."""

from collections.abc import Callable
from typing import Any

import pytest

from limbeck.errors import DataError
from limbeck.transfer.text.chat import chat_pieces

from .conftest import MARKED, UNMARKED

CHAT = [
    {"role": "system", "content": "the sum"},
    {"role": "user", "content": "two and two"},
    {"role": "assistant", "content": "four"},
    {"role": "user", "content": "what is"},
    {"role": "assistant", "content": "the other"},
]
FIRST = "<|system|>the sum<|end|>\n<|user|>two and two<|end|>\n<|assistant|>"
BETWEEN = "\n<|user|>what is<|end|>\n<|assistant|>"
ALL = [(FIRST, False), ("four<|end|>", True), (BETWEEN, False), ("the other<|end|>", True), ("\n", False)]
LAST = [(f"{FIRST}four<|end|>{BETWEEN}", False), ("the other<|end|>", True), ("\n", False)]
CLOSED_EARLY = MARKED.replace("<|end|>{% endgeneration %}", "{% endgeneration %}<|end|>")
TEMPLATES = pytest.mark.parametrize("template", [MARKED, UNMARKED, CLOSED_EARLY], ids=["marked", "unmarked", "early"])


@TEMPLATES
def test_what_the_assistant_says_and_the_end_of_its_turn_is_learned(
    template: str, make_tokenizer: Callable[..., Any]
) -> None:
    tokenizer = make_tokenizer(template)
    assert chat_pieces(CHAT, tokenizer) == ALL
    assert chat_pieces(CHAT, tokenizer, "last") == LAST
    assert "".join(text for text, _ in ALL) == tokenizer.apply_chat_template(CHAT, tokenize=False)


def test_marks_are_transformers_own(make_tokenizer: Callable[..., Any]) -> None:
    tokenizer = make_tokenizer(MARKED)
    said = tokenizer.apply_chat_template(CHAT, return_dict=True, return_assistant_tokens_mask=True)
    learned = [token for token, mask in zip(said["input_ids"], said["assistant_masks"], strict=True) if mask]
    ours = [text for text, is_learned in chat_pieces(CHAT, tokenizer) if is_learned]
    assert learned == tokenizer("".join(ours), add_special_tokens=False).input_ids
    assert len(learned) >= 4


@TEMPLATES
def test_what_follows_the_last_answer_is_left_out(template: str, make_tokenizer: Callable[..., Any]) -> None:
    asked = [*CHAT, {"role": "user", "content": "and four"}]
    assert chat_pieces(asked, make_tokenizer(template)) == ALL


def test_two_marks_in_one_turn_are_both_of_the_last_turn(make_tokenizer: Callable[..., Any]) -> None:
    inner = "{% generation %}{{ message.content }}<|end|>{% endgeneration %}"
    twice = MARKED.replace(inner, "{% generation %}so {% endgeneration %}" + inner)
    pieces = chat_pieces(CHAT, make_tokenizer(twice), "last")
    assert [text for text, learned in pieces if learned] == ["so ", "the other<|end|>"]


def test_a_template_without_a_token_that_ends_turns_ends_them_by_a_line(make_tokenizer: Callable[..., Any]) -> None:
    template = (
        "{% for message in messages %}{{ message.role + ': ' + message.content + '\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    assert chat_pieces(CHAT[1:3], make_tokenizer(template)) == [
        ("user: two and two\nassistant: ", False),
        ("four\n", True),
        ("", False),
    ]


def test_a_template_that_writes_earlier_turns_anew_serves_for_the_last_turn(make_tokenizer: Callable[..., Any]) -> None:
    shortened = UNMARKED.replace("{{ message.content }}<|end|>{% else %}", "{{ CONTENT }}<|end|>{% else %}").replace(
        "CONTENT", "message.content if loop.last else message.content[-2:]"
    )
    assert shortened != UNMARKED
    tokenizer = make_tokenizer(shortened)
    learned = [text for text, is_learned in chat_pieces(CHAT, tokenizer, "last") if is_learned]
    assert learned == ["the other<|end|>"]
    with pytest.raises(DataError, match=r'message 2 in another way .* use assistant="last", or a template that marks'):
        chat_pieces(CHAT, tokenizer)


def test_who_speaks_first(make_tokenizer: Callable[..., Any]) -> None:
    alone = CHAT[2:3]
    assert chat_pieces(alone, make_tokenizer(MARKED), "last")[1] == ("four<|end|>", True)
    with pytest.raises(DataError, match="first message is the assistant's"):
        chat_pieces(alone, make_tokenizer(UNMARKED))


def test_keys_without_a_value_do_not_exist(make_tokenizer: Callable[..., Any]) -> None:
    template = MARKED.replace(
        "{{ message.content }}", "{{ message.thought if 'thought' in message }}{{ message.content }}"
    )
    thoughts = [{**CHAT[1], "thought": None}, {**CHAT[2], "thought": "hm "}]
    assert chat_pieces(thoughts, make_tokenizer(template))[1] == ("hm four<|end|>", True)
    assert "None" not in chat_pieces(thoughts, make_tokenizer(template))[0][0]


@pytest.mark.parametrize(
    ("messages", "template", "said"),
    [
        (CHAT[:2], MARKED, r"no message has the role assistant, only \['system', 'user'\]"),
        ([], MARKED, r"no message has the role assistant, only \[\]"),
        ([CHAT[1], {"role": "assistant", "content": ""}], MARKED, "message 1, of the assistant, is empty"),
        ([CHAT[1], {"role": "assistant", "content": None}], UNMARKED, "message 1, of the assistant, is empty"),
        (CHAT, "{{ raise_exception('no system turns') }}", "the chat template refuses it: no system turns"),
        (CHAT, "{% if false %}{% generation %}{% endgeneration %}{% endif %}x", "the chat template marks nothing"),
    ],
)
def test_what_cannot_be_learned_is_refused(
    messages: list[dict[str, Any]], template: str, said: str, make_tokenizer: Callable[..., Any]
) -> None:
    with pytest.raises(DataError, match=said):
        chat_pieces(messages, make_tokenizer(template))
