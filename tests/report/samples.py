"""Results to draw: of real evaluations of tiny models, and the same with a payload wherever data can speak."""

import copy
from functools import cache
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import limbeck
from limbeck.transfer.text.view import first_examples

UNBROKEN = "W" * 200
"""Wide text without a place to break it."""

PAYLOAD = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'`{{7*7}}"
CLASSES, EXAMPLES = 6, 160


class Says(nn.Module):
    """A model whose logits for example i are row i of a table."""

    def __init__(self, table: Any) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.as_tensor(table, dtype=torch.float32))

    def forward(self, inputs: Any) -> Any:
        return self.table[(inputs[:, 0, 0] * 255).round().long()]


def results_of(classes: int, skills: dict[str, float], examples: int = EXAMPLES, **more: Any) -> dict[str, Any]:
    """Tables of logits, right by that much; the image of example i is one pixel that says i, and a gradient."""
    rng = np.random.default_rng(0)
    labels = rng.integers(classes, size=examples)
    shift = rng.normal(size=(examples, classes))

    def model(skill: float, seed: int) -> Says:
        noise = np.random.default_rng(seed).normal(size=(examples, classes))
        return Says(shift + noise + skill * np.eye(classes)[labels])

    pixels = np.zeros((examples, 8, 8), dtype=np.float32)
    pixels[:] = np.linspace(0, 1, 8, dtype=np.float32)
    pixels[:, 0, 0] = np.arange(examples) / 255
    names = [f"class {c}" for c in range(classes)]
    rows = limbeck.arrays(pixels, labels, label_names=names)
    asked = {"student": skills["student"], "baseline": skills["baseline"]}
    students, baselines = ([model(skill, 10 * s + i) for s in range(3)] for i, skill in enumerate(asked.values()))
    test, held_out = rows.select(range(examples - 40)), rows.select(range(examples - 40, examples))
    results: dict[str, Any] = limbeck.evaluate(
        students,
        test,
        baseline=baselines,
        teacher=model(skills["teacher"], 99),
        held_out=held_out,
        latency=False,
        resamples=200,
        **more,
    )
    return results


@cache
def _classifier() -> dict[str, Any]:
    steps = range(10, 510, 10)
    curves = {
        "student": [{"step": s, "soft_loss": 2 / s, "hard_loss": 3 / s, "loss": 40 / s} for s in steps]
        + [{"step": s, "eval_soft_loss": 2.5 / s, "eval_hard_loss": 3.5 / s} for s in range(100, 600, 100)],
        "baseline": [{"step": s, "hard_loss": 4 / s} for s in steps],
    }
    results = results_of(CLASSES, {"teacher": 4.0, "student": 3.4, "baseline": 1.5}, curves=curves)
    results["settings"] = {"temperature": 4.0, "soft_weight": 1.0, "hard_weight": 0.1, "data": "digits", "none": None}
    results["tuned"] = search()
    results["export"] = exported()
    return results


def classifier() -> dict[str, Any]:
    """Six classes, three seeds, every part of the page."""
    return copy.deepcopy(_classifier())


@cache
def _scored(kind: str) -> dict[str, Any]:
    """A teacher, three students and their baselines that are off by different noise."""
    rng = np.random.default_rng(0)
    labels: Any = rng.integers(0, 2, (EXAMPLES, 4))
    names, outputs = [f"label {i}" for i in range(4)], labels * 4.0 - 2
    task: Any = limbeck.Task(kind, 4) if kind == "multi_label" else limbeck.Task("segmentation")
    if kind == "regression":
        outputs = rng.normal(size=(EXAMPLES, 2)) * [1.0, 30.0] + 100
        labels, names = outputs + rng.normal(size=outputs.shape), ["height", "weight"]
        task = limbeck.Task(kind, 2, variance=True)
    if kind == "segmentation":
        labels, names = rng.integers(0, 3, (EXAMPLES, 8, 8)), ["sky", "sea", "sand"]
        outputs = 4.0 * np.moveaxis(np.eye(3)[labels], -1, 1)

    def model(noise: float, seed: int) -> Says:
        found = outputs + noise * np.random.default_rng(seed).normal(size=outputs.shape)
        if kind == "regression":
            found = np.concatenate([found, np.full_like(found, np.log(1 + noise**2))], 1)
        return limbeck.with_task(Says(found), task)

    pixels = np.zeros((EXAMPLES, 8, 8), dtype=np.float32)
    pixels[:, 0, 0] = np.arange(EXAMPLES) / 255
    results: dict[str, Any] = limbeck.evaluate(
        [model(2.0, s) for s in range(3)],
        limbeck.arrays(pixels, labels, label_names=names, task=kind),
        baseline=[model(3.0, 10 + s) for s in range(3)],
        teacher=model(1.0, 99),
        latency=False,
        resamples=200,
        curves={"student": [{"step": s, "soft_loss": 2 / s, "loss": 2 / s} for s in range(10, 300, 10)]},
    )
    results["settings"] = {"divergence": "gaussian_kl" if kind == "regression" else "forward_kl", "data": kind}
    return results


