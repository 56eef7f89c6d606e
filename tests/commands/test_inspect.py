"""What `limbeck inspect` shows. Oracle: the chat template's text spelled out, and counts by hand."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from language.conftest import MARKED
from language.test_records import CALLS, NO_TOOLS, TOOLS
from language.test_training import SMALL
from PIL import Image
from transformers import LlamaConfig, LlamaForCausalLM

from limbeck.cli import main
from limbeck.commands import console
from limbeck.commands.inspect import LEARNED, marked_text
from limbeck.networks.folder import save
from limbeck.transfer.text.view import parts_of, shortened


@pytest.fixture(autouse=True)
def _a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.fixture
def model(make_tokenizer: Callable[..., Any]) -> Callable[..., str]:
    """`model(name, template, positions)`: the folder of a small language model."""

    def made(name: str, template: str | None, positions: int = 512) -> str:
        tokenizer = make_tokenizer(template)
        tokenizer.add_tokens(["<|im_start|>", "<|im_end|>"])
        sizes = {**SMALL, "vocab_size": len(tokenizer), "max_position_embeddings": positions}
        torch.manual_seed(0)
        return str(save(LlamaForCausalLM(LlamaConfig(**sizes)), name, tokenizer=tokenizer))

    return made


@pytest.fixture
def inspected(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """The exit code of `limbeck inspect WORDS`, and what it printed, line by line: to stdout, and to stderr."""

    def run(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()  # of what a test made before
        code = main(["inspect", *words])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


def _jsonl(name: str, records: list[dict[str, Any]]) -> str:
    Path(name).write_text("".join(json.dumps(record) + "\n" for record in records))
    return name


def _chat(question: str, answer: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def _line(out: str, name: str) -> list[str]:
    (line,) = [line for line in out.splitlines() if line.startswith(f"│ {name} ")]
    return [cell.strip() for cell in line.split("│")[2:-1]]


def test_records_are_shown_as_the_student_reads_them(model: Any, inspected: Any) -> None:
    data = _jsonl("chats.jsonl", [_chat("[red]two[/red]", "four [bold]\x1b[31m"), _chat("x", "y"), _chat("z", "w")])
    code, out, err = inspected(data, "--student", model("student", MARKED), "--examples", "2")
    assert (code, err) == (0, "")
    first = "<|user|>[red]two[/red]<|end|>\n<|assistant|>⟦four [bold]\\x1b[31m<|end|>⟧\n"
    assert first in out
    assert "<|user|>x<|end|>\n<|assistant|>⟦y<|end|>⟧\n" in out
    assert "⟦w" not in out
    assert "Record 0 of train" in out
    assert _line(out, "records") == _line(out, "rows") == ["3"]
    assert _line(out, "truncated rows") == _line(out, "dropped records") == ["0"]


def test_counts_are_those_of_the_rows(model: Any, inspected: Any, caplog: pytest.LogCaptureFixture) -> None:
    Path("data").mkdir()
    _jsonl("data/train.jsonl", [_chat("x", "y"), _chat("x", "y" * 20), _chat("x" * 30, "y")])
    _jsonl("data/test.jsonl", [_chat("x", "y")])
    code, out, _ = inspected("data", "--student", model("student", MARKED, positions=16))
    assert code == 0
    assert "at most 16 tokens each" in out
    # <|user|> x <|end|> \n <|assistant|> and y <|end|> \n are 5 and 3 tokens, 2 of them learned
    assert _line(out, "records") == ["3", "1"]
    assert _line(out, "rows") == ["2", "1"]
    assert _line(out, "tokens") == ["24", "8"]
    assert _line(out, "learned") == ["13 (54.2%)", "2 (25.0%)"]
    assert _line(out, "longest row") == ["16", "8"]
    assert _line(out, "truncated rows") == ["1", "0"]
    assert _line(out, "dropped records") == ["1", "0"]
    assert "1 of 3 rows are dropped" in caplog.text


def test_the_teachers_reading_is_shown_where_it_is_another_one(model: Any, inspected: Any) -> None:
    data = _jsonl("chats.jsonl", [_chat("x", "y")])
    named = NO_TOOLS.replace("{%- for m", "{{- 'NOW ' }}{%- for m", 1)
    student, same, other = model("student", NO_TOOLS), model("same", NO_TOOLS), model("other", named)
    code, out, _ = inspected(data, "--student", student, "--teacher", same)
    assert code == 0
    assert "The teacher reads the same tokens as the student." in out
    assert "as the teacher reads it" not in out
    code, out, _ = inspected(data, "--student", student, "--teacher", other)
    assert code == 0
    assert out.endswith(
        "Record 0 as the teacher reads it:\nNOW <|im_start|>user\nx<|im_end|>\n<|im_start|>assistant\n⟦y<|im_end|>⟧\n\n"
    )


def test_calls_that_one_side_cannot_write_are_refused_by_record_and_side(model: Any, inspected: Any) -> None:
    data = _jsonl("calls.jsonl", [CALLS[3], CALLS[0]])
    student, teacher = model("student", TOOLS), model("teacher", NO_TOOLS)
    code, out, err = inspected(data, "--student", student)
    assert (code, err) == (0, "")
    assert '⟦<tool_call>\n{"name": "add", "arguments": {"b": 2, "a": 1}}\n</tool_call><|im_end|>⟧' in out
    code, _, err = inspected(data, "--student", student, "--teacher", teacher)
    assert code == 1
    assert "(row_id 1)" in err
    assert "Row 1: as the teacher reads it, the chat template does not write the call of a tool ('add')" in err


def test_a_tokenizer_alone_shows_tokens_and_no_model_shows_records(model: Any, inspected: Any) -> None:
    data = _jsonl("chats.jsonl", [_chat("[x]", "y\nz")])
    code, out, _ = inspected(data, "--tokenizer", model("student", MARKED))
    assert code == 0
    assert "⟦y\nz<|end|>⟧" in out
    code, out, err = inspected(data)
    assert (code, err) == (0, "")
    assert "    role: user, content: [x]\n    role: assistant, content: y\\nz\n" in out
    assert "pass --student to see the tokens" in out


def test_what_a_callable_returns_is_shown_without_a_model(inspected: Any) -> None:
    turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]
    Path("own_chats.py").write_text(f"def chats():\n    return [{{'messages': {turns!r}}}]\n")
    code, out, err = inspected("own_chats:chats")
    assert (code, err) == (0, "")
    assert "    role: user, content: x\n    role: assistant, content: y\n" in out


def test_a_stored_set_is_not_data(inspected: Any) -> None:
    Path("stored").mkdir()
    Path("stored/manifest.json").write_text("{}")
    code, _, err = inspected("stored")
    assert code == 1
    assert "stored is a stored set" in err
    assert "limbeck info describes it" in err


def test_a_table_is_shown_with_roles_and_classes(inspected: Any) -> None:
    rows = ["1.5,2020-01-02,a[red]", ",2020-01-03,b", "2.5,2020-02-02,a[red]", "0.5,2020-01-02,b"]
    Path("d.csv").write_text("\n".join(["carat,sold,label", *rows]) + "\n")
    code, out, err = inspected("d.csv", "--examples", "2")
    assert (code, err) == (0, "")
    assert "Splits: 4 train." in out
    assert _line(out, "carat") == ["feature", "number", "1"]
    assert _line(out, "sold") == ["feature", "date", "0"]
    assert _line(out, "label")[0] == "label"
    assert _line(out, "0: a[red]") == _line(out, "1: b") == ["2"]
    assert "Example 0 of train, class 0 (a[red]):\n  carat: 1.5\n  sold: 2020-01-02\n" in out
    assert "Example 1 of train, class 1 (b):\n  carat: None\n" in out


def test_what_is_left_out_of_a_table_is_said_once(inspected: Any) -> None:
    texts = [f"free text number {n} {'x' * n}" for n in range(30)]
    lines = [f"{n * 0.5},{text},{n % 2}" for n, text in enumerate(texts)]
    Path("d.csv").write_text("\n".join(["size,note,label", *lines]) + "\n")
    code, out, err = inspected("d.csv", "--feature_columns", "size")
    assert code == 0
    assert _line(out, "note")[0] == "left out"
    assert err.count("note") <= 1


def test_texts_with_classes_with_and_without_a_tokenizer(model: Any, inspected: Any) -> None:
    Path("t.tsv").write_text("text\tlabel\ntwo and two\tpos\nfour\tneg\nthe other\tpos\n")
    code, out, err = inspected("t.tsv", "--examples", "1")
    assert (code, err) == (0, "")
    assert (_line(out, "text")[0], _line(out, "0: neg"), _line(out, "1: pos")) == ("text", ["1"], ["2"])
    assert "  text: two and two\n  label: pos\n" in out
    assert "Pass --student, or --tokenizer" in out
    code, out, err = inspected("t.tsv", "--examples", "1", "--tokenizer", model("student", None))
    assert (code, err) == (0, "")
    assert "Example 0 of train, class 1 (pos):\n  text: two and two\n" in out
    assert re.search(r"  as \d+ tokens: two and two\n", out)


def test_images_and_the_digits(inspected: Any) -> None:
    for name in ("cat", "dog"):
        Path("photos/train", name).mkdir(parents=True)
        for number in range(2):
            Image.fromarray(np.full((4, 6, 3), 51 * number, np.uint8)).save(f"photos/train/{name}/{number}.png")
    code, out, err = inspected("photos", "--examples", "2")
    assert (code, err) == (0, "")
    assert (_line(out, "image")[0], _line(out, "0: cat"), _line(out, "1: dog")) == ("image", ["2"], ["2"])
    assert "Example 0 of train, class 0 (cat):\n  pixel_values: 3 × 4 × 6, from 0 to 0, mean 0\n" in out
    assert "pixel_values: 3 × 4 × 6, from 0.2 to 0.2, mean 0.2\n" in out
    code, out, err = inspected("--data", "digits", "--examples", "1")
    assert (code, err) == (0, "")
    assert "Splits: 1,438 train, 359 test." in out
    assert _line(out, "9") == ["144", "36"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "There is no data; name it: limbeck inspect DATA"),
        (["digits", "--data", "digits"], "The data is given twice"),
        (["digits", "--examples", "0"], "--examples must be 1 or more, but is 0."),
        (["digits", "--split", "dev"], "There is no split 'dev'; there are train, test. Choose one by --split."),
        (["digits", "--student", "take_layers:2"], "there is no teacher; pass --teacher"),
        (["digits", "--packing"], "--packing applies only to language models"),
        (["none.csv"], "There is no file or folder none.csv."),
    ],
)
def test_what_cannot_be_shown_is_refused(words: list[str], said: str, inspected: Any) -> None:
    code, _, err = inspected(*words)
    assert code == 1
    assert said in err


def test_learned_parts_have_a_colour_or_marks() -> None:
    parts = [("[b]x", False), ("y\u202e", True)]
    coloured = marked_text(parts, colours=True)
    assert (coloured.plain, [(s.start, s.end, str(s.style)) for s in coloured.spans]) == (
        "[b]xy\\u202e",
        [(4, 11, LEARNED)],
    )
    assert marked_text(parts, colours=False).plain == "[b]x⟦y\\u202e⟧"


def test_what_acts_on_a_terminal_is_escaped() -> None:
    assert console.visible("a\x1b[2J\r\n\tü 👩‍🚀\x07") == "a\\x1b[2J\\r\n\tü 👩‍🚀\\x07"


def test_parts_join_to_the_text_of_a_tokenizer_that_begins_texts_with_a_blank() -> None:
    class Words:
        def decode(self, ids: list[int], **_: Any) -> str:
            return " ".join(f"w{number}" for number in ids)

    row = {"input_ids": [1, 2, 3, 4], "labels": [-100, 2, 3, -100]}
    assert parts_of(row, Words()) == [("w1", False), (" w2 w3", True), (" w4", False)]
    assert shortened([("x" * 50 + "y" * 50, True)], 10) == [("xxxxx [... 90 characters ...] yyyyy", True)]
