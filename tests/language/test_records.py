"""Records as data sets have them: OpenAI's chats with tools, ShareGPT, Alpaca; by every reader.

Oracle: the same conversation as plain messages, and templates' text spelled out.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, load_dataset

from limbeck.errors import DataError
from limbeck.transfer.splits import load_splits
from limbeck.transfer.text.conversations import alpaca_prompt
from limbeck.transfer.text.examples import tokenise

from .conftest import MARKED, UNMARKED

Rows = Callable[..., list[dict[str, Any]]]

# As Hermes and Qwen 2.5 have it: tools in the system prompt, arguments by tojson, results of tools as the user's.
TOOLS = """{%- if tools %}{{- '<|im_start|>system\\n<tools>' }}
{%- for tool in tools %}{{- '\\n' + (tool | tojson) }}{%- endfor %}{{- '\\n</tools><|im_end|>\\n' }}{%- endif %}
{%- for m in messages %}{%- if m.role == 'tool' %}
{{- '<|im_start|>user\\n<tool_response>\\n' + m.content + '\\n</tool_response><|im_end|>\\n' }}
{%- else %}{{- '<|im_start|>' + m.role + '\\n' + m.content }}
{%- for call in m.tool_calls or [] %}{{- '<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' }}
{{- call.function.arguments | tojson }}{{- '}\\n</tool_call>' }}{%- endfor %}{{- '<|im_end|>\\n' }}{%- endif %}
{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""
TOOLS_MARKED = TOOLS.replace(
    "{%- else %}{{- '<|im_start|>' + m.role + '\\n' + m.content }}",
    "{%- elif m.role != 'assistant' %}{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}"
    "{%- else %}{{- '<|im_start|>assistant\\n' }}{%- generation %}{{- m.content }}",
).replace(
    "{{- '<|im_end|>\\n' }}{%- endif %}\n{%- endfor %}",
    "{{- '<|im_end|>\\n' }}{%- endgeneration %}{%- endif %}\n{%- endfor %}",
)
# As DeepSeek has it: arguments joined as strings.
JOINED = TOOLS.replace("{{- call.function.arguments | tojson }}", "{{- call.function.arguments + '' }}")
NO_TOOLS = (
    "{%- for m in messages %}{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)

USER = {"role": "user", "content": "two and two?"}
ANSWER = {"role": "assistant", "content": "four 🙂"}
PLAIN = [{"role": "system", "content": "the sum"}, USER, ANSWER]


def tool(name: str, **properties: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties}
    return {"type": "function", "function": {"name": name, "description": f"does {name}", "parameters": parameters}}


def called(name: str, arguments: Any) -> list[dict[str, Any]]:
    call = {"id": "1", "type": "function", "function": {"name": name, "arguments": arguments}}
    said = [USER, {"role": "assistant", "content": None, "tool_calls": [call]}]
    return [*said, {"role": "tool", "content": "4", "tool_call_id": "1"}, ANSWER]


CALLS = [
    {"messages": called("add", {"b": 2, "a": 1}), "tools": [tool("add", a={"type": "number"}, b={"type": "number"})]},
    {
        "messages": called("say", {"text": 'a "b"', "to": {"who": ["you"]}}),
        "tools": [tool("say", text={"type": "string"})],
    },
    {"messages": called("stop", {}), "tools": [tool("stop")]},
    {"messages": PLAIN, "tools": []},
]
WRITTEN = ['{"name": "add", "arguments": {"b": 2, "a": 1}}', None, '{"name": "stop", "arguments": {}}']


@pytest.fixture
def chat(make_tokenizer: Callable[..., Any]) -> Callable[[str | None], Any]:
    def made(template: str | None) -> Any:
        tokenizer = make_tokenizer(template)
        tokenizer.add_tokens(["<|im_start|>", "<|im_end|>"])
        return tokenizer

    return made


def learned(row: dict[str, Any], tokenizer: Any) -> str:
    return str(tokenizer.decode([token for token in row["labels"] if token != -100]))


def read(records: Any, tokenizer: Any, **options: Any) -> list[dict[str, Any]]:
    data = records if isinstance(records, Dataset) else Dataset.from_list(records)
    rows: list[dict[str, Any]] = tokenise(data, tokenizer, **options).to_list()
    return rows


SHAREGPT = [
    {"from": "system", "value": "the sum"},
    {"from": "human", "value": "two and two?"},
    {"from": "gpt", "value": "four 🙂"},
]


@pytest.mark.parametrize(
    "record",
    [
        {"conversations": SHAREGPT},
        {"conversations": SHAREGPT[1:], "system": "the sum"},
        {"conversations": json.dumps(SHAREGPT)},
        {"conversations": PLAIN},
        {"messages": SHAREGPT},
        {"messages": json.dumps(PLAIN), "tools": None},
        {
            "conversations": [
                {**SHAREGPT[0], "weight": None},
                {**SHAREGPT[1], "weight": 0},
                {**SHAREGPT[2], "weight": 1},
            ]
        },
        {"instruction": "two and two?", "input": "", "output": "four 🙂", "system": "the sum"},
    ],
)
@pytest.mark.parametrize("template", [MARKED, UNMARKED, NO_TOOLS])
def test_the_same_conversation_in_every_format(record: dict[str, Any], template: str, chat: Any) -> None:
    tokenizer = chat(template)
    assert read([record], tokenizer) == read([{"messages": PLAIN}], tokenizer)


def test_contents_of_parts_beside_contents_of_text(chat: Any, tmp_path: Path) -> None:
    tokenizer = chat(NO_TOOLS)
    parts = {"role": "user", "content": [{"type": "text", "text": "two "}, {"type": "text", "text": "and two?"}]}
    records = [{"messages": [PLAIN[0], user, ANSWER]} for user in (USER, parts)]
    first, second = read(_from("jsonl", records, tmp_path), tokenizer)
    assert first["input_ids"] == second["input_ids"]
    assert first["labels"] == second["labels"]


@pytest.mark.parametrize(("name", "role"), [("user", "user"), ("chatgpt", "assistant"), ("observation", "tool")])
def test_other_names_of_speakers(name: str, role: str, chat: Any) -> None:
    tokenizer = chat(NO_TOOLS)
    turns = [*SHAREGPT, {"from": name, "value": "so"}, SHAREGPT[2]]
    same = [*PLAIN, {"role": role, "content": "so"}, ANSWER]
    assert read([{"conversations": turns}], tokenizer) == read([{"messages": same}], tokenizer)


def test_a_function_call_of_sharegpt_is_a_call_of_a_tool(chat: Any) -> None:
    tokenizer = chat(TOOLS)
    call = {"from": "function_call", "value": '{"name": "add", "arguments": {"b": 2, "a": 1}}'}
    turns = [SHAREGPT[1], call, {"from": "observation", "value": "4"}, SHAREGPT[2]]
    bare = json.dumps([CALLS[0]["tools"][0]["function"]])
    assert read([{"conversations": turns, "tools": bare}], tokenizer) == read(CALLS[:1], tokenizer)


def test_an_alpaca_record_with_input_and_history(chat: Any) -> None:
    tokenizer = chat(UNMARKED)
    record = {"instruction": "add", "input": "2, 2", "output": "four", "history": [["and?", "so"]]}
    turns = [("user", "and?"), ("assistant", "so"), ("user", "add\n\n2, 2"), ("assistant", "four")]
    same = [{"role": role, "content": content} for role, content in turns]
    assert read([record], tokenizer) == read([{"messages": same}], tokenizer)


def test_without_a_chat_template_the_prompt_of_alpaca_is_read(chat: Any) -> None:
    tokenizer = chat(None)
    records = [
        {"instruction": "add", "input": "2, 2", "output": "four"},
        {"instruction": "say", "input": None, "output": "a"},
    ]
    pairs = [dict(zip(("prompt", "completion"), alpaca_prompt(record), strict=True)) for record in records]
    assert read(records, tokenizer) == read(pairs, tokenizer)
    assert pairs[0]["prompt"] == (
        "Below is an instruction that describes a task, paired with an input that provides further context. Write a "
        "response that appropriately completes the request.\n\n### Instruction:\nadd\n\n### Input:\n2, 2"
        "\n\n### Response:\n"
    )
    assert pairs[1]["prompt"] == (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nsay\n\n### Response:\n"
    )


def _from(source: str, records: list[dict[str, Any]], folder: Path) -> Dataset:
    if source == "from_list":
        return Dataset.from_list(records)
    file = folder / f"train.{source}"
    if source == "parquet":
        Dataset.from_list(records).to_parquet(file)
    elif source == "json":
        file.write_text(json.dumps(records))
    else:
        file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return load_splits(str(file))["train"]


@pytest.mark.parametrize("source", ["from_list", "parquet", "jsonl", "json"])
@pytest.mark.parametrize("template", [TOOLS, TOOLS_MARKED, JOINED], ids=["grown", "marked", "joined"])
def test_calls_and_tools_are_those_of_their_record(source: str, template: str, chat: Any, tmp_path: Path) -> None:
    """Arrow gives every call the arguments of all calls, and every tool the properties of all tools."""
    tokenizer = chat(template)
    for row, record in zip(read(_from(source, CALLS, tmp_path), tokenizer), CALLS, strict=True):
        text = tokenizer.decode(row["input_ids"])
        calls = [call["function"] for m in record["messages"] for call in m.get("tool_calls", [])]
        found = [json.loads(part.split("</tool_call>")[0]) for part in learned(row, tokenizer).split("<tool_call>")[1:]]
        assert found == [{"name": call["name"], "arguments": call["arguments"]} for call in calls]
        system = text.split("</tools>")[0].split("<tools>")[1:]
        assert [json.loads(line) for part in system for line in part.split("\n") if line] == record["tools"]
        assert learned(row, tokenizer).rstrip().endswith("four 🙂<|im_end|>")
        assert "None" not in text


def test_arguments_of_json_files_are_as_they_were_written(chat: Any, tmp_path: Path) -> None:
    tokenizer = chat(TOOLS)
    mixed = [{"messages": called("add", {"b": None, "a": value})} for value in (1, "one")]
    texts = [learned(row, tokenizer) for row in read(_from("jsonl", mixed, tmp_path), tokenizer)]
    assert '{"name": "add", "arguments": {"b": null, "a": 1}}' in texts[0]
    assert '{"name": "add", "arguments": {"b": null, "a": "one"}}' in texts[1]


@pytest.mark.parametrize("arguments", [{"b": 2, "a": 1}, '{"b": 2, "a": 1}'], ids=["object", "text"])
@pytest.mark.parametrize("template", [TOOLS, TOOLS_MARKED, JOINED], ids=["grown", "marked", "joined"])
def test_arguments_are_written_as_json_whatever_the_template_expects(arguments: Any, template: str, chat: Any) -> None:
    tokenizer = chat(template)
    (row,) = read([{"messages": called("add", arguments)}], tokenizer)
    assert '<tool_call>\n{"name": "add", "arguments": {"b": 2, "a": 1}}\n</tool_call><|im_end|>' in learned(
        row, tokenizer
    )


def test_empty_arguments_as_text_are_an_object(chat: Any) -> None:
    tokenizer = chat(TOOLS)
    assert read([{"messages": called("stop", "{}")}], tokenizer) == read([{"messages": called("stop", {})}], tokenizer)


@pytest.mark.parametrize("ids", [("1", "2"), ("2", "1"), (None, None)])
def test_results_of_tools_have_the_name_of_their_call_where_a_template_asks_for_it(ids: Any, chat: Any) -> None:
    """As in Hermes 2 Pro, which refuses them without; OpenAI's chats have the id of the call alone."""
    asks = "{%- if m.name is not defined %}{{- raise_exception('no name') }}{%- endif %}{{- m.name + ': ' }}"
    calls = [
        {"id": i, "function": {"name": name, "arguments": {}}} for i, name in zip("12", ("add", "say"), strict=True)
    ]
    results = [{"role": "tool", "content": f"of {i}", "tool_call_id": i} for i in ids]
    turns = [USER, {"role": "assistant", "tool_calls": calls}, *results, ANSWER]
    named = chat(TOOLS.replace("<tool_response>\\n' +", "<tool_response>\\n' }}" + asks + "{{-"))
    text = named.decode(read([{"messages": turns}], named)[0]["input_ids"])
    found = [part.split("\n")[1] for part in text.split("<tool_response>")[1:]]
    expected = {"1": "add", "2": "say"}
    assert found == [f"{expected[i or str(k + 1)]}: of {i}" for k, i in enumerate(ids)]
    plain = chat(TOOLS)
    assert "add:" not in plain.decode(read([{"messages": turns}], plain)[0]["input_ids"])


@pytest.mark.parametrize("form", ["json", "functions", "legacy"])
def test_calls_and_tools_in_their_other_forms(form: str, chat: Any) -> None:
    tokenizer = chat(TOOLS)
    record = json.loads(json.dumps(CALLS[0]))
    if form == "json":
        record["messages"][1]["tool_calls"] = json.dumps(record["messages"][1]["tool_calls"])
        record["tools"] = json.dumps(record["tools"])
    elif form == "functions":
        record["functions"] = [tool["function"] for tool in record.pop("tools")]
    else:
        (call,) = record["messages"][1].pop("tool_calls")
        record["messages"][1]["function_call"] = call["function"]
        record["messages"][2]["role"] = "function"
    assert read([record], tokenizer) == read(CALLS[:1], tokenizer)


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"messages": CALLS[0]["messages"]}, r"does not write the call of a tool \('add'\) of message 1"),
        ({"messages": PLAIN, "tools": [tool("add")]}, "it has tools, but the chat template does not write any of them"),
        (
            {"messages": [USER, {"role": "tool", "content": "4"}, ANSWER], "tools": json.dumps([tool("add")])},
            "it has tools, but the chat template does not write any of them; remove `tools`",
        ),
    ],
)
def test_what_a_template_without_tools_cannot_write_is_refused_by_record(
    record: dict[str, Any], said: str, chat: Any
) -> None:
    with pytest.raises(DataError, match=r"1 of 2 rows .*\(row_id 1\).* Row 1: .*" + said):
        read(Dataset.from_list([{"messages": PLAIN, "tools": None}, {"tools": None, **record}]), chat(NO_TOOLS))


