"""How right every implementation of `linear_divergence` must be near the teacher, from operands in half precision.

Oracle: the naive lines in float64 from the same operands. Near the teacher, a loss is the small difference of large
logits: rounding those first, as bfloat16 does, would leave little but noise of it.
"""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from limbeck import Divergence, Head, HiddenTargets, Objective, linear_divergence
from limbeck.losses import matmul
from limbeck.losses.divergences import forward_kl
from limbeck.losses.matmul import Method, method_for
from limbeck.training.monitor import measured_in_chunks

from .test_kernel import DIVERGENCES, error, every_kernel, small_blocks

__all__ = ["small_blocks"]

N, C, H = 21, 507, 64
KLS, DEVIATIONS = (1e-3, 1e-2, 1e-1), (2.0, 4.0, 8.0)
VALUE, GRADIENT = 1e-3, 5e-3  # relative errors, at most


@pytest.fixture(params=[Method.RESIDUAL, Method.UPCAST], ids=lambda method: method.name)
def method(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Method:
    """Both methods that a CPU may use, whatever this one would choose."""
    units = request.param is Method.RESIDUAL
    monkeypatch.setattr(matmul, "_has_matmul_units", lambda dtype: units)
    chosen: Method = request.param
    return chosen


def near_the_teacher(kl: float, deviation: float, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, HiddenTargets]:
    """hidden, weight and bias of a student with about this KL, and the teacher: logits have the standard deviation."""
    g = torch.Generator().manual_seed(5)
    hidden, weight = torch.randn(N, H, generator=g), deviation / math.sqrt(H) * torch.randn(C, H, generator=g)
    bias = torch.randn(C, generator=g)
    apart = math.sqrt(2 * kl / H) * torch.randn(C, H, generator=g)
    teacher = HiddenTargets(hidden.to(dtype), Head(weight.to(dtype), bias.to(dtype)))
    return hidden.to(dtype), (weight + apart).to(dtype), bias.to(dtype), teacher


def run(impl: str, operands: Any, objective: Objective, dtype: torch.dtype, **more: Any) -> list[Tensor]:
    """[loss, d hidden, d weight, d bias] in float64; operands: hidden, weight, bias, targets."""
    *leaves, targets = operands
    leaves = [leaf.to(dtype).requires_grad_() for leaf in leaves]
    hidden, weight, bias = leaves
    targets = None if targets is None else targets.to(dtype)
    loss = linear_divergence(hidden, weight, targets, objective, bias=bias, impl=impl, **more).mean
    return [x.detach().double() for x in (loss, *torch.autograd.grad(loss, leaves))]


@every_kernel
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("divergence", DIVERGENCES, ids=lambda d: getattr(d, "name", "a user's"))
def test_value_and_gradients_near_the_teacher(divergence: Any, dtype: torch.dtype, impl: str, method: Method) -> None:
    objective = Objective(divergence, 1.0)
    for kl in KLS:
        for deviation in DEVIATIONS:
            operands = near_the_teacher(kl, deviation, dtype)
            assert method_for(operands[1], "exact") is method
            truth = run("reference", operands, objective, torch.float64)
            value, *gradients = error(run(impl, operands, objective, dtype), truth)
            # the user's is no divergence of distributions: a few sure rows, with large logits, are nearly all of it
            assert value < VALUE * (1 if isinstance(divergence, Divergence) else 2), (kl, deviation, value)
            assert max(gradients) < GRADIENT, (kl, deviation, gradients)


@pytest.mark.parametrize("kl", KLS)
def test_these_students_are_as_near_as_meant(kl: float) -> None:
    for deviation in DEVIATIONS:
        operands = near_the_teacher(kl, deviation, torch.bfloat16)
        found = run("reference", operands, Objective(forward_kl, 1.0), torch.float64)[0].item()
        assert kl / 3 < found < 3 * kl


@every_kernel
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_rows_with_labels_alone_that_the_student_knows(dtype: torch.dtype, impl: str, method: Method) -> None:
    """Cross-entropies of about 1e-3: what is left of 1 is small."""
    labels = torch.arange(N) * 7
    objective = Objective(soft_weight=0, hard_weight=1)
    for deviation in DEVIATIONS:
        hidden, weight, bias, _ = near_the_teacher(1e-3, deviation, dtype)
        of_labels = weight[labels].float()
        known = math.log(C) + deviation**2 / 2 + 6.0
        hidden = (hidden.float() + known * of_labels / of_labels.square().sum(-1, keepdim=True)).to(dtype)
        operands = hidden, weight, bias, None
        truth = run("reference", operands, objective, torch.float64, labels=labels)
        value, *gradients = error(run(impl, operands, objective, dtype, labels=labels), truth)
        assert value < VALUE, (deviation, value)
        assert max(gradients) < GRADIENT, (deviation, gradients)


@pytest.mark.parametrize("impl", ["reference", "chunked"])
def test_logits_that_are_rounded_first_fail(impl: str) -> None:
    """What every implementation did that subtracts bfloat16 logits, and what precision="fast" still does."""
    objective = Objective(forward_kl, 1.0)
    for deviation in DEVIATIONS:
        *student, teacher = near_the_teacher(1e-3, deviation, torch.bfloat16)
        head = Head(teacher.head.weight, teacher.head.bias, precision="fast")
        operands = *student, HiddenTargets(teacher.hidden, head)
        truth = run("reference", operands, objective, torch.float64)
        value, *gradients = error(run(impl, operands, objective, torch.bfloat16, precision="fast"), truth)
        assert value > 10 * VALUE
        assert max(gradients) > 10 * GRADIENT


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("grad", [False, True])
def test_a_head_gives_the_logits_in_float32(dtype: torch.dtype, grad: bool, method: Method) -> None:
    hidden, weight, bias, _ = near_the_teacher(1e-3, 4.0, dtype)
    truth = hidden.double() @ weight.double().T + bias.double()
    logits = Head(weight.requires_grad_(grad), bias)(hidden.view(3, 7, H))
    assert (logits.shape, logits.dtype, logits.requires_grad) == ((3, 7, C), torch.float32, grad)
    assert (logits.view(N, C).double() - truth).abs().max() < 2e-4
    rounded = Head(weight, bias, precision="fast")(hidden)
    assert (rounded.double() - truth).abs().max() > 1e-3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_is_as_right(dtype: torch.dtype, method: Method) -> None:
    objective = Objective(forward_kl, 1.0)
    operands = near_the_teacher(1e-3, 4.0, dtype)
    truth = run("reference", operands, objective, torch.float64)
    for impl in ("reference", "chunked"):
        with torch.autocast("cpu", dtype):
            value, *gradients = error(run(impl, operands, objective, torch.float32), truth)
        assert value < VALUE
        assert max(gradients) < GRADIENT


@pytest.mark.parametrize("autocast", [False, True])
def test_an_evaluation_measures_the_same(autocast: bool, method: Method) -> None:
    """KL of every position, not of their mean alone; from hidden states of student and teacher."""
    objective, labels = Objective(forward_kl, 1.0), torch.arange(N)
    hidden, weight, bias, teacher = near_the_teacher(1e-2, 4.0, torch.bfloat16)
    wide = measured_in_chunks(
        objective, hidden.double(), Head(weight.double(), bias.double()), teacher.to(torch.float64), labels
    )
    if autocast:  # of weights in float32
        hidden, weight, bias, teacher = hidden.float(), weight.float(), bias.float(), teacher.to(torch.float32)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = measured_in_chunks(objective, hidden, Head(weight, bias), teacher, labels)
    for name in ("soft_loss", "forward_kl", "reverse_kl", "nll"):
        (off,) = error([found[name].double()], [wide[name]])
        assert off < VALUE, (name, off)


def test_a_matmul_that_rounds_twice_is_found_and_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """A residual that is taken from a product rounded by itself is 0, and tells nothing."""
    monkeypatch.setattr(matmul, "_has_matmul_units", lambda dtype: True)
    monkeypatch.setattr(torch, "addmm", lambda z, a, b, beta=1, **_: beta * z + a @ b)
    weight = torch.randn(40, 24).bfloat16()
    matmul._residual_is_exact.cache_clear()
    try:
        with pytest.warns(UserWarning, match="multiplies logits in float32.*rounds more than once") as warned:
            methods = [method_for(weight, "exact") for _ in range(2)]
        assert methods == [Method.UPCAST] * 2
        assert len(warned) == 1
    finally:
        matmul._residual_is_exact.cache_clear()


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
    ids=["torch", "cuBLAS"],
)
def test_a_gpu_without_free_memory_is_not_taken_for_one_without_float32_results(
    error: RuntimeError, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> Tensor:
        raise error

    monkeypatch.setattr(torch, "mm", full)
    matmul._has_out_dtype.cache_clear()
    with pytest.raises(type(error), match=str(error)[:20]):
        matmul._has_out_dtype(torch.device("cpu"), torch.bfloat16)
    assert matmul._has_out_dtype.cache_info().currsize == 0
