"""Triton's kernel where the contract of all kernels does not look: zeros, labels, the code of a GPU, the ways round it.

Oracle: the naive lines in float64. The kernel runs in Triton's interpreter, except where a test compiles it.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from limbeck import DenseTargets, Divergence, Head, HiddenTargets, Objective, SparseTargets, linear_divergence
from limbeck.errors import ObjectiveError
from limbeck.losses import divergences, matmul
from limbeck.losses.divergences import built_in, forward_kl, jensen_shannon, reverse_kl, skewed_kl, skewed_reverse_kl
from limbeck.losses.linear import chunked, triton
from limbeck.losses.linear.problem import Settings
from limbeck.losses.matmul import Product
from limbeck.losses.terms import HardTerm, SoftTerm

pytest.importorskip("triton")
N, C, H = 9, 300, 12
WITH_SHARE = [jensen_shannon(0.3), skewed_kl(0.2), skewed_reverse_kl(0.2)]
BUILT_IN = [*(each for each in vars(divergences).values() if isinstance(each, Divergence)), *WITH_SHARE]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(triton, "BLOCK", 128)
    with np.errstate(all="ignore"):  # of the interpreter's arithmetic on what is masked
        yield


def student() -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    labels = torch.randint(0, C, (N,), generator=g)
    labels[::4] = -100
    return torch.randn(N, H, generator=g), torch.randn(C, H, generator=g), labels


def run(impl: str, targets: Any, objective: Objective, dtype: torch.dtype, **more: Any) -> list[Tensor]:
    """[loss, d hidden, d weight] in float64."""
    hidden, weight, labels = student()
    leaves = [x.to(dtype).requires_grad_() for x in (hidden, weight)]
    loss = linear_divergence(leaves[0], leaves[1], targets, objective, labels, impl=impl, **more).mean
    return [x.detach().double() for x in (loss, *torch.autograd.grad(loss, leaves))]


def off(found: list[Tensor], expected: list[Tensor]) -> float:
    return max(((a - b).norm() / b.norm()).item() for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("divergence", [d for d in BUILT_IN if d.allows_zero], ids=repr)
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_teachers_with_zeros_even_in_a_whole_first_block(divergence: Divergence, temperature: float) -> None:
    logits = 30 * torch.randn(N, C, generator=torch.Generator().manual_seed(1))
    logits[:, :150] = -torch.inf
    logits[2, 200:] = -torch.inf
    objective = Objective(divergence, temperature, hard_weight=0.5)
    truth = run("reference", DenseTargets(logits), objective, torch.float64)
    assert off(run("triton", DenseTargets(logits), objective, torch.float32), truth) < 1e-5


@pytest.mark.parametrize("divergence", BUILT_IN, ids=repr)
def test_students_far_beyond_what_float32_tells_from_zero(divergence: Divergence) -> None:
    logits = 100 * torch.randn(N, C, generator=torch.Generator().manual_seed(1))
    more: dict[str, Any] = {"logit_scale": 40.0}
    truth = run("reference", DenseTargets(logits), Objective(divergence, 1.0), torch.float64, **more)
    found = run("triton", DenseTargets(logits), Objective(divergence, 1.0), torch.float32, **more)
    for ours, true in zip(found, truth, strict=True):  # some gradients are all but 0 there
        assert (ours - true).abs().max() < 1e-4 * (1 + true.abs().max())


def test_a_zero_of_the_teacher_is_infinitely_far_for_reverse_kl() -> None:
    logits = torch.zeros(N, C)
    logits[:, 7] = -torch.inf
    hidden, weight, _ = student()
    with torch.no_grad():
        assert linear_divergence(hidden, weight, logits, Objective(reverse_kl), impl="triton").mean == torch.inf


@pytest.mark.filterwarnings("ignore:All-NaN slice")
def test_a_nan_stays_nan_and_a_label_beyond_the_classes_becomes_one() -> None:
    hidden, weight, labels = student()
    objective = Objective(soft_weight=0, hard_weight=1)
    hidden[1] = torch.nan
    assert labels[1] >= 0
    assert linear_divergence(hidden, weight, None, objective, labels, impl="triton").mean.isnan()
    assert linear_divergence(hidden[2:], weight, None, objective, labels[2:], impl="triton").mean.isfinite()
    labels[3] = C
    assert linear_divergence(hidden[2:], weight, None, objective, labels[2:], impl="triton").mean.isnan()


def test_logits_with_classes_beyond_the_tokens_are_cropped_in_place() -> None:
    wide = torch.randn(N, C + 20, generator=torch.Generator().manual_seed(1))
    for logits in (wide[:, :C], wide[:, :C].T.contiguous().T):
        truth = run("reference", DenseTargets(logits.double()), Objective(forward_kl), torch.float64)
        assert off(run("triton", DenseTargets(logits), Objective(forward_kl), torch.float32), truth) < 1e-5


@pytest.mark.parametrize("soft_weight", [0.0, 1.0])
def test_labels_that_are_a_column_of_a_wider_tensor(soft_weight: float) -> None:
    """They do not lie side by side in memory; nor do the rows of one label for all."""
    hidden, weight, labels = student()
    targets = DenseTargets(torch.randn(N, C, generator=torch.Generator().manual_seed(1)))
    objective = Objective(forward_kl, soft_weight=soft_weight, hard_weight=1)
    others = torch.randint(0, C, (N,), generator=torch.Generator().manual_seed(2))
    for spread in (torch.stack([others, labels, others], 1)[:, 1], labels[1].expand(N)):
        assert spread.stride() != (1,)
        truth, found = (
            linear_divergence(hidden, weight, targets, objective, spread, impl=impl).mean
            for impl in ("reference", "triton")
        )
        torch.testing.assert_close(found, truth, rtol=1e-5, atol=0)


def test_the_kernel_is_launched_on_the_gpu_of_the_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton launches on the current one, which may be another."""
    hidden, weight, labels = student()
    current, launched_on = [-1], []

    @contextmanager
    def device(index: int) -> Iterator[None]:
        current.append(index)
        yield
        current.pop()

    class Kernel:
        def __getitem__(self, grid: tuple[int, ...]) -> Any:
            return lambda *_, **__: launched_on.append(current[-1])

    monkeypatch.setattr(torch.cuda, "device", device)
    monkeypatch.setattr(Tensor, "is_cuda", True)
    monkeypatch.setattr(Tensor, "get_device", lambda _: 3)
    monkeypatch.setattr(triton._device(), "compare", Kernel())
    settings = Settings((HardTerm("hard", 1.0),), 1.0, None, False)
    triton.compare(Product(hidden @ weight.T), None, None, labels, (torch.ones(N),), settings)
    assert (launched_on, current) == ([3], [-1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("divergence", [forward_kl, reverse_kl, jensen_shannon(0.3)], ids=repr)
def test_the_way_of_a_gpu(divergence: Divergence, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """float32 logits in one buffer, their gradient in `dtype` in another, a row per program; matmuls are emulated.

    The interpreter truncates the gradient where a GPU rounds it.
    """
    mm = torch.mm
    calls: list[int] = []

    def emulated(a: Tensor, b: Tensor, *, out_dtype: torch.dtype | None = None, out: Tensor | None = None) -> Tensor:
        if out_dtype is None:
            return mm(a, b, out=out)
        calls.append(1)
        return mm(a.to(out_dtype), b.to(out_dtype), out=out)

    monkeypatch.setattr(torch, "mm", emulated)
    monkeypatch.setattr(matmul, "method_for", lambda *_: matmul.Method.OUT_DTYPE)
    monkeypatch.setattr(triton, "interpreted", lambda: False)
    monkeypatch.setattr(triton, "require", lambda device: None)
    monkeypatch.setattr(chunked, "CHUNK_ROWS", {"cpu": 5})
    g = torch.Generator().manual_seed(2)
    targets = HiddenTargets(torch.randn(N, H, generator=g), Head(torch.randn(C, H, generator=g))).to(dtype)
    objective = Objective(divergence, 2.0, hard_weight=0.3)
    hidden, weight, labels = student()
    exact = [x.to(dtype).double().requires_grad_() for x in (hidden, weight)]
    loss = linear_divergence(exact[0], exact[1], targets.to(torch.float64), objective, labels, impl="reference").mean
    truth = [loss.detach(), *torch.autograd.grad(loss, exact)]
    found = run("triton", targets, objective, dtype)
    assert len(calls) == 4  # two heads, two chunks
    assert off(found[:1], truth[:1]) < 1e-5
    assert off(found[1:], truth[1:]) < 2**-7


@pytest.mark.parametrize("divergence", BUILT_IN, ids=repr)
def test_built_in_divergences_are_known_by_their_functions(divergence: Divergence) -> None:
    name, share = built_in(divergence) or ("", -1)
    assert divergence.name == (f"{name}({share:g})" if share else name)
    assert built_in(replace(divergence, temperature_power=1)) == (name, share)
    assert built_in(replace(divergence, value=lambda log_q, log_p: log_q.sum(-1))) is None
    assert built_in(replace(divergence, slope=lambda log_q, log_p: log_q)) is None
    assert built_in(replace(skewed_kl(0.2), slope=skewed_kl(0.3).slope)) is None


def test_what_is_not_supported() -> None:
    class Softer(DenseTargets):
        def all_log_probs(self, temperature: float) -> Tensor:
            return super().all_log_probs(2 * temperature)

    soft, hard, logits = SoftTerm("soft", 1, forward_kl, 2.0), HardTerm("hard", 1), torch.randn(4, 7)
    mine = replace(soft, divergence=replace(forward_kl, value=lambda log_q, log_p: log_q.sum(-1)))
    assert triton.supports((soft, hard), DenseTargets(logits))
    assert triton.supports((hard,), None)
    assert not triton.supports((soft,), SparseTargets.from_logits(logits, 3, 2.0))
    assert not triton.supports((soft,), Softer(logits))
    assert not triton.supports((mine,), DenseTargets(logits))
    assert not triton.supports((soft, replace(soft, name="again")), DenseTargets(logits))
    assert not triton.supports((soft, replace(hard, name="own")), None)


def test_without_triton_or_a_gpu_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments: Any = (*student()[:2], torch.randn(N, C), Objective())
    monkeypatch.setattr(triton, "interpreted", lambda: False)
    with pytest.raises(ObjectiveError, match='impl="triton" needs tensors on a CUDA GPU, but they are on cpu; use'):
        linear_divergence(*arguments, impl="triton")
    monkeypatch.setattr(triton, "find_spec", lambda name: None)
    with pytest.raises(ObjectiveError, match="needs the package triton, which is not installed"):
        linear_divergence(*arguments, impl="triton")
    assert not triton.works_on.__wrapped__(torch.device("cpu"))


def test_a_kernel_that_does_not_run_is_reported_once(monkeypatch: pytest.MonkeyPatch) -> None:
    triton.works_on.cache_clear()
    assert triton.works_on(torch.device("cpu"))

    def no_compiler(*_: Any) -> None:
        raise RuntimeError("Failed to find C compiler")

    triton.works_on.cache_clear()
    monkeypatch.setattr(triton, "compare", no_compiler)
    with pytest.warns(UserWarning, match=r"does not run on cpu.*torch\.compile.*Failed to find C compiler") as warned:
        assert [triton.works_on(torch.device("cpu")) for _ in range(2)] == [False, False]
    assert len(warned) == 1
    triton.works_on.cache_clear()


COMPILE = """
import triton.language as tl
from triton import compile
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from limbeck.losses.linear import device, triton

assert not device.INTERPRETED
names = device.compare.arg_names
for kind, cap, half in [("reverse_kl", 5.0, "fp16"), ("jensen_shannon", None, "bf16"), (None, None, "fp32")]:
    types = dict.fromkeys(names, "*fp32") | {"gradient_ptr": "*" + half, "label_ptr": "*i64"}
    types |= dict.fromkeys(["z_stride", "t_stride", "gradient_stride", "m", "classes"], "i32")
    constants = dict(KIND=kind, SHARE=0.3, INVERSE_T=0.5, Z_SCALE=1.0, Z_CAP=cap, T_SCALE=0.5, T_CAP=cap,
                     WIDE=tl.float32, ROWS=1, BLOCK=triton.BLOCK)
    if kind is None:
        constants |= dict.fromkeys(["t_ptr", "t_bias_ptr", "soft_share_ptr", "soft_ptr"])
    types |= dict.fromkeys(constants, "constexpr")
    source = ASTSource(device.compare, types, {(names.index(name),): value for name, value in constants.items()})
    compiled = compile(source, target=GPUTarget("cuda", 90, 32), options=triton._options(triton.BLOCK))
    print(kind, len(compiled.asm["cubin"]))
"""


def test_the_kernel_compiles_for_a_gpu_that_is_not_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    script = tmp_path / "compile_all.py"  # Triton reads the source of what it compiles from files
    script.write_text(COMPILE, encoding="utf-8")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 3
