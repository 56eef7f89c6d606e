"""Oracle: hashes of what the functions returned when they had their present versions.

Where a hash differs, rows that `datasets` has cached are no longer what the function returns: give the function the
next version in limbeck/transfer/text/versions.py, and write the new hash here beside it.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import datasets
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from limbeck.transfer.text import examples, pack, tokens, versions
from limbeck.transfer.text.examples import tokenise

HASHES = {
    "tokenise": (5, "977e03834a99b289"),
    "pack": (2, "fd7928c63f0476a3"),
    "encode": (2, "6cada5e32bb537d6"),
}

WORDS = "the sum of two and is four what thought <think> </think> user assistant".split()  # noqa: SIM905
TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|> {{ message.content }} "
    "{% if message.tool_calls is defined %}{{ message.tool_calls | tojson }} {% endif %}<|end|> {% endfor %}"
    "{% if add_generation_prompt %}<|assistant|> {% endif %}"
)
CHAT = [
    {"role": "user", "content": "what is the sum of two and two"},
    {"role": "assistant", "content": "<think> two and two </think> four"},
    {"role": "user", "content": "what is four"},
    {"role": "assistant", "content": "the sum"},
]
TEXTS = ["the sum of two and two", "", "is four", "what unknown is the four " * 9]


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    signs = ["<pad>", "<unk>", "<|end|>", "<|user|>", "<|assistant|>", "[", "]", "{", "}", '"', ":", ","]
    backend = Tokenizer(models.WordLevel({word: place for place, word in enumerate([*signs, *WORDS])}, "<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(
        single="<|user|> $A", pair="<|user|> $A <|end|> $B:1", special_tokens=[("<|user|>", 3), ("<|end|>", 2)]
    )
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "eos_token": "<|end|>"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, chat_template=TEMPLATE, **names)


def records_of(kind: str) -> datasets.Dataset:
    if kind == "messages":
        chats = [CHAT[:2], [CHAT[0], CHAT[3]], CHAT[2:]]
        return datasets.Dataset.from_list([{"messages": chat} for chat in chats])
    if kind == "prompt":
        pairs = [{"prompt": a, "completion": b} for a, b in zip(TEXTS, TEXTS[::-1], strict=True) if b]
        return datasets.Dataset.from_list([{**pair, "teacher_prompt": "what " + pair["prompt"]} for pair in pairs])
    return datasets.Dataset.from_list([{"text": text} for text in TEXTS if text])


def tokenised(tokenizer: Any) -> list[Any]:
    return [tokenise(records_of(kind), tokenizer, max_length=20).to_list() for kind in ("text", "prompt", "messages")]


def packed(tokenizer: Any) -> list[Any]:
    rows = [tokenise(records_of(kind), tokenizer, max_length=20) for kind in ("text", "prompt", "messages")]
    return [pack.pack(some, 24).to_list() for some in rows]


def encoded(tokenizer: Any) -> list[Any]:
    data = datasets.Dataset.from_dict(
        {"a": TEXTS, "b": TEXTS[::-1], "words": [text.split() or ["is"] for text in TEXTS]}
    )
    columns = [
        tokens.encode(data, text, tokenizer, max_length, "train")
        for text, max_length in ((["a"], 64), (["a", "b"], 64), (["words"], 64))
    ]
    return [{name: [c.values.tolist(), c.lengths.tolist()] for name, c in some.items()} for some in columns]


@pytest.mark.parametrize(
    ("name", "version", "returned"),
    [
        ("tokenise", versions.TOKENISE, tokenised),
        ("pack", versions.PACK, packed),
        ("encode", versions.ENCODE, encoded),
    ],
)
def test_what_a_version_returns(name: str, version: int, returned: Any, tokenizer: Any) -> None:
    found = hashlib.sha256(json.dumps(returned(tokenizer), sort_keys=True).encode()).hexdigest()[:16]
    assert (version, found) == HASHES[name], "give the function its next version in versions.py"


@pytest.mark.parametrize("name", ["TOKENISE", "PACK", "ENCODE"])
def test_cached_rows_of_another_version_are_not_used(
    name: str, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "train.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS if text))
    module, function = {"TOKENISE": (examples, "_tokenise"), "PACK": (pack, "_pack"), "ENCODE": (tokens, "_encode")}[
        name
    ]
    calls: list[str] = []
    version = getattr(versions, name)
    original = getattr(module, function)

    def counted(*arguments: Any, **settings: Any) -> Any:
        calls.append(settings["version"])
        return original(*arguments, **settings)

    counted.__module__, counted.__qualname__ = original.__module__, original.__qualname__
    monkeypatch.setattr(module, function, counted)

    def run() -> None:
        records = datasets.load_dataset("json", data_files=str(tmp_path / "train.jsonl"), split="train")
        if name == "ENCODE":
            tokens.encode(records, ["text"], tokenizer, 64, "train")
        else:
            rows = tokenise(records, tokenizer)
            if name == "PACK":
                pack.pack(rows, 64)

    run()
    assert len(calls) == 1
    run()
    assert len(calls) == 1  # found in the cache
    monkeypatch.setattr(module, name, 99)
    run()
    assert [found.split(",")[0] for found in calls] == [str(version), "99"]
