"""What every test shares: one thread, repeatable hypothesis, and the way to real data."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import settings

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
