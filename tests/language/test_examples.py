"""Oracle: rows joined by hand from what the tokenizer makes of each piece by itself."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
from datasets import Dataset, load_dataset
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from limbeck.errors import ConfigError, DataError
from limbeck.transfer.text.examples import tokenise

from .conftest import MARKED, UNMARKED

PAD, BEGIN, END = 0, 1, 2
NO = -100
PAIRS = [
    {"prompt": "what is the sum of two and two", "completion": " the sum is four"},
    {"prompt": "the", "completion": "re is"},
]


def ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids)


def rows(records: list[dict[str, Any]], tokenizer: Any, **options: Any) -> list[dict[str, Any]]:
    return tokenise(Dataset.from_list(records), tokenizer, **options).to_list()


def row(row_id: int, unlearned: list[int], learned: list[int]) -> dict[str, Any]:
    labels = [NO] * len(unlearned) + learned
    return {"row_id": row_id, "input_ids": unlearned + learned, "labels": labels, "length": len(labels)}


def targets(row: dict[str, Any], prefix: str = "") -> list[int]:
    return [token for token in row[prefix + "labels"] if token != NO]


@pytest.fixture
def warned(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """What was warned of since the last call."""
    caplog.set_level(logging.WARNING, logger="limbeck")

    def since() -> list[str]:
        said = [record.getMessage() for record in caplog.records if record.name == "limbeck"]
        caplog.clear()
        return said

    return since


def test_a_text_is_learned_from_its_second_token_to_its_end(make_tokenizer: Callable[..., Any]) -> None:
    tokenizer = make_tokenizer()
    first, *others = ids(tokenizer, "the other mother")
    assert len(others) >= 2
    records = [{"text": "the other mother"}, {"text": "the other mother<|end|>"}]
    assert rows(records, tokenizer) == [row(0, [first], [*others, END]), row(1, [first], [*others, END])]


def test_a_text_after_a_begin_token_is_learned_whole(make_tokenizer: Callable[..., Any]) -> None:
    tokenizer = make_tokenizer(begin=True)
    text = ids(tokenizer, "two and two")
    records = [{"text": "two and two"}, {"text": "<|begin|>two and two"}]
    assert rows(records, tokenizer) == [row(0, [BEGIN], [*text, END]), row(1, [BEGIN], [*text, END])]


@pytest.mark.parametrize("begin", [False, True])
@pytest.mark.parametrize("pad", ["<|pad|>", "<|end|>", None], ids=["pad", "pad is end", "no pad"])
def test_a_completion_is_learned_with_its_end_and_a_prompt_is_not(
    begin: bool, pad: str | None, make_tokenizer: Callable[..., Any]
) -> None:
    tokenizer = make_tokenizer(begin=begin, pad_token=pad)
    opening = [BEGIN] if begin else []
    there, is_ = ids(tokenizer, "the") + ids(tokenizer, "re is"), ids(tokenizer, "there is")
    assert there != is_  # together they are other tokens than what a model is given and goes on with
    assert rows(PAIRS, tokenizer) == [
        row(
            place,
            opening + ids(tokenizer, record["prompt"]),
            [*ids(tokenizer, record["completion"]), END],
        )
        for place, record in enumerate(PAIRS)
    ]


def test_ends_and_begins_that_are_written_are_not_doubled(make_tokenizer: Callable[..., Any]) -> None:
    tokenizer = make_tokenizer(begin=True)
    records = [{"prompt": "<|begin|>two", "completion": " and<|end|>"}, {"prompt": "", "completion": "two"}]
    assert rows(records, tokenizer) == [
        row(0, [BEGIN, *ids(tokenizer, "two")], [*ids(tokenizer, " and"), END]),
        row(1, [BEGIN], [*ids(tokenizer, "two"), END]),
    ]


@pytest.mark.parametrize("template", [MARKED, UNMARKED], ids=["marked", "unmarked"])
@pytest.mark.parametrize("assistant", ["all", "last"])
def test_a_chat_is_transformers_tokens_and_the_assistants_are_learned(
    template: str, assistant: str, make_tokenizer: Callable[..., Any]
) -> None:
    tokenizer = make_tokenizer(template, begin=True)  # a template writes its own begin, so there is none here
    chat = [
        {"role": "user", "content": "two and two"},
        {"role": "assistant", "content": "four"},
        {"role": "user", "content": "what is the sum"},
        {"role": "assistant", "content": "the sum is four"},
    ]
    (made,) = rows([{"messages": chat}], tokenizer, assistant=assistant)
    marked = make_tokenizer(MARKED).apply_chat_template(chat, return_dict=True, return_assistant_tokens_mask=True)
    turns = {"all": [*ids(tokenizer, "four"), END], "last": []}[assistant]
    assert made["input_ids"] == marked["input_ids"]
    assert targets(made) == [*turns, *ids(tokenizer, "the sum is four"), END]
    if assistant == "all":
        mask = marked["assistant_masks"]
        assert made["labels"] == [token if said else NO for token, said in zip(marked["input_ids"], mask, strict=True)]


def test_the_teacher_reads_another_prompt_and_speaks_of_the_same_tokens(make_tokenizer: Callable[..., Any]) -> None:
    tokenizer = make_tokenizer()
    records = [{**PAIRS[1], "teacher_prompt": "the sum of two and two is four, and o", "other": 3}]
    (made,) = rows(records, tokenizer)
    teacher = row(0, ids(tokenizer, records[0]["teacher_prompt"]), [*ids(tokenizer, "re is"), END])
    assert made == {
        **row(0, ids(tokenizer, "the"), [*ids(tokenizer, "re is"), END]),
        "teacher_input_ids": teacher["input_ids"],
        "teacher_labels": teacher["labels"],
    }
    assert len(made["teacher_input_ids"]) > len(made["input_ids"])


@pytest.mark.parametrize("empty", ["prompt", "teacher_prompt"])
def test_the_token_that_one_side_begins_with_is_learned_by_neither(
    empty: str, make_tokenizer: Callable[..., Any]
) -> None:
    tokenizer = make_tokenizer()
    record = {"prompt": "what", "teacher_prompt": "what", "completion": "two and two", empty: ""}
    (made,) = rows([record], tokenizer)
    first, *others = ids(tokenizer, "two and two")
    assert targets(made) == targets(made, "teacher_") == [*others, END]
    side = {"prompt": "", "teacher_prompt": "teacher_"}[empty]
    assert made[side + "input_ids"] == [first, *others, END]


def test_the_teacher_has_messages_of_its_own(make_tokenizer: Callable[..., Any]) -> None:
    tokenizer = make_tokenizer(UNMARKED)
    answer = {"role": "assistant", "content": "four"}
    own = [{"role": "user", "content": "two and two"}, answer]
    theirs = [{"role": "system", "content": "the sum of two and two is four"}, *own]
    (made,) = rows([{"messages": own, "teacher_messages": theirs}], tokenizer)
    for prefix, chat in (("", own), ("teacher_", theirs)):
        assert made[prefix + "input_ids"] == ids(tokenizer, tokenizer.apply_chat_template(chat, tokenize=False))
        assert targets(made, prefix) == [*ids(tokenizer, "four"), END]


def test_sides_that_learn_different_tokens_are_refused(make_tokenizer: Callable[..., Any]) -> None:
    asked = {"role": "user", "content": "two and two"}
    chats = [[asked, {"role": "assistant", "content": answer}] for answer in ("the sum is four", "the sum is two")]
    records = [
        {"messages": chats[0], "teacher_messages": chats[0]},
        {"messages": chats[0], "teacher_messages": chats[1]},
    ]
    said = r"(?s)1 of 2 rows .*\(row_id 1\).*student and teacher must learn the same tokens"
    with pytest.raises(DataError, match=said) as error:
        rows(records, make_tokenizer(UNMARKED))
    assert "four" in str(error.value).split("after `messages`")[0]
    assert "two" in str(error.value).split("after `messages`")[1]


# Truncation


def test_rows_are_cut_at_their_end_and_what_is_lost_is_counted(
    make_tokenizer: Callable[..., Any], warned: Callable[[], list[str]]
) -> None:
    tokenizer = make_tokenizer()
    whole = rows(PAIRS, tokenizer)
    assert warned() == []
    prompt = ids(tokenizer, PAIRS[0]["prompt"])
    limit = len(prompt) + 1
    assert whole[1]["length"] < limit
    cut = rows(PAIRS, tokenizer, max_length=limit)
    assert cut == [row(0, prompt, ids(tokenizer, PAIRS[0]["completion"])[:1]), whole[1]]
    lost, learned = whole[0]["length"] - limit, sum(len(targets(made)) for made in whole)
    assert lost >= 2
    assert warned() == [
        f"1 of 2 rows are cut at their end to {limit} tokens: {lost} tokens are lost, {lost} of {learned} learned ones."
    ]
    assert rows(PAIRS, tokenizer, max_length=whole[0]["length"]) == whole
    assert warned() == []


def test_a_prompt_as_long_as_a_row_may_be_is_dropped_and_said(
    make_tokenizer: Callable[..., Any], warned: Callable[[], list[str]]
) -> None:
    tokenizer = make_tokenizer()
    limit = len(ids(tokenizer, PAIRS[0]["prompt"]))
    left = tokenise(Dataset.from_list(PAIRS), tokenizer, max_length=limit)
    assert left["row_id"][:] == [1]
    assert left[0] == rows(PAIRS, tokenizer)[1]
    assert warned() == [f"1 of 2 rows are dropped: their prompts leave no learned token within {limit} tokens."]
    with pytest.raises(DataError, match="None of 1 rows has a learned token within 2 tokens"):
        rows(PAIRS[:1], tokenizer, max_length=2)


@pytest.mark.parametrize("short", ["student", "teacher"])
def test_what_one_side_loses_the_other_loses_too(
    short: str, make_tokenizer: Callable[..., Any], warned: Callable[[], list[str]]
) -> None:
    tokenizer = make_tokenizer()
    record = {**PAIRS[0], "teacher_prompt": "two and two are four. " + PAIRS[0]["prompt"]}
    prompts = {"student": ids(tokenizer, record["prompt"]), "teacher": ids(tokenizer, record["teacher_prompt"])}
    limit = len(prompts[short]) + 2
    limits = {"max_length": limit} if short == "student" else {"teacher_max_length": limit}
    (made,) = rows([record], tokenizer, **limits)
    kept = ids(tokenizer, record["completion"])[:2]
    assert made["input_ids"] == prompts["student"] + kept
    assert made["teacher_input_ids"] == prompts["teacher"] + kept
    assert targets(made) == targets(made, "teacher_") == kept
    lost = len(ids(tokenizer, record["completion"])) + 1 - 2
    (said,) = warned()
    assert said.startswith(
        f"1 of 1 rows are cut at their end to {limit} tokens{'' if short == 'student' else ' of the teacher'}: "
    )
    assert said.endswith(f"{2 * lost} tokens are lost, {lost} of {lost + 2} learned ones.")


@pytest.mark.parametrize(("own", "given", "length"), [(6, None, 6), (6, 5, 5), (6, 7, 6), (int(1e30), 5, 5)])
def test_the_smaller_limit_holds(own: int, given: int | None, length: int, make_tokenizer: Callable[..., Any]) -> None:
    tokenizer = make_tokenizer(model_max_length=own)
    (made,) = rows([{"text": PAIRS[0]["prompt"]}], tokenizer, max_length=given)
    assert made["length"] == length
    assert made["input_ids"] == ids(tokenizer, PAIRS[0]["prompt"])[:length]


def test_a_teacher_may_read_more_than_the_tokenizer_says(make_tokenizer: Callable[..., Any]) -> None:
    record = {**PAIRS[1], "teacher_prompt": PAIRS[0]["prompt"]}
    longest = rows([record], make_tokenizer())[0]
    tokenizer = make_tokenizer(model_max_length=longest["length"])
    assert rows([record], tokenizer, teacher_max_length=99) == [longest]
    with pytest.raises(DataError, match=rf"within {longest['length']} tokens and {longest['length']} tokens of the"):
        rows([record], tokenizer)


# What cannot be learned from


@pytest.mark.parametrize(
    ("records", "said"),
    [
        ([{"question": "q", "answer": "a"}], r"\['question', 'answer'\] fits none of these"),
        ([{"prompt": "p"}], r"\['prompt'\] fits none of these"),
        ([{"text": "t", "prompt": "p", "completion": "c"}], "those of 2: `text`, or `prompt` and `completion`;"),
        ([{"text": "t", "teacher_prompt": "p"}], "text has nothing that the teacher could read in its place"),
        ([{**PAIRS[0], "teacher_messages": "p"}], r"has \['teacher_messages'\]"),
        ([{"prompt": 3, "completion": "c"}], "`prompt` must hold strings, but has the type int64"),
        ([{"messages": 3}], "`messages` must hold lists of {role, content} or .* JSON, but has the type int64"),
        ([{"messages": "hello"}], "Row 0: a conversation given as text must be JSON, but is 'hello'"),
        ([{"text": "a"}, {"text": ""}, {"text": None}], r"2 of 3 rows .*\(row_id 1, 2\).* Row 1: its `text` is empty"),
        ([{**PAIRS[0], "completion": ""}, PAIRS[1]], r"1 of 2 rows .*\(row_id 0\).*: its `completion` is empty"),
        ([PAIRS[0], {**PAIRS[0], "completion": None}], "Row 1: it has no `completion`"),
        ([PAIRS[0], {**PAIRS[0], "prompt": None}], "Row 1: it has no `prompt`"),
        (
            [{**PAIRS[0], "teacher_prompt": "p"}, {**PAIRS[0], "teacher_prompt": None}],
            "Row 1: it has no `teacher_prompt`",
        ),
        ([{"messages": [{"role": "user", "content": "x"}]}] * 12, r"12 of 12 .*8, 9, \.\.\.\).*Row 0: no message has"),
    ],
)
def test_records_that_teach_nothing_are_refused(
    records: list[dict[str, Any]], said: str, make_tokenizer: Callable[..., Any]
) -> None:
    with pytest.raises(DataError, match=said):
        rows(records, make_tokenizer(MARKED))


def test_what_is_missing_altogether_is_refused(make_tokenizer: Callable[..., Any]) -> None:
    tokenizer = make_tokenizer()
    with pytest.raises(DataError, match="`messages` need a chat template, but the tokenizer has none"):
        rows([{"messages": [{"role": "assistant", "content": "x"}]}], tokenizer)
    with pytest.raises(DataError, match=r"set tokenizer\.eos_token"):
        rows(PAIRS, make_tokenizer(eos_token=None))
    with pytest.raises(DataError, match=r"must be a datasets\.Dataset, but are a list"):
        tokenise(PAIRS, tokenizer)
    with pytest.raises(DataError, match="there is none"):
        tokenise(Dataset.from_list(PAIRS).select([]), tokenizer)
    with pytest.raises(ConfigError, match=r"max_length must be at least 2, .* but is 1"):
        rows(PAIRS, tokenizer, max_length=1)
    with pytest.raises(ConfigError, match='"all" or "last", but is \'first\''):
        rows(PAIRS, tokenizer, assistant="first")


# The mapping: ids, processes, its cache, its bar


def test_row_ids_are_the_records_own_or_their_places(make_tokenizer: Callable[..., Any]) -> None:
    tokenizer = make_tokenizer()
    assert [made["row_id"] for made in rows(PAIRS, tokenizer)] == [0, 1]
    numbered = [{**record, "row_id": 50 - place} for place, record in enumerate(PAIRS)]
    assert [made["row_id"] for made in rows(numbered, tokenizer)] == [50, 49]


def test_processes_change_nothing(make_tokenizer: Callable[..., Any]) -> None:
    tokenizer = make_tokenizer()
    records = PAIRS * 3
    assert rows(records, tokenizer, num_proc=2) == rows(records, tokenizer)


def test_the_second_call_finds_the_first_ones_files_and_warns_again(
    tmp_path: Path, make_tokenizer: Callable[..., Any], warned: Callable[[], list[str]]
) -> None:
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(record) + "\n" for record in PAIRS))

    def made(**options: Any) -> tuple[list[dict[str, Any]], dict[str, int]]:
        records = load_dataset("json", data_files=str(tmp_path / "pairs.jsonl"), split="train")
        found = tokenise(records, make_tokenizer(), **{"max_length": 9, **options})
        files = [Path(file["filename"]) for file in found.cache_files]
        return found.to_list(), {str(file): file.stat().st_mtime_ns for file in files}

    first, files = made()
    said = warned()
    assert len(files) == 1
    assert len(said) == 1
    assert made() == (first, files)
    assert warned() == said
    assert made(max_length=99)[1].keys().isdisjoint(files)


def test_bars_are_shown_where_asked_and_left_as_they_were(
    capfd: pytest.CaptureFixture[str], make_tokenizer: Callable[..., Any]
) -> None:
    before = datasets.are_progress_bars_disabled()
    datasets.enable_progress_bars()
    try:
        rows(PAIRS, make_tokenizer())
        assert "Tokenising" not in capfd.readouterr().err
        assert not datasets.are_progress_bars_disabled()
        rows(PAIRS, make_tokenizer(), progress=True)
        assert "Tokenising" in capfd.readouterr().err
    finally:
        if before:
            datasets.disable_progress_bars()


# A tokenizer that puts a blank before every text


def test_a_completion_goes_on_without_a_blank_of_its_own(data: Callable[[str], Path]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(data("stories260k"))
    (made,) = rows([{"prompt": "Once upon", "completion": " a time"}], tokenizer)
    together = tokenizer("Once upon a time").input_ids
    assert len(together) == 5  # <s> Once upon a time
    assert made == row(0, together[:3], [*together[3:], tokenizer.eos_token_id])
    assert tokenizer(" a time", add_special_tokens=False).input_ids != together[3:]


@given(prompt=st.text("ab .\n", min_size=1, max_size=8), completion=st.text("ab .\n", min_size=1, max_size=8))
def test_prompt_and_completion_together_are_the_whole_text(
    prompt: str, completion: str, data: Callable[[str], Path]
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(data("stories260k"))
    (made,) = rows([{"prompt": prompt, "completion": completion}], tokenizer)
    assert tokenizer.decode(made["input_ids"], skip_special_tokens=True).lstrip(" ") == (prompt + completion).lstrip(
        " "
    )
    assert made["input_ids"][: made["labels"].count(NO)] == tokenizer(prompt).input_ids


def test_a_text_that_melts_with_what_it_is_read_after_is_read_after_something_else() -> None:
    merges = [("\n", "\n"), ("\n", "x"), (".", "x"), ("a", "x"), ("▁", "a")]
    pieces = ["<unk>", "<|end|>", "▁", "\n", "a", ".", "x", *("".join(pair) for pair in merges)]
    number = {piece: place for place, piece in enumerate(pieces)}
    backend = Tokenizer(models.BPE(number, merges, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>", unk_token="<unk>")
    expected = {"a": ["a"], "\na": ["\n", "a"], "\n\na": ["\n\n", "a"], " a": ["▁a"]}
    made = rows([{"prompt": "a", "completion": completion} for completion in expected], tokenizer)
    assert [tokenizer.convert_ids_to_tokens(row["input_ids"]) for row in made] == [
        ["▁a", *tokens, "<|end|>"] for tokens in expected.values()
    ]
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("z", "")
    with pytest.raises(DataError, match="the tokenizer finds no token in 'zz'"):
        rows([{"prompt": "a", "completion": "zz"}], tokenizer)
    with pytest.raises(DataError, match="the tokenizer cannot continue other text with 'x'"):
        rows([{"prompt": "a", "completion": "x"}], tokenizer)


def blank_tokenizer(pieces: list[str], normalizer: Any = None, **options: Any) -> Any:
    """A tokenizer of whole pieces that puts a blank before every text."""
    number = {piece: place for place, piece in enumerate(["<unk>", "<|end|>", "▁", *pieces])}
    backend = Tokenizer(models.BPE(number, [], unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    backend.decoder = decoders.Metaspace(prepend_scheme="always")
    if normalizer is not None:
        backend.normalizer = normalizer
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>", unk_token="<unk>", **options)


@pytest.mark.parametrize(
    "normalizer",
    [
        None,  # a new line is unknown
        normalizers.Replace("\n", " "),
        normalizers.Sequence([normalizers.Replace("\n", " "), normalizers.Strip()]),
        normalizers.Replace("\n", ""),
    ],
    ids=["unknown", "a blank", "stripped", "dropped"],
)
def test_a_tokenizer_without_a_new_line_learns_no_blank_that_nobody_wrote(normalizer: Any) -> None:
    tokenizer = blank_tokenizer(["a", "b", "."], normalizer)
    made = rows([{"prompt": "a", "completion": completion} for completion in ("b", "ba", " b")], tokenizer)
    learned = [tokenizer.convert_ids_to_tokens(targets(row)) for row in made]
    assert learned[:2] == [["b", "<|end|>"], ["b", "a", "<|end|>"]]
    assert learned[2] in (["▁", "b", "<|end|>"], ["b", "<|end|>"])  # what it makes of a blank


def test_without_any_mark_a_completion_is_refused() -> None:
    tokenizer = blank_tokenizer(["b"], normalizers.Replace("a", ""))
    with pytest.raises(DataError, match="the tokenizer cannot continue other text with 'b'"):
        rows([{"prompt": "b", "completion": "b"}], tokenizer)
