"""evaluate_language: every token against whole logits of one forward pass, and what the models write.

Oracles: log-softmax in float64 of the models' own logits, generate() of transformers, greedy choice by hand.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

import limbeck
from limbeck import ConfigError, DataError, ModelError, TargetError, evaluate_language
from limbeck.commands import console
from limbeck.evaluation.generation import prompts_of, written
from limbeck.report.page import html

from .test_training import V, example, model

ROWS = [
    {"row_id": 10 + i, **{name: values.tolist() for name, values in example(n, seed=i, prompt=prompt).items()}}
    for i, (n, prompt) in enumerate([(7, 3), (12, 4), (5, 1), (9, 0), (8, 2)])
]
TEST = Dataset.from_list(ROWS)


def whole(of: Any, row: dict[str, Any], ids: str = "input_ids", labels: str = "labels") -> tuple[Any, Any]:
    """`(log-probabilities [n, V] float64, labels [n])` of the tokens that a row asks for."""
    with torch.no_grad():
        logits = of.eval()(input_ids=torch.tensor([row[ids]])).logits[0].double()
    said = torch.tensor(row[labels])
    asked = (said[1:] != -100).nonzero().squeeze(1)
    return logits.log_softmax(-1)[asked], said[1:][asked]


def test_every_token_is_measured_as_in_whole_logits() -> None:
    student, teacher, baseline = model(), model("gpt2", seed=1), model(seed=2)
    results = evaluate_language(student, TEST, teacher=teacher, baseline=baseline, batch_size=2)
    assert results["task"] == "language"
    q, labels = (torch.cat(parts) for parts in zip(*(whole(student, row) for row in ROWS), strict=True))
    p = torch.cat([whole(teacher, row)[0] for row in ROWS])
    b = torch.cat([whole(baseline, row)[0] for row in ROWS])
    assert results["test"] == {"examples": 5, "tokens": len(labels), "classes": V}
    for role, log_q in (("student", q), ("teacher", p), ("baseline", b)):
        said = results["roles"][role]
        nll = float(-log_q.gather(1, labels[:, None]).mean())
        assert said["nll"]["mean"] == pytest.approx(nll, rel=1e-5)
        assert said["perplexity"]["mean"] == pytest.approx(torch.tensor(nll).exp().item(), rel=1e-5)
        assert said["accuracy"]["mean"] == pytest.approx(float((log_q.argmax(-1) == labels).double().mean()))
        assert said["entropy"]["mean"] == pytest.approx(float(-(log_q.exp() * log_q).sum(-1).mean()), rel=1e-5)
        if role == "teacher":
            assert said["to_teacher"] is None
            continue
        to = {name: value["mean"] for name, value in said["to_teacher"].items()}
        assert to["forward_kl"] == pytest.approx(float((p.exp() * (p - log_q)).sum(-1).mean()), rel=1e-5)
        assert to["reverse_kl"] == pytest.approx(float((log_q.exp() * (log_q - p)).sum(-1).mean()), rel=1e-5)
        assert to["agreement"] == pytest.approx(float((p.argmax(-1) == log_q.argmax(-1)).double().mean()))
        assert to["acceptance"] == pytest.approx(float(torch.minimum(p.exp(), log_q.exp()).sum(-1).mean()), rel=1e-5)
    kl = (p.exp() * (p - q)).sum(-1)
    worst = results["tokens"][0]
    assert worst["forward_kl"] == pytest.approx(float(kl.max()), rel=1e-5)
    assert worst["id"] == int(labels[kl.argmax()])
    expected = worst["expected"]["teacher"][0]
    assert expected["id"] == int(p[kl.argmax()].argmax())
    assert expected["log_prob"] == pytest.approx(float(p[kl.argmax()].max()), rel=1e-5)
    saved = results["verdict"]["difference"]["mean"]
    assert saved == pytest.approx(
        results["roles"]["baseline"]["nll"]["mean"] - results["roles"]["student"]["nll"]["mean"]
    )
    json.dumps(results, allow_nan=False)


def test_a_teacher_reads_its_own_prompt() -> None:
    student, teacher = model(), model(seed=1)
    rows = [
        {
            **row,
            "teacher_input_ids": [5, 6, 7, *row["input_ids"]],
            "teacher_labels": [-100, -100, -100, -100, *row["labels"][1:]],
            "labels": [-100, *row["labels"][1:]],
        }
        for row in ROWS
    ]
    results = evaluate_language(student, Dataset.from_list(rows), teacher=teacher)
    p = torch.cat([whole(teacher, row, "teacher_input_ids", "teacher_labels")[0] for row in rows])
    q = torch.cat([whole(student, row)[0] for row in rows])
    kl = results["roles"]["student"]["to_teacher"]["forward_kl"]["mean"]
    assert kl == pytest.approx(float((p.exp() * (p - q)).sum(-1).mean()), rel=1e-5)


def test_equal_models_are_at_zero_and_every_token_is_accepted() -> None:
    results = evaluate_language(model(), TEST, teacher=model(), baseline=model())
    to = results["roles"]["student"]["to_teacher"]
    assert to["forward_kl"]["mean"] == pytest.approx(0, abs=1e-6)
    assert to["acceptance"]["mean"] == pytest.approx(1, abs=1e-6)
    assert to["agreement"]["mean"] == 1
    assert results["verdict"]["word"] == "no difference shown"
    assert results["draft"] is None


def test_models_are_left_as_they_were() -> None:
    student, teacher = model().train(), model(seed=1).train()
    teacher.model.embed_tokens.weight.requires_grad_(False)
    evaluate_language(student, TEST, teacher=teacher)
    assert student.training
    assert teacher.training
    trained = {name for name, parameter in teacher.named_parameters() if not parameter.requires_grad}
    assert trained == {"model.embed_tokens.weight"}
    assert all(parameter.requires_grad for parameter in student.parameters())


def test_seeds_are_measured_each_and_paired() -> None:
    students, baselines = [model(seed=s) for s in (0, 1, 2)], [model(seed=s) for s in (3, 4, 5)]
    results = evaluate_language(students, TEST, baseline=baselines)
    one = [evaluate_language(s, TEST)["roles"]["student"]["nll"]["mean"] for s in students]
    assert results["roles"]["student"]["nll"]["seeds"] == pytest.approx(one)
    assert results["verdict"]["seeds_resampled"]
    with pytest.raises(ConfigError, match="paired with students by their place, but there are 1 and 3"):
        evaluate_language(students, TEST, baseline=baselines[0])


def test_completions_and_the_draft(make_tokenizer: Callable[..., Any]) -> None:
    tokenizer = make_tokenizer()
    sizes = {"vocab_size": len(tokenizer), "max_position_embeddings": 64}
    student, teacher = (_llama(seed, **sizes) for seed in (0, 1))
    records = Dataset.from_list([{"prompt": "what is the sum", "completion": f" of two and {n}"} for n in "abcdefg"])
    rows = limbeck.tokenise(records, tokenizer)
    results = evaluate_language(
        student, rows, teacher=teacher, baseline=teacher, tokenizer=tokenizer, completions=3, max_new_tokens=9
    )
    assert [said["row_id"] for said in results["completions"]] == [1, 3, 5]
    assert [said["prompt"] for said in results["completions"]] == ["what is the sum"] * 3
    assert results["completions"][0]["reference"] == " of two and b"
    prompt = rows[1]["input_ids"][: rows[1]["labels"].count(-100)]
    ids = list(prompt)
    for _ in range(9):  # greedy, one whole forward pass per token
        with torch.no_grad():
            ids.append(int(teacher(torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] == tokenizer.eos_token_id:
            break
    assert results["completions"][0]["teacher"] == tokenizer.decode(ids[len(prompt) :], skip_special_tokens=True)
    assert results["completions"][0]["baseline"] == results["completions"][0]["teacher"]
    draft = results["draft"]
    assert draft["reason"] is None
    assert draft["same"] == 1  # a draft changes the speed, not the words
    assert draft["speed_up"] == pytest.approx(draft["assisted_tokens_per_second"] / draft["teacher_tokens_per_second"])
    assert results["tokens"][0]["token"] == tokenizer.decode([results["tokens"][0]["id"]])


def test_a_draft_that_cannot_be_timed_says_why(make_tokenizer: Callable[..., Any]) -> None:
    tokenizer = make_tokenizer()
    small, wide = _llama(0, vocab_size=len(tokenizer)), _llama(1, vocab_size=len(tokenizer) + 7)
    rows = limbeck.tokenise(Dataset.from_list([{"text": "two and two are four"}] * 3), tokenizer)
    results = evaluate_language(
        small, rows, teacher=wide, tokenizer=tokenizer, teacher_tokenizer=make_tokenizer(), max_new_tokens=2
    )
    assert results["test"]["classes"] == len(tokenizer)
    assert results["draft"]["speed_up"] is None
    assert "different tokenizers" in results["draft"]["reason"]
    results = evaluate_language(small, rows, teacher=small, tokenizer=tokenizer, max_new_tokens=2)
    assert results["draft"]["reason"] == "Teacher and student are one model."
    with pytest.raises(DataError, match=r"must have the same classes, but have \{'teacher': \d+, 'student'"):
        evaluate_language(small, rows, teacher=wide)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(
        ModelError, match=r"A student must be a language model of transformers, but got MLP; use limbeck\.evaluate"
    ):
        evaluate_language(limbeck.mlp([4, 2]), TEST)
    with pytest.raises(ConfigError, match="at least one student"):
        evaluate_language([], TEST)
    with pytest.raises(DataError, match="The test is empty"):
        evaluate_language(model(), TEST.select([]))
    with pytest.raises(ConfigError, match="one teacher; combine several"):
        evaluate_language(model(), TEST, teacher=[model(), model()])
    broken = model()
    broken.model.norm.weight.data[0] = torch.nan
    with pytest.raises(ModelError, match="The student gave nan or infinity"):
        evaluate_language(broken, TEST)
    sampled = limbeck.FunctionTeacher(
        lambda batch: limbeck.SparseTargets.from_logits(torch.randn(int((batch["labels"][:, 1:] != -100).sum()), V), 3)
    )
    with pytest.raises(TargetError, match="probabilities of all classes, but this teacher gives SparseTargets"):
        evaluate_language(model(), TEST, teacher=sampled)


def test_a_prompt_is_what_stands_before_the_first_learned_token() -> None:
    assert prompts_of({"input_ids": [5, 6, 7, 8], "labels": [-100, -100, 7, 8]}) == ([5, 6], [5, 6], [7, 8])
    text = {"input_ids": list(range(100)), "labels": list(range(100))}
    mine, theirs, reference = prompts_of(text)
    assert (mine, theirs, reference) == (list(range(25)), list(range(25)), list(range(25, 100)))
    theirs = prompts_of(
        {"input_ids": [5, 7], "labels": [-100, 7], "teacher_input_ids": [1, 2, 7], "teacher_labels": [-100, -100, 7]}
    )[1]
    assert theirs == [1, 2]


def test_writing_stops_at_the_end_and_at_the_last_position() -> None:
    net = model()
    whole = written(net, [1, 5, 6], 12, ends=[])
    assert len(whole) == 12
    assert written(net, [1, 5, 6], 12, ends=[whole[4]]) == whole[: whole.index(whole[4]) + 1]
    assert len(written(net, [1] * 30, 12, ends=[])) == 2  # it reads 32 positions
    assert written(net, [1] * 32, 12, ends=[]) == []


def test_results_are_written_and_read(tmp_path: Path) -> None:
    results = evaluate_language(model(), TEST, teacher=model(seed=1), curves={"student": [{"step": 1, "loss": 2.0}]})
    limbeck.write_results(results, tmp_path / "results.json")
    assert limbeck.read_results(tmp_path / "results.json") == results
    assert results["curves"] == {"student": [{"step": 1, "loss": 2.0}]}


def _llama(seed: int, **more: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    from .test_training import SMALL

    torch.manual_seed(seed)
    made = LlamaForCausalLM(LlamaConfig(**{**SMALL, **more}))
    for parameter in made.parameters():
        parameter.data.mul_(4)
    return made


def test_what_fails_while_a_model_writes_loses_no_measurement(
    make_tokenizer: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = make_tokenizer()
    sizes = {"vocab_size": len(tokenizer), "max_position_embeddings": 64}
    student, teacher = (_llama(seed, **sizes) for seed in (0, 1))
    records = Dataset.from_list([{"prompt": "what is the sum", "completion": f" of two and {n}"} for n in "abc"])
    rows = limbeck.tokenise(records, tokenizer)
    expected = evaluate_language(student, rows, teacher=teacher)

    def generate(**given: Any) -> Any:
        raise RuntimeError("a cache <b>is</b> needed\nand more")

    monkeypatch.setattr(student, "generate", generate)
    results = evaluate_language(student, rows, teacher=teacher, tokenizer=tokenizer, max_new_tokens=3)
    assert results["roles"]["student"]["nll"] == expected["roles"]["student"]["nll"]
    assert results["completions_failed"] == {"student": "a cache <b>is</b> needed"}
    assert [one["student"] for one in results["completions"]] == [None] * 3
    assert all(one["teacher"] is not None for one in results["completions"])
    monkeypatch.setattr(teacher, "generate", generate)
    results = evaluate_language(student, rows, teacher=teacher, tokenizer=tokenizer, max_new_tokens=3)
    assert results["draft"]["reason"] == "a cache <b>is</b> needed"
    console.print_results(results)
    assert "The teacher wrote no completions: a cache <b>is</b> needed" in " ".join(capsys.readouterr().out.split())
    page = html(results)
    assert "The student wrote no completions: a cache &lt;b&gt;is&lt;/b&gt; needed" in page
