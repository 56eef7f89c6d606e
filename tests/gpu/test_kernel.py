"""Every implementation of `linear_divergence` on the GPU, value and gradients.

Oracle: the naive lines (`impl="reference"`) in float64, from the same operands: what bfloat16 keeps of random numbers.
Bound, for the loss, both terms and the three gradients: a relative error of at most 1.5 times that of the naive lines
in the dtype of the test with rounded logits (`precision="fast"`), plus `SLACK`. The naive lines themselves must stay
within `NAIVE`.
"""

import math
import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from limbeck import DenseTargets, Head, HiddenTargets, Objective, SparseTargets, linear_divergence
from limbeck.losses.divergences import (
    forward_kl,
    jensen_shannon,
    logit_matching,
    reverse_kl,
    skewed_kl,
    total_variation,
)
from limbeck.losses.linear import chunked, triton

N, CLASSES, WIDTH, CHUNK, T = 300, 5003, 64, 128, 2.0
SLACK = {torch.float32: 3e-5, torch.bfloat16: 1e-4}
NAIVE = {torch.float32: 1e-4, torch.bfloat16: 5e-2}
DTYPES = list(SLACK)
DIVERGENCES = [forward_kl, reverse_kl, jensen_shannon(0.5), skewed_kl(0.1), total_variation, logit_matching]
TARGETS = ["dense", "hidden", "sparse"]


