"""`limbeck demo --language` with two steps per training: its text, what it leaves, and what it measured."""

import html
import json
import sys
from pathlib import Path
from pydoc_data.topics import topics as reference
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, ByT5Tokenizer

import limbeck
from limbeck.cli import main
from limbeck.commands import demo_language


@pytest.fixture(scope="module")
def rows() -> dict[str, Any]:
    return demo_language.topics(ByT5Tokenizer(extra_ids=0))


def texts_of(part: Any) -> list[str]:
    return [bytes(token - 3 for token in ids[:-1]).decode() for ids in part["input_ids"]]  # ByT5: three, then the bytes


def _words(text: str) -> str:
    return " ".join(text.split())


def test_all_of_the_text_is_there_and_nothing_of_the_test_was_trained_on(rows: dict[str, Any]) -> None:
    train, test = texts_of(rows["train"]), texts_of(rows["test"])
    assert max(max(part["length"]) for part in rows.values()) <= demo_language.LENGTH
    known = {word for text in train + test for word in text.split()}
    assert {word for text in reference.values() for word in text.split()} == known
    of_train, of_test = ({_words(p) for text in part for p in text.split("\n\n")} for part in (train, test))
    whole = {_words(p) for text in reference.values() for p in text.split("\n\n")}  # and not a part of a long one
    assert len(whole & of_test) > 20
    assert whole & of_train & of_test == set()
    written = [sum(len(text.encode()) for text in part) for part in (train, test)]
    assert 0.02 < written[1] / sum(written) < 0.2


def test_what_the_demo_leaves(
    rows: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for steps in ("TEACHER_STEPS", "STUDENT_STEPS"):
        monkeypatch.setattr(demo_language, steps, 10)
    monkeypatch.setattr(demo_language, "BATCH", 2)
    assert main(["demo", "--language", "--seeds", "1"]) == 0
    folder = Path("runs/demo_language")
    results = json.loads((folder / "results.json").read_text())
    out = capsys.readouterr().out
    assert results["verdict"]["sentence"] in out
    assert results["verdict"]["sentence"] in html.unescape((folder / "report.html").read_text())
    assert f"{folder}: student, results.json, report.html, log.jsonl" in out
    assert "As the teacher's draft:" in out
    assert out.count("After: ") == 2

    assert (results["task"], results["test"]["classes"]) == ("language", 259)
    assert results["test"]["tokens"] == sum(len(text.encode()) for text in texts_of(rows["test"]))
    for role, half in (("teacher", 1), ("student", 2), ("baseline", 2)):
        width, inner, layers = 96 // half, 256 // half, 4 // half
        of_layer = 4 * width**2 + 3 * width * inner + 2 * width  # attention, the gated MLP, two norms
        assert results["roles"][role]["parameters"] == 259 * width + layers * of_layer + width

    student: Any = limbeck.load(folder / "student")
    config = student.config
    assert (config.num_hidden_layers, config.hidden_size, config.num_attention_heads) == (2, 48, 2)
    tokenizer = AutoTokenizer.from_pretrained(folder / "student")
    assert tokenizer("aé").input_ids == [100, 198, 172, 1]
    assert tokenizer.decode([100, 198, 172, 1], skip_special_tokens=True) == "aé"
    total = count = 0.0
    with torch.no_grad():
        for ids in map(torch.tensor, rows["test"]["input_ids"]):
            logits = student(ids[None]).logits[0, :-1]
            total += torch.nn.functional.cross_entropy(logits.double(), ids[1:], reduction="sum").item()
            count += len(ids) - 1
    assert results["roles"]["student"]["nll"]["mean"] == pytest.approx(total / count, rel=1e-5)
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log if "soft_loss" in line] == [10]
    assert results["curves"]["student"] == log


def test_what_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "--language", "--seeds", "0"]) == 1
    assert "--seeds must be 1 or more, but is 0" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    assert main(["demo", "--language"]) == 1
    assert "The text of this demo is pydoc_data.topics, which this Python lacks" in capsys.readouterr().err
