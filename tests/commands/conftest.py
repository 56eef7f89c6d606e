"""What the tests of the command share: a cache that goes away, and tokenizers made on the spot."""

from pathlib import Path

import datasets
import pytest
from language.conftest import make_tokenizer as make_tokenizer


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
