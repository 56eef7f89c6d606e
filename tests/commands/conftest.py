"""What the tests of the command share: a cache that goes away, and tokenizers made on the spot."""

import signal
from pathlib import Path

import datasets
import pytest
from language.conftest import make_tokenizer as make_tokenizer


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture(autouse=True, scope="session")
def _sigint_is_not_ignored() -> None:
    """A shell that starts the tests in the background has them, and the commands that they start, ignore Ctrl-C."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
