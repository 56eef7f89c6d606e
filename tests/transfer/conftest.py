"""What the tests of transfer sets share: a cache that goes away, and a tokenizer made on the spot."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "good", "bad", "movie", "very", "##s")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


@pytest.fixture(scope="session")
def make_tokenizer() -> Callable[..., Any]:
    """`make_tokenizer(words)`: ids are places in `words`; texts become [CLS] text [SEP], pairs two of these."""

    def make(words: tuple[str, ...] = WORDS, **options: Any) -> Any:
        numbers = {word: number for number, word in enumerate(words)}
        backend = Tokenizer(models.WordPiece(numbers, unk_token="[UNK]"))
        backend.pre_tokenizer = pre_tokenizers.Whitespace()
        ends = [(name, numbers[name]) for name in ("[CLS]", "[SEP]")]
        backend.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
        )
        options = {"pad_token": "[PAD]", "model_input_names": ["input_ids", "attention_mask"], **options}
        return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", **options)

    return make


@pytest.fixture(scope="session")
def tokenizer(make_tokenizer: Callable[..., Any]) -> Any:
    return make_tokenizer()
