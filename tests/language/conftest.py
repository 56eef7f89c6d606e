"""What the tests of examples share: a cache that goes away, and byte-level tokenizers made on the spot."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

CONTROL = ("<|pad|>", "<|begin|>", "<|end|>", "<|user|>", "<|system|>", "<|assistant|>")
LINES = ["the other mother is there", "what is the sum of two and two", "the sum is four", "two and two are four"] * 4

MARKED = (
    "{% for message in messages %}{{ '<|' + message.role + '|>' }}"
    "{% if message.role == 'assistant' %}{% generation %}{{ message.content }}<|end|>{% endgeneration %}"
    "{% else %}{{ message.content }}<|end|>{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
UNMARKED = MARKED.replace("{% generation %}", "").replace("{% endgeneration %}", "")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture(scope="session")
def make_tokenizer() -> Callable[..., Any]:
    """`make_tokenizer(template, begin=True)`: byte-level BPE; <|begin|> before every text where `begin`."""

    def make(template: str | None = None, *, begin: bool = False, **options: Any) -> Any:
        backend = Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=320, special_tokens=list(CONTROL), initial_alphabet=alphabet, show_progress=False
        )
        backend.train_from_iterator(LINES, trainer)
        if begin:
            backend.post_processor = processors.TemplateProcessing(
                single="<|begin|> $A", special_tokens=[("<|begin|>", backend.token_to_id("<|begin|>"))]
            )
        names = {"bos_token": "<|begin|>", "eos_token": "<|end|>", "pad_token": "<|pad|>", **options}
        return PreTrainedTokenizerFast(tokenizer_object=backend, chat_template=template, **names)

    return make
