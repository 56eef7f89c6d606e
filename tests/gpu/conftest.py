"""The device that these tests run on: a CUDA GPU, or the one named in $LIMBECK_GPU_TESTS_DEVICE.

Without a GPU the tests are skipped. `LIMBECK_GPU_TESTS_DEVICE=cpu` runs them on the CPU, to try the tests themselves.
"""

import os

import pytest
import torch


@pytest.fixture(scope="session")
def device() -> torch.device:
    chosen = os.environ.get("LIMBECK_GPU_TESTS_DEVICE")
    if chosen:
        return torch.device(chosen)
    if not torch.cuda.is_available():
        pytest.skip("these tests need a CUDA GPU, and torch finds none")
    return torch.device("cuda")