def scored(kind: str) -> dict[str, Any]:
    """multi_label, segmentation or regression, three seeds, every part of the page."""
    return copy.deepcopy(_scored(kind))


@cache
def _language(classes: int) -> dict[str, Any]:
    words = ["<pad>", "<end>", "the", "cat", "dog", "sat", "ran", "on", "under", "mat", "sun", "."]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="<end>")
    records = [{"prompt": "the cat", "completion": " sat on the mat ."}, {"prompt": "the dog", "completion": " ran ."}]
    rows = limbeck.tokenise(Dataset.from_list(records * 3), tokenizer)

    def model(seed: int, hidden: int) -> Any:
        torch.manual_seed(seed)
        sizes = {"hidden_size": hidden, "intermediate_size": hidden, "num_attention_heads": 2, "num_hidden_layers": 1}
        ends = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None}
        return LlamaForCausalLM(LlamaConfig(vocab_size=classes, max_position_embeddings=64, **sizes, **ends))

    results: dict[str, Any] = limbeck.evaluate_language(
        model(0, 8),
        rows,
        teacher=model(1, 16),
        baseline=model(2, 8),
        tokenizer=tokenizer,
        completions=2,
        max_new_tokens=4,
        resamples=100,
    )
    results["settings"] = {"temperature": 1.0, "data": "stories.jsonl"}
    results["training_examples"] = first_examples(rows.select(range(2)), tokenizer)
    return results


def language(classes: int = 12) -> dict[str, Any]:
    """Two kinds of sentences, every part of the page but the curves; of `classes` token ids twelve are words."""
    return copy.deepcopy(_language(classes))


@cache
def _search() -> dict[str, Any]:
    train, validation = limbeck.digits().split(0.2, seed=0)[1].split(0.5, seed=1)
    torch.manual_seed(0)
    found: dict[str, Any] = limbeck.tune(
        lambda: limbeck.mlp([64, 8, 10]),
        limbeck.mlp([64, 10]),
        train,
        validation,
        limbeck.DistillConfig(max_steps=2, learning_rate=0.01, report_to="none"),
        temperatures=(1.0, 4.0, 20.0),
        hard_weights=(0.0, 0.5),
        say=lambda text: None,
    )
    return found


def search() -> dict[str, Any]:
    """What `limbeck tune` finds: three temperatures, two weights, two candidates of which got to the third seed."""
    return copy.deepcopy(_search())


def exported() -> dict[str, Any]:
    """What `limbeck export --int8` writes."""
    both = {"largest_difference": 0.0, "same_prediction": 1.0, "accuracy": 0.96}
    times = {"latency_ms": {"batch_1": 0.175, "batch_32": 0.195}}
    return {
        "schema": "limbeck.export",
        "version": 1,
        "limbeck": limbeck.__version__,
        "student": "0123456789abcdef",
        "examples": 120,
        "drawn": False,
        "threads": 1,
        "torch": {"bytes": 9640} | both | times,
        "onnx": {"file": "student.onnx", "bytes": 12_395} | both | times,
        "int8": {"file": "student.int8.onnx", "bytes": 5221} | both | times | {"same_prediction": 0.995},
    }


def experiment() -> dict[str, Any]:
    """What `limbeck paper` writes, with every kind of figure that its experiments add."""
    errors = {"mean": 42.5, "low": 20.2, "high": 64.8, "seeds": [44, 41], "of": 359}
    rows = [
        {"name": "no 3s: as trained", "errors": errors, "paper": 206, "threes_right": 0.625},
        {"name": "soft targets", "errors": errors | {"mean": 17.0, "seeds": [17]}, "paper": None},
        {"name": "8 units", "errors": errors, "paper": "25.0 % right", "width": 8, "temperature": 1.0},
        {"name": "8 units, hotter", "errors": errors | {"mean": 7.0}, "paper": None, "width": 8, "temperature": 20.0},
    ]
    return {
        "schema": "limbeck.paper",
        "version": 1,
        "limbeck": limbeck.__version__,
        "experiment": "omitted",
        "settings": {"budget": "quick", "seeds": 2},
        "test_examples": 359,
        "rows": rows,
        "verdict": {"word": "better", "sentence": "The student is better."},
        "curve": [{"temperature": t, "relative_error": 1 / t} for t in (1.0, 10.0, 100.0)],
        "share_of_gain": {"arithmetic": 0.86},
        "clusters": [[0, 1], [2, 3]],
        "slope": -0.98,
    }


def hostile(results: dict[str, Any], payload: str = PAYLOAD) -> dict[str, Any]:
    """The same with the payload in every text and every key of the settings; what makes it results is left alone."""

    def spoilt(value: Any, name: str = "") -> Any:
        if isinstance(value, dict):
            return {key: spoilt(part, key) for key, part in value.items()}
        if isinstance(value, list):
            return [spoilt(part, name) for part in value]
        if isinstance(value, str) and name not in ("schema", "task", "word", "image", "measure"):
            return f"{value} {payload}"
        return value

    results = spoilt(results)
    for example in results.get("examples", []):
        example["text"] = f"a text {payload}"
        example["row_id"] = payload
    results["settings"] |= {f"key {payload}": payload}
    return results
