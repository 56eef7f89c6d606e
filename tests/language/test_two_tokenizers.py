"""Student and teacher whose tokenizers split texts alike and format them differently. Oracle: each tokenizer alone."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import LlamaConfig, LlamaForCausalLM

from limbeck import DataError, load, tokenise

from .conftest import MARKED, UNMARKED

CHATS = Dataset.from_list(
    [
        {"messages": [{"role": "user", "content": f"what is the sum of {n}"}, {"role": "assistant", "content": n * 2}]}
        for n in ("two", "four", "the other")
    ]
)
PAIRS = Dataset.from_list([{"prompt": "what is the sum", "completion": f" of two and {n}"} for n in "abc"])
OTHER = UNMARKED.replace("{% for message", "be there{% for message", 1)
"""The same turns, behind a preamble."""


def both(records: Any, student: Any, teacher: Any) -> tuple[Any, Any, Any]:
    """The rows for student and teacher, and those that each tokenizer makes alone."""
    return tokenise(records, student, teacher_tokenizer=teacher), tokenise(records, student), tokenise(records, teacher)


def test_each_side_renders_conversations_by_its_own_template(
    make_tokenizer: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    rows, student, teacher = both(CHATS, make_tokenizer(MARKED), make_tokenizer(OTHER))
    assert rows["input_ids"] == student["input_ids"]
    assert rows["labels"] == student["labels"]
    assert rows["teacher_input_ids"] == teacher["input_ids"]
    assert rows["teacher_labels"] == teacher["labels"]
    assert student["input_ids"] != teacher["input_ids"]
    assert "The teacher has another chat template than the student: each reads the records in its own" in caplog.text


def test_a_teacher_that_puts_a_token_before_each_text_reads_it(make_tokenizer: Callable[..., Any]) -> None:
    rows, student, teacher = both(PAIRS, make_tokenizer(), make_tokenizer(begin=True))
    assert rows["input_ids"] == student["input_ids"]
    assert rows["teacher_input_ids"] == teacher["input_ids"]
    assert [ids[1:] for ids in teacher["input_ids"]] == student["input_ids"]
    texts = Dataset.from_list([{"text": "two and two are four"}])
    rows = tokenise(texts, make_tokenizer(), teacher_tokenizer=make_tokenizer(begin=True))
    learned = [[i for i in row if i != -100] for row in (rows["labels"][0], rows["teacher_labels"][0])]
    assert learned[0] == learned[1] == rows["input_ids"][0][1:]


@pytest.mark.parametrize("records", [CHATS, PAIRS])
def test_tokenizers_that_format_alike_add_no_columns(
    records: Any, make_tokenizer: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    rows, student, _ = both(records, make_tokenizer(MARKED), make_tokenizer(MARKED))
    assert rows.to_list() == student.to_list()
    assert caplog.text == ""


def test_other_ends_are_refused(make_tokenizer: Callable[..., Any]) -> None:
    with pytest.raises(DataError, match=r"A text ends with '<\|end\|>' for the student and with '<\|pad\|>'"):
        tokenise(PAIRS, make_tokenizer(), teacher_tokenizer=make_tokenizer(eos_token="<|pad|>"))
    template = MARKED.replace("<|end|>{% endgeneration %}", "<|system|>{% endgeneration %}")
    with pytest.raises(DataError, match=r"the same tokens, .* after `the student's messages` and .* teacher's"):
        tokenise(CHATS, make_tokenizer(MARKED), teacher_tokenizer=make_tokenizer(template))


def test_the_command_renders_for_each(
    make_tokenizer: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limbeck_says: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    tokenizers = {"student": make_tokenizer(MARKED), "teacher": make_tokenizer(OTHER)}
    for seed, (name, tokenizer) in enumerate(tokenizers.items()):
        torch.manual_seed(seed)
        sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(name)
        tokenizer.save_pretrained(name)
    Path("train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in CHATS.to_list() * 4))
    words = ("--data", "train.jsonl", "--split", "train", "--student", "student", "--teacher", "teacher")
    code, _, err = limbeck_says("evaluate", *words, "--output", "results.json")
    assert code == 0, err
    found = json.loads(Path("results.json").read_text())["roles"]["student"]["to_teacher"]["forward_kl"]["mean"]
    kl, count = 0.0, 0
    for row in CHATS:
        log = []
        for name, tokenizer in tokenizers.items():
            made = tokenise(Dataset.from_list([row]), tokenizer)[0]
            places = [i - 1 for i, label in enumerate(made["labels"]) if label != -100]
            with torch.no_grad():
                logits = load(name)(input_ids=torch.tensor([made["input_ids"]])).logits[0, places]
            log.append(logits.double().log_softmax(-1))
        kl, count = kl + float((log[1].exp() * (log[1] - log[0])).sum()), count + len(places)
    assert found == pytest.approx(kl / count, rel=1e-3)