@pytest.fixture(autouse=True)
def several_chunks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Three chunks, the last one shorter."""
    monkeypatch.setattr(chunked, "CHUNK_ROWS", {"cpu": CHUNK, "cuda": CHUNK})
    yield
    torch.compiler.reset()


class Problem:
    """A student's states and output layer, labels of which some are -100, and a teacher's states and output layer."""

    def __init__(self, device: torch.device, n: int = N, classes: int = CLASSES):
        g = torch.Generator(device).manual_seed(11)

        def draw(*shape: int, scale: float = 1.0) -> Tensor:
            return (scale * torch.randn(*shape, generator=g, device=device)).bfloat16().double()

        self.leaves = draw(n, WIDTH), draw(classes, WIDTH, scale=2 / math.sqrt(WIDTH)), draw(classes)
        self.labels = torch.randint(0, classes, (n,), generator=g, device=device)
        self.labels[::4] = -100
        self.mask = torch.rand(n, generator=g, device=device) < 0.8
        self.teacher = HiddenTargets(draw(n, 96), Head(draw(classes, 96, scale=2 / math.sqrt(96)), draw(classes)))

    def targets(self, name: str, dtype: torch.dtype) -> Any:
        """Hidden states and their layer in `dtype`; logits and log-probabilities the same numbers for all dtypes."""
        if name == "hidden":
            return self.teacher.to(dtype)
        logits = self.teacher.logits.bfloat16().float()
        return DenseTargets(logits) if name == "dense" else SparseTargets.from_logits(logits, 64, T)

    def naive(self, name: str, objective: Objective, dtype: torch.dtype, **more: Any) -> list[Tensor]:
        """`run` by the naive lines, logits rounded to `dtype`."""
        return self.run("reference", name, objective, dtype, precision="fast", **more)

    def run(self, impl: str, name: str, objective: Objective, dtype: torch.dtype, **more: Any) -> list[Tensor]:
        """[loss, soft, hard, d hidden, d weight, d bias], in float64."""
        leaves = [leaf.to(dtype).requires_grad_() for leaf in self.leaves]
        hidden, weight, bias = leaves
        targets = self.targets(name, dtype)
        loss = linear_divergence(
            hidden, weight, targets, objective, self.labels, mask=self.mask, bias=bias, impl=impl, **more
        )
        gradients = torch.autograd.grad(loss.mean, leaves)
        for leaf, gradient in zip(leaves, gradients, strict=True):
            assert (gradient.dtype, gradient.device) == (leaf.dtype, leaf.device)
        return [x.detach().double() for x in (loss.mean, *(part.sum for part in loss.parts.values()), *gradients)]


def errors(found: list[Tensor], truth: list[Tensor]) -> list[float]:
    return [((a - b).norm() / b.norm().clamp(min=1e-12)).item() for a, b in zip(found, truth, strict=True)]


def check(device: torch.device, impl: str, divergence: Any, name: str, dtype: torch.dtype, **more: Any) -> None:
    problem, objective = Problem(device), Objective(divergence, T, hard_weight=0.3)
    truth = problem.run("reference", name, objective, torch.float64, **more)
    naive = errors(problem.naive(name, objective, dtype, **more), truth)
    assert max(naive) <= NAIVE[dtype], naive
    if impl == "reference":
        return
    found = errors(problem.run(impl, name, objective, dtype, **more), truth)
    for ours, theirs in zip(found, naive, strict=True):
        assert ours <= 1.5 * theirs + SLACK[dtype], (found, naive)


def allowed(divergence: Any, name: str) -> bool:
    return not (divergence is logit_matching and name == "sparse")


@pytest.mark.parametrize("softcap", [None, 5.0], ids=["plain", "capped"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("divergence", DIVERGENCES, ids=lambda d: d.name)
@pytest.mark.parametrize("impl", ["reference", "chunked"])
def test_eager(
    device: torch.device, impl: str, divergence: Any, name: str, dtype: torch.dtype, softcap: float | None
) -> None:
    if not allowed(divergence, name):
        pytest.skip("these targets refuse this divergence")
    check(device, impl, divergence, name, dtype, softcap=softcap)


@pytest.mark.parametrize("softcap", [None, 5.0], ids=["plain", "capped"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("divergence", [forward_kl, jensen_shannon(0.5)], ids=lambda d: d.name)
def test_compiled(device: torch.device, divergence: Any, name: str, dtype: torch.dtype, softcap: float | None) -> None:
    if softcap is not None and name != "hidden":
        pytest.skip("compiled once with a soft cap is enough")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="torch.compile failed")
        check(device, "compiled", divergence, name, dtype, softcap=softcap)


@pytest.mark.parametrize("softcap", [None, 5.0], ids=["plain", "capped"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["dense", "hidden"])
@pytest.mark.parametrize("divergence", DIVERGENCES, ids=lambda d: d.name)
def test_triton(device: torch.device, divergence: Any, name: str, dtype: torch.dtype, softcap: float | None) -> None:
    pytest.importorskip("triton")
    check(device, "triton", divergence, name, dtype, softcap=softcap)


def test_triton_is_what_auto_chooses(device: torch.device) -> None:
    pytest.importorskip("triton")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Triton's kernel does not run")
        assert triton.works_on(device)
    problem, objective = Problem(device), Objective(forward_kl, T, hard_weight=0.3)
    chosen, named = (problem.run(impl, "hidden", objective, torch.bfloat16) for impl in ("auto", "triton"))
    if device.type == "cuda":
        assert all(torch.equal(a, b) for a, b in zip(chosen, named, strict=True))


@pytest.mark.parametrize("divergence", [forward_kl, jensen_shannon(0.5)], ids=lambda d: d.name)
def test_a_step_never_waits_for_the_gpu_and_can_be_a_cuda_graph(device: torch.device, divergence: Any) -> None:
    """Without a mask: which rows it drops has to be known on the CPU."""
    if device.type != "cuda":
        pytest.skip("a CPU has no queue")
    pytest.importorskip("triton")
    problem, objective = Problem(device), Objective(divergence, T, hard_weight=0.3)
    hidden, weight, bias = (leaf.bfloat16().requires_grad_() for leaf in problem.leaves)
    teacher, labels = problem.teacher.to(torch.bfloat16), problem.labels

    def step() -> list[Tensor]:
        loss = linear_divergence(hidden, weight, teacher, objective, labels, bias=bias, impl="triton").mean
        return [loss.detach(), *torch.autograd.grad(loss, (hidden, weight, bias))]

    expected = [x.clone() for x in step()]
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        step()
    side.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    for x in captured:
        x.zero_()
    graph.replay()
    torch.cuda.synchronize()
    for found, wanted in zip(captured, expected, strict=True):
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("name", TARGETS)
def test_many_classes_take_what_auto_chooses(device: torch.device, name: str) -> None:
    """As many classes as language models have, few rows."""
    problem, objective = Problem(device, 40, 32_768), Objective(forward_kl, T, hard_weight=0.3)
    truth = problem.run("reference", name, objective, torch.float64)
    naive = errors(problem.naive(name, objective, torch.bfloat16), truth)
    found = errors(problem.run("auto", name, objective, torch.bfloat16), truth)
    for ours, theirs in zip(found, naive, strict=True):
        assert ours <= 1.5 * theirs + SLACK[torch.bfloat16], (found, naive)


@pytest.mark.parametrize("impl", ["reference", "chunked", "compiled", "triton"])
def test_autocast_multiplies_float32_leaves_in_bfloat16(device: torch.device, impl: str) -> None:
    problem, objective = Problem(device), Objective(forward_kl, T, hard_weight=0.3)
    truth = problem.run("reference", "hidden", objective, torch.float64)
    with torch.autocast(device.type, torch.bfloat16):
        found = errors(problem.run(impl, "hidden", objective, torch.float32), truth)
    assert max(found) <= NAIVE[torch.bfloat16], found


@pytest.mark.parametrize("impl", ["chunked", "compiled", "triton"])
def test_no_rows_give_zero(device: torch.device, impl: str) -> None:
    problem = Problem(device)
    problem.mask = torch.zeros_like(problem.mask)
    found = problem.run(impl, "hidden", Objective(forward_kl, T, hard_weight=0.3), torch.bfloat16)
    assert all(not x.any() for x in found)


@pytest.mark.parametrize("impl", ["chunked", "triton"])
def test_less_memory_than_the_logits(device: torch.device, impl: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if device.type != "cuda":
        pytest.skip("peak memory is counted on CUDA only")
    monkeypatch.setattr(chunked, "CHUNK_ROWS", {"cuda": 64})
    problem = Problem(device, 4096, 32_768)
    hidden, weight, _ = (leaf.bfloat16().requires_grad_() for leaf in problem.leaves)
    teacher = replace(problem.teacher, head=replace(problem.teacher.head, bias=None)).to(torch.bfloat16)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    linear_divergence(hidden, weight, teacher, Objective(forward_kl, T), impl=impl).mean.backward()
    torch.cuda.synchronize()
    assert torch.cuda.max_memory_allocated() - before < 4096 * 32_768 * 2
