"""What every test shares: one thread, repeatable hypothesis, and the way to real data."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings

if not torch.cuda.is_available():  # the Triton kernel then runs in its interpreter; Triton reads this when imported
    os.environ.setdefault("TRITON_INTERPRET", "1")

torch.set_num_threads(1)  # the suite runs in two processes already

settings.register_profile("limbeck", deadline=None, derandomize=True)
settings.load_profile("limbeck")


@pytest.fixture(scope="session")
def data() -> Callable[[str], Path]:
    """`data("mnist")`: the folder of that name in $LIMBECK_DATA; skips the test where there is none."""

    def folder(name: str) -> Path:
        root = os.environ.get("LIMBECK_DATA")
        if not root:
            pytest.skip(f"LIMBECK_DATA is not set, and this test reads {name} from it")
        if not (Path(root) / name).is_dir():
            pytest.skip(f"LIMBECK_DATA is {root}, which has no folder {name}")
        return Path(root) / name

    return folder


@pytest.fixture
def limbeck_says(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """The exit code, and what was printed: to stdout, and to stderr."""

    from limbeck.cli import main

    def run(*words: str) -> tuple[int, str, str]:
        try:
            code: Any = main(words)
        except SystemExit as stop:  # of the parser
            code = stop.code or 0
        printed = capsys.readouterr()
        return code, " ".join(printed.out.split()), " ".join(printed.err.split())

    return run
