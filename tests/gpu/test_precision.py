"""Near the teacher, from half precision, on the GPU: tests/contracts/test_precision.py with its matmuls.

Oracle and bounds: those of the contract.
"""

from typing import Any

import pytest
import torch
from contracts.test_precision import DEVIATIONS, GRADIENT, KLS, VALUE, near_the_teacher, run
from torch import Tensor

from limbeck import Objective
from limbeck.losses.divergences import forward_kl, jensen_shannon, reverse_kl, skewed_kl, total_variation
from limbeck.losses.linear import chunked
from limbeck.losses.matmul import Method, method_for

DIVERGENCES = [forward_kl, reverse_kl, jensen_shannon(0.3), skewed_kl(0.2), total_variation]


def errors(found: list[Tensor], truth: list[Tensor]) -> list[float]:
    return [((a - b).norm() / b.norm()).item() for a, b in zip(found, truth, strict=True)]


def operands(device: torch.device, kl: float, deviation: float, dtype: torch.dtype) -> Any:
    return [each.to(device) for each in near_the_teacher(kl, deviation, dtype)]


@pytest.mark.parametrize("impl", ["reference", "chunked", "compiled", "triton"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("divergence", DIVERGENCES, ids=repr)
def test_value_and_gradients_near_the_teacher(
    device: torch.device, divergence: Any, dtype: torch.dtype, impl: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunked, "CHUNK_ROWS", {"cpu": 8, "cuda": 8})  # the weight's gradient is a sum over chunks
    objective = Objective(divergence, 1.0)
    for kl in KLS:
        for deviation in DEVIATIONS:
            given = operands(device, kl, deviation, dtype)
            truth = run("reference", given, objective, torch.float64)
            value, *gradients = errors(run(impl, given, objective, dtype), truth)
            assert value < VALUE, (kl, deviation, value)
            assert max(gradients) < GRADIENT, (kl, deviation, gradients)


def test_a_gpu_returns_float32_from_its_half_precision_matmuls(device: torch.device) -> None:
    if device.type != "cuda":
        pytest.skip("how a GPU multiplies")
    for dtype in (torch.bfloat16, torch.float16):
        assert method_for(torch.empty(8, 8, device=device, dtype=dtype), "exact") is Method.OUT_DTYPE


@pytest.mark.parametrize("impl", ["reference", "chunked"])
def test_float16_with_labels_and_weights(device: torch.device, impl: str) -> None:
    """Two terms with counts of their own, whose factors are a number and a tensor on the device."""
    objective = Objective(forward_kl, 1.0, hard_weight=0.3)
    given = operands(device, 1e-2, 4.0, torch.float16)
    labels = torch.arange(len(given[0]), device=device)
    labels[::3] = -100
    more = {"labels": labels, "weights": torch.rand(len(labels), generator=torch.Generator().manual_seed(1)).to(device)}
    truth = run("reference", given, objective, torch.float64, **more)
    assert max(errors(run(impl, given, objective, torch.float16, **more), truth)) < GRADIENT
