"""Templates as current families of models have them, shortened to what decides which text is learned.

Oracle: the text that each family's model is given, and writes, spelled out.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, load_dataset

from limbeck.errors import DataError
from limbeck.transfer.text.chat import chat_pieces
from limbeck.transfer.text.examples import tokenise

# Thoughts of the last turn are kept, earlier ones are dropped; an answer without one has an empty one.
QWEN3 = """{%- set ns = namespace(last=-1) %}{%- for m in messages %}{%- if m.role == 'user' %}
{%- set ns.last = loop.index0 %}{%- endif %}{%- endfor %}
{%- for m in messages %}{%- if m.role != 'assistant' %}
{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{%- else %}
{%- set content = m.content if m.content is string else '' %}{%- set thought = '' %}
{%- if m.reasoning_content is string %}{%- set thought = m.reasoning_content %}
{%- elif '</think>' in content %}
{%- set thought = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}
{%- set content = content.split('</think>')[-1].lstrip('\n') %}{%- endif %}
{{- '<|im_start|>assistant\n' }}
{%- if loop.index0 > ns.last %}{{- '<think>\n' + thought.strip('\n') + '\n</think>\n\n' }}{%- endif %}
{{- content }}
{%- for call in m.tool_calls or [] %}
{{- '<tool_call>\n{"name": "' + call.function.name + '", "arguments": ' }}
{{- call.function.arguments if call.function.arguments is string else call.function.arguments | tojson }}
{{- '}\n</tool_call>' }}{%- endfor %}
{{- '<|im_end|>\n' }}{%- endif %}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"""

# Every thought is dropped, and the prompt begins one.
R1 = """{%- for m in messages %}{%- if m.role == 'user' %}{{- '<|User|>' + m.content }}{%- elif m.role == 'assistant' %}
{%- set content = m.content %}
{%- if '</think>' in content %}{%- set content = content.split('</think>')[-1] %}{%- endif %}
{{- '<|Assistant|>' + content + '<|eos|>' }}{%- endif %}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|Assistant|><think>\n' }}{%- endif %}"""
R1_FIRST = R1.replace("<|Assistant|><think>\n", "<|Assistant|>")  # the first version's prompt began none

LLAMA3 = """{%- for m in messages %}
{{- '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content | trim + '<|eot_id|>' }}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"""

# No header before an answer; content may be a list of parts.
MISTRAL = """{%- for m in messages %}{%- if m.role == 'user' %}
{%- if m.content is string %}{{- '[INST]' + m.content + '[/INST]' }}
{%- else %}{{- '[INST]' }}{%- for part in m.content %}{{- part.text }}{%- endfor %}{{- '[/INST]' }}{%- endif %}
{%- elif m.role == 'assistant' %}{{- m.content + '</s>' }}{%- endif %}{%- endfor %}"""

# The thought in a channel of its own, under the key thinking; the last turn ends with another token.
GPT_OSS = """{%- for m in messages %}{%- if m.role == 'user' %}{{- '<|start|>user<|message|>' + m.content + '<|end|>' }}
{%- elif loop.last %}
{%- if 'thinking' in m %}{{- '<|start|>assistant<|channel|>analysis<|message|>' + m.thinking + '<|end|>' }}{%- endif %}
{{- '<|start|>assistant<|channel|>final<|message|>' + m.content + '<|return|>' }}
{%- else %}{{- '<|start|>assistant<|channel|>final<|message|>' + m.content + '<|end|>' }}{%- endif %}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start|>assistant' }}{%- endif %}"""

CONTROL = ["<|im_start|>", "<|im_end|>", "<|eos|>", "<|User|>", "<|Assistant|>", "<|eot_id|>", "</s>", "<|return|>"]

USER = {"role": "user", "content": "2 + 2?"}
PLAIN = {"role": "assistant", "content": "4"}
INLINE = {"role": "assistant", "content": "<think>\ntwo twos\n</think>\n\n4"}
KEYED = {"role": "assistant", "content": "4", "reasoning_content": "two twos"}
EMPTY = {"role": "assistant", "content": "<think>\n\n</think>\n\n4"}


@pytest.fixture
def pieces(make_tokenizer: Callable[..., Any]) -> Callable[..., list[tuple[str, bool]]]:
    def of(template: str, messages: list[dict[str, Any]], assistant: str = "all") -> list[tuple[str, bool]]:
        tokenizer = make_tokenizer(template)
        tokenizer.add_tokens(CONTROL)
        return [piece for piece in chat_pieces(messages, tokenizer, assistant) if piece[0]]

    return of


QWEN_PROMPT = "<|im_start|>user\n2 + 2?<|im_end|>\n<|im_start|>assistant\n"
OSS_PROMPT = "<|start|>user<|message|>2 + 2?<|end|><|start|>assistant"
LLAMA_PROMPT = (
    "<|start_header_id|>user<|end_header_id|>\n\n2 + 2?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
)


@pytest.mark.parametrize("assistant", ["all", "last"])
@pytest.mark.parametrize(
    ("template", "answer", "prompt", "learned"),
    [
        (QWEN3, PLAIN, QWEN_PROMPT, "<think>\n\n</think>\n\n4<|im_end|>"),
        (QWEN3, INLINE, QWEN_PROMPT, "<think>\ntwo twos\n</think>\n\n4<|im_end|>"),
        (QWEN3, KEYED, QWEN_PROMPT, "<think>\ntwo twos\n</think>\n\n4<|im_end|>"),
        (R1, INLINE, "<|User|>2 + 2?<|Assistant|><think>\n", "two twos\n</think>\n\n4<|eos|>"),
        (R1, KEYED, "<|User|>2 + 2?<|Assistant|><think>\n", "two twos\n</think>\n\n4<|eos|>"),
        (R1, EMPTY, "<|User|>2 + 2?<|Assistant|><think>\n", "</think>\n\n4<|eos|>"),
        (R1_FIRST, INLINE, "<|User|>2 + 2?<|Assistant|>", "<think>\ntwo twos\n</think>\n\n4<|eos|>"),
        (R1_FIRST, KEYED, "<|User|>2 + 2?<|Assistant|>", "<think>\ntwo twos\n</think>\n\n4<|eos|>"),
        (R1_FIRST, PLAIN, "<|User|>2 + 2?<|Assistant|>", "4<|eos|>"),
        (LLAMA3, PLAIN, LLAMA_PROMPT, "4<|eot_id|>"),
        (LLAMA3, INLINE, LLAMA_PROMPT, "<think>\ntwo twos\n</think>\n\n4<|eot_id|>"),
        (MISTRAL, PLAIN, "[INST]2 + 2?[/INST]", "4</s>"),
        (MISTRAL, INLINE, "[INST]2 + 2?[/INST]", "<think>\ntwo twos\n</think>\n\n4</s>"),
        (GPT_OSS, PLAIN, OSS_PROMPT, "<|channel|>final<|message|>4<|return|>"),
        (
            GPT_OSS,
            KEYED,
            OSS_PROMPT,
            "<|channel|>analysis<|message|>two twos<|end|><|start|>assistant<|channel|>final<|message|>4<|return|>",
        ),
    ],
)
def test_one_answer(
    template: str, answer: dict[str, Any], prompt: str, learned: str, assistant: str, pieces: Callable[..., Any]
) -> None:
    found = pieces(template, [USER, answer], assistant)
    if found[-1] == ("\n", False):  # after the token that ends the turn
        found.pop()
    assert found == [(prompt, False), (learned, True)]


@pytest.mark.parametrize(
    ("template", "learned"),
    [(QWEN3, "<think>\ntwo twos\n</think>\n\n4<|im_end|>"), (R1, "two twos\n</think>\n\n4<|eos|>")],
)
def test_the_last_answer_of_several(template: str, learned: str, pieces: Callable[..., Any]) -> None:
    chat = [USER, INLINE, USER, INLINE]
    found = pieces(template, chat, "last")
    assert [text for text, is_learned in found if is_learned] == [learned]
    assert "two twos" not in found[0][0]  # as the model reads it: earlier thoughts are dropped
    with pytest.raises(DataError, match=r'message 1 in another way .*drops the thoughts.* use assistant="last"'):
        pieces(template, chat)


@pytest.mark.parametrize("template", [LLAMA3, MISTRAL])
def test_all_answers_of_templates_that_write_each_alike(template: str, pieces: Callable[..., Any]) -> None:
    end = {LLAMA3: "<|eot_id|>", MISTRAL: "</s>"}[template]
    found = pieces(template, [USER, PLAIN, USER, INLINE])
    assert [text for text, is_learned in found if is_learned] == [f"4{end}", f"{INLINE['content']}{end}"]


@pytest.mark.parametrize(
    ("template", "answer", "message"),
    [
        (R1, PLAIN, r"begins a thought \(.*<think>\\n'\), and message 1 has none; give it reasoning_content"),
        (LLAMA3, KEYED, r"does not write reasoning_content \('two twos'\) of message 1, only '4<\|eot_id\|>'"),
        (MISTRAL, KEYED, r"does not write reasoning_content \('two twos'\) of message 1, only '4</s>'"),
        (
            LLAMA3,
            {"role": "assistant", "content": "4", "tool_calls": [{"function": {"name": "add", "arguments": {}}}]},
            r"does not write the call of a tool \('add'\) of message 1",
        ),
        (
            LLAMA3,
            {"role": "assistant", "content": [{"type": "image", "image": "x.png"}]},
            "message 1 has a part of the type 'image' in its content, and only text is read",
        ),
        (LLAMA3, {"role": "assistant", "content": ["4"]}, "message 1 has a part of the type 'str'"),
    ],
)
def test_what_a_template_does_not_write_is_refused_with_its_text(
    template: str, answer: dict[str, Any], message: str, pieces: Callable[..., Any]
) -> None:
    with pytest.raises(DataError, match=message):
        pieces(template, [USER, answer])


def test_a_mark_around_the_answer_alone_is_refused_where_there_is_a_thought(pieces: Callable[..., Any]) -> None:
    marked = QWEN3.replace("{{- content }}", "{%- generation %}{{- content }}{%- endgeneration %}")
    assert ("4<|im_end|>", True) in pieces(marked, [USER, PLAIN])
    with pytest.raises(DataError, match=r"does not mark reasoning_content \('two twos'\) of message 1 with"):
        pieces(marked, [USER, KEYED])


PARTS = [{"type": "text", "text": "2 + 2"}, {"type": "text", "text": "?"}]
PRINTS = LLAMA3.replace("m.content | trim", "m.content | string | trim")
ONLY_LISTS = MISTRAL.replace(
    "{%- if m.content is string %}{{- '[INST]' + m.content + '[/INST]' }}\n{%- else %}", ""
).replace("{%- endfor %}{{- '[/INST]' }}{%- endif %}", "{%- endfor %}{{- '[/INST]' }}")


@pytest.mark.parametrize("template", [LLAMA3, PRINTS, MISTRAL, QWEN3, R1_FIRST, GPT_OSS, ONLY_LISTS])
def test_a_list_of_parts_is_read_as_its_text(template: str, pieces: Callable[..., Any]) -> None:
    found = pieces(template, [{"role": "user", "content": PARTS}, PLAIN])
    if template != ONLY_LISTS:
        assert found == pieces(template, [USER, PLAIN])
    assert found[0][0].count("2 + 2?") == 1
    assert "type" not in "".join(text for text, _ in found)


@pytest.mark.parametrize("template", [LLAMA3, PRINTS, QWEN3])
def test_an_answer_in_parts_is_learned_as_its_text(template: str, pieces: Callable[..., Any]) -> None:
    answer = {"role": "assistant", "content": [{"type": "text", "text": "fo"}, {"type": "text", "text": "ur"}]}
    assert pieces(template, [USER, answer]) == pieces(template, [USER, {**answer, "content": "four"}])


CALLS = [
    [{"type": "function", "function": {"name": "add", "arguments": {"a": 2, "b": 2}}}],
    [{"type": "function", "function": {"name": "say", "arguments": {"text": "hi", "to": {"who": "you"}}}}],
]


@pytest.mark.parametrize("source", ["from_list", "parquet", "jsonl"])
def test_calls_of_tools_have_the_arguments_that_were_written(
    source: str, tmp_path: Path, make_tokenizer: Callable[..., Any]
) -> None:
    """Arrow gives every call all arguments of all calls, null where it has none."""
    records = [{"messages": [USER, {"role": "assistant", "content": "", "tool_calls": calls}]} for calls in CALLS]
    data = Dataset.from_list(records)
    if source == "parquet":
        data.to_parquet(tmp_path / "train.parquet")
    else:
        (tmp_path / "train.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    if source != "from_list":
        data = load_dataset("json" if source == "jsonl" else source, data_files=str(tmp_path / f"train.{source}"))[
            "train"
        ]
    tokenizer = make_tokenizer(QWEN3)
    tokenizer.add_tokens(CONTROL)
    for row, calls in zip(tokenise(data, tokenizer), CALLS, strict=True):
        learned = tokenizer.decode([token for token in row["labels"] if token != -100])
        written = json.loads(learned.split("<tool_call>")[1].split("</tool_call>")[0])
        function = calls[0]["function"]
        assert written == {"name": function["name"], "arguments": function["arguments"]}


def test_arguments_as_text_are_learned_as_they_are(pieces: Callable[..., Any]) -> None:
    arguments = '{"a": null, "b": 2}'
    call = {"type": "function", "function": {"name": "add", "arguments": arguments}}
    found = pieces(QWEN3, [USER, {"role": "assistant", "content": None, "tool_calls": [call]}])
    assert arguments in "".join(text for text, learned in found if learned)


def test_records_that_cannot_be_followed_are_named(make_tokenizer: Callable[..., Any]) -> None:
    tokenizer = make_tokenizer(R1)
    tokenizer.add_tokens(CONTROL)
    data = Dataset.from_list([{"messages": [USER, INLINE]}, {"messages": [USER, PLAIN]}])
    with pytest.raises(
        DataError, match=r"1 of 2 rows .*\(row_id 1\).* Row 1: the prompt of the chat template begins a"
    ):
        tokenise(data, tokenizer)