def test_a_turn_of_which_nothing_is_written_is_refused(chat: Any) -> None:
    silent = NO_TOOLS.replace("m.content", "('' if m.role == 'assistant' else m.content)")
    with pytest.raises(
        DataError, match=r"Row 0: the chat template does not write the content \('four 🙂'\) of message 2"
    ):
        read([{"messages": PLAIN}], chat(silent))


def test_a_message_that_a_template_drops_is_refused(chat: Any) -> None:
    dropping = NO_TOOLS.replace("for m in messages", "for m in messages if m.role != 'system'")
    with pytest.raises(DataError, match=r"does not write the content \('the sum'\) of message 0, of the system"):
        read([{"messages": PLAIN}], chat(dropping))


TURN = {"from": "human", "value": "x"}


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"conversations": [TURN, {"from": "bing", "value": "y"}]}, "message 1 is from 'bing', which is none of human"),
        ({"conversations": [{"from": "human", "valeu": "x"}]}, "message 0, .* has no content, only the keys valeu"),
        ({"conversations": [TURN, {"role": "assistant", "content": "y"}]}, r"message 1 mixes {role, content} with"),
        ({"conversations": [{"from": "human", "content": "x"}]}, r"message 0 mixes .* \(the keys from, content\)"),
        ({"conversations": [{"speaker": "human", "text": "x"}]}, "must name its speaker, .* has the keys speaker"),
        ({"conversations": SHAREGPT, "system": "another"}, "it has two system prompts"),
        ({"conversations": []}, "its conversation is empty"),
        ({"conversations": "[]"}, "its conversation is empty"),
        ({"conversations": '{"from": "human"}'}, "must be a list of messages, but is {'from': 'human'}"),
        ({"messages": [{"role": "narrator", "content": "x"}, ANSWER]}, "the role 'narrator', which is none of system"),
        ({"messages": [USER, {**ANSWER, "reasoning_contnt": "x"}]}, "'reasoning_contnt', .* mean 'reasoning_content'"),
        ({"messages": [USER, {"role": "assistant", "contents": "x"}]}, "is empty: .* calls no tool, only contents"),
        ({"messages": [{"role": "user", "content": None}, ANSWER]}, "message 0, of the user, has no content"),
        ({"messages": [USER, {"role": "assistant", "content": None}]}, "message 1, of the assistant, is empty"),
        ({"messages": [{"role": "user", "content": 7}]}, "content of message 0 must be text or .* parts, but is 7"),
        ({"messages": [USER, {"role": "assistant", "content": " "}]}, "writes nothing of message 1, of the assistant"),
        ({"messages": ["x", "y"]}, r"message 0 must be {role, content} or {from, value}, but is 'x'"),
        ({"messages": [USER]}, "no message has the role assistant"),
        ({"messages": [USER, {**ANSWER, "weight": 0}]}, "message 1, of the assistant, has the weight 0"),
        ({"messages": [USER, {**ANSWER, "tool_calls": "add"}]}, "tool_calls of message 1 must be JSON, but is 'add'"),
        ({"messages": [USER, {**ANSWER, "tool_calls": [{"id": "1"}]}]}, "a call of a tool in message 1 must be"),
        ({"messages": PLAIN, "tools": [{"type": "function"}]}, "tool 0 must define a function with a name"),
        ({"messages": PLAIN, "tools": "add"}, "`tools` must be JSON, but is 'add'"),
        ({"instruction": "", "output": "x"}, "its `instruction` is empty"),
        ({"instruction": "x", "output": ""}, "its `output` is empty"),
        ({"instruction": "x", "output": "y", "history": ["q"]}, "`history` must hold pairs"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_by_record(record: dict[str, Any], said: str, chat: Any) -> None:
    with pytest.raises(DataError, match=rf"1 of 1 rows .*\(row_id 0\).* Row 0: .*{said}"):
        read([record], chat(TOOLS))


@pytest.mark.parametrize(
    ("record", "said"),
    [
        (
            {"messages": PLAIN, "conversations": SHAREGPT},
            "those of 2: `messages`, or `conversations`; remove the columns",
        ),
        ({"instruction": "x", "output": "y", "text": "z"}, "those of 2: `text`, or `instruction` and `output`"),
        ({"conversation": SHAREGPT}, "fits none of these. Did you mean 'conversations' for 'conversation'"),
        ({"instruction": "x", "ouput": "y"}, "Did you mean 'output' for 'ouput'"),
        ({"instruction": 3, "output": "y"}, "`instruction` must hold strings, but has the type int64"),
        ({"instruction": "x", "output": "y", "input": 3}, "`input` must hold strings, but has the type int64"),
        ({"messages": PLAIN, "system": 3}, "`system` must hold strings, but has the type int64"),
    ],
)
def test_columns_of_no_format_or_of_several_are_refused(record: dict[str, Any], said: str, chat: Any) -> None:
    with pytest.raises(DataError, match=said):
        read([record], chat(TOOLS))


def test_formats_that_alternate_within_a_file_are_refused(tmp_path: Path, chat: Any) -> None:
    records: list[dict[str, Any]] = [{"messages": PLAIN}, {"conversations": SHAREGPT}]
    with pytest.raises(DataError, match="those of 2: `messages`, or `conversations`"):
        read(_from("jsonl", records, tmp_path), chat(TOOLS))


def test_the_real_instructions(chat: Any) -> None:
    import os

    folder = os.environ.get("LIMBECK_DATA")
    if folder is None:
        pytest.skip("LIMBECK_DATA is not set")
    data = load_dataset("json", data_files=f"{folder}/instructions/instructions.json", split="train").select(range(100))
    tokenizer = chat(UNMARKED)
    for row, record in zip(tokenise(data, tokenizer), data, strict=True):
        assert learned(row, tokenizer) == record["output"] + "<|end|>"
