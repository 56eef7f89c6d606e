"""What every implementation of `linear_divergence` must do. A new one is a row of `KERNELS` and inherits every test.

Oracle: the naive lines (`impl="reference"`) in float64 through autograd. In bfloat16 the bound is what the naive
version itself is off on the same inputs.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import Tensor

from limbeck import (
    DenseTargets,
    Divergence,
    Head,
    HiddenTargets,
    MixedTargets,
    Objective,
    SampledTargets,
    SoftTargets,
    SparseTargets,
    linear_divergence,
)
from limbeck.errors import ObjectiveError, ShapeError
from limbeck.losses.divergences import (
    cross_entropy,
    forward_kl,
    jensen_shannon,
    logit_matching,
    reverse_kl,
    skewed_kl,
    skewed_reverse_kl,
    total_variation,
)
from limbeck.losses.linear import chunked, triton
from limbeck.losses.linear.problem import Settings
from limbeck.losses.matmul import Product


@contextmanager
def traced() -> Iterator[None]:
    """Dynamo traces what is compiled and runs the trace: code generation, seconds per case, has tests further below."""
    compile_with = torch.compile
    chunked._compiled.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "compile", lambda function, **_: compile_with(function, fullgraph=True, backend="eager"))
        yield
    chunked._compiled.cache_clear()


@contextmanager
def interpreted() -> Iterator[None]:
    """Triton's kernel in its interpreter, several blocks of classes; what it does not support goes the compiled way."""
    pytest.importorskip("triton")
    with traced(), np.errstate(all="ignore"), pytest.MonkeyPatch.context() as patch:  # it computes with numpy
        patch.setattr(triton, "BLOCK", 128)
        yield


KERNELS: dict[str, Callable[[], AbstractContextManager[None]]] = {
    "chunked": nullcontext,
    "compiled": traced,
    "triton": interpreted,
}
"""Values of `impl`, and the context that the tests of each run in."""

pytestmark = pytest.mark.filterwarnings("error:torch.compile failed")
every_kernel = pytest.mark.parametrize("impl", KERNELS)
T = 2.0
SHAPES = [(13, 252, 31), (5, 507, 64), (33, 123, 17)]


def squared(log_q: Tensor, log_p: Tensor) -> Tensor:
    """A user's own divergence, with no slope."""
    return (log_q.exp() - log_p.exp()).square().sum(-1)


DIVERGENCES = [
    forward_kl,
    reverse_kl,
    cross_entropy,
    jensen_shannon(0.3),
    skewed_kl(0.2),
    skewed_reverse_kl(0.2),
    total_variation,
    logit_matching,
    squared,
]


def hidden_targets(n: int, classes: int, width: int, seed: int = 7, **head: Any) -> HiddenTargets:
    g = torch.Generator().manual_seed(seed)
    weight = torch.randn(classes, width, generator=g) * 2 / math.sqrt(width)
    return HiddenTargets(torch.randn(n, width, generator=g), Head(weight, torch.randn(classes, generator=g), **head))


TARGETS: dict[str, Callable[[int, int], SoftTargets]] = {
    "dense": lambda n, c: DenseTargets(hidden_targets(n, c, 8).logits),
    "hidden": lambda n, c: hidden_targets(n, c, 24),
    "capped": lambda n, c: hidden_targets(n, c, 24, logit_scale=0.7, softcap=3.0),
    "mixed": lambda n, c: MixedTargets([hidden_targets(n, c, 8), hidden_targets(n, c, 9, 3).logits], weights=[2, 1]),
    "geometric": lambda n, c: MixedTargets([hidden_targets(n, c, 8), hidden_targets(n, c, 9, 3)], "geometric"),
    "sparse": lambda n, c: SparseTargets.from_logits(hidden_targets(n, c, 8).logits, 5, T),
    "complete": lambda n, c: SparseTargets.from_logits(hidden_targets(n, c, 8).logits, c, T),
    "sampled": lambda n, c: SampledTargets.draw(hidden_targets(n, c, 8).logits, 6, T, torch.Generator().manual_seed(1)),
}


def allowed(divergence: Any, targets: str) -> bool:
    if targets == "sampled":
        return divergence in (forward_kl, cross_entropy)
    return not (divergence is logit_matching and targets == "sparse")


class Student:
    """Hidden states and an output layer, in float32, with labels of which some are -100."""

    def __init__(self, n: int, classes: int, width: int):
        g = torch.Generator().manual_seed(11)
        self.hidden = torch.randn(n, width, generator=g)
        self.weight = torch.randn(classes, width, generator=g) * 2 / math.sqrt(width)
        self.bias = torch.randn(classes, generator=g)
        self.labels = torch.randint(0, classes, (n,), generator=g)
        self.labels[::4] = -100
        self.mask = torch.rand(n, generator=g) < 0.8
        self.mask[0] = True
        self.weights = torch.rand(n, generator=g) + 0.5

    def run(self, impl: str, targets: Any, objective: Objective, dtype: torch.dtype, **more: Any) -> list[Tensor]:
        """[loss, soft, hard, d hidden, d weight, d bias] in float64."""
        leaves = [x.to(dtype).requires_grad_() for x in (self.hidden, self.weight, self.bias)]
        hidden, weight, bias = leaves
        loss = linear_divergence(
            hidden, weight, cast(targets, dtype), objective, self.labels, bias=bias, impl=impl, **more
        )
        gradients = torch.autograd.grad(loss.mean, leaves)
        for leaf, gradient in zip(leaves, gradients, strict=True):
            assert gradient.dtype == leaf.dtype
        return [x.detach().double() for x in (loss.mean, *(part.sum for part in loss.parts.values()), *gradients)]


def cast(targets: Any, dtype: torch.dtype) -> Any:
    """Hidden states and their layer in a dtype; what is said in log-probabilities stays in float32 or wider."""
    if isinstance(targets, HiddenTargets):
        head = targets.head
        cast_head = replace(head, weight=head.weight.to(dtype), bias=head.bias.to(dtype))
        return HiddenTargets(targets.hidden.to(dtype), cast_head)
    if isinstance(targets, MixedTargets):
        return replace(targets, members=[cast(member, dtype) for member in targets.members])
    return targets


def rounded(student: Student) -> Student:
    """The same with what bfloat16 keeps of its numbers."""
    for name in ("hidden", "weight", "bias"):
        setattr(student, name, getattr(student, name).bfloat16().float())
    return student


def error(found: list[Tensor], truth: list[Tensor]) -> list[float]:
    return [((a - b).norm() / b.norm().clamp(min=1e-12)).item() for a, b in zip(found, truth, strict=True)]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[None]:
    """Blocks of four rows and chunks of a few: what is compiled is used on these small shapes too."""
    monkeypatch.setattr(chunked, "BLOCK_LOGITS", 1024)
    monkeypatch.setattr(chunked, "CHUNK_ROWS", {"cpu": 7})
    parameters = request.node.callspec.params if hasattr(request.node, "callspec") else {}
    with KERNELS.get(parameters.get("impl", ""), nullcontext)():
        yield
    torch.compiler.reset()


@every_kernel
@pytest.mark.parametrize("targets", TARGETS)
@pytest.mark.parametrize("divergence", DIVERGENCES, ids=lambda d: getattr(d, "name", "a user's"))
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_float32_equals_float64_autograd(divergence: Any, targets: str, shape: tuple[int, int, int], impl: str) -> None:
    if not allowed(divergence, targets):
        pytest.skip("these targets refuse this divergence")
    n, classes, width = shape
    student, said = Student(n, classes, width), TARGETS[targets](n, classes)
    objective = Objective(divergence, T, hard_weight=0.3)
    more = {"mask": student.mask, "weights": student.weights, "logit_scale": 0.8, "softcap": 5.0}
    truth = student.run("reference", said, objective, torch.float64, **more)
    found = student.run(impl, said, objective, torch.float32, **more)
    assert max(error(found, truth)) < 3e-5, error(found, truth)


@every_kernel
@pytest.mark.parametrize(("rows", "at_most"), [(512, 1.1), (7, 1.5)], ids=["one chunk", "each chunk's product rounded"])
@pytest.mark.parametrize("targets", TARGETS)
@pytest.mark.parametrize("divergence", DIVERGENCES, ids=lambda d: getattr(d, "name", "a user's"))
def test_bfloat16_is_no_further_off_than_the_naive_version(
    divergence: Any, targets: str, rows: int, at_most: float, impl: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunked, "CHUNK_ROWS", {"cpu": rows})
    if not allowed(divergence, targets):
        pytest.skip("these targets refuse this divergence")
    n, classes, width = 29, 252, 31
    student = rounded(Student(n, classes, width))
    said = cast(cast(TARGETS[targets](n, classes), torch.bfloat16), torch.float32)
    objective = Objective(divergence, T, hard_weight=0.3)
    truth = student.run("reference", said, objective, torch.float64)
    naive = error(student.run("reference", said, objective, torch.bfloat16, precision="fast"), truth)
    found = error(student.run(impl, said, objective, torch.bfloat16), truth)
    for ours, theirs in zip(found, naive, strict=True):
        assert ours <= at_most * theirs + 1e-6, (found, naive)


@pytest.mark.parametrize("targets", ["dense", "hidden", "sparse", None])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_compiled_code_equals_float64_autograd(
    targets: str | None, dtype: torch.dtype, recwarn: pytest.WarningsRecorder
) -> None:
    n, classes, width = 13, 252, 31
    student = rounded(Student(n, classes, width))
    said = None if targets is None else cast(cast(TARGETS[targets](n, classes), torch.bfloat16), torch.float32)
    objective = Objective(jensen_shannon(0.3), T, hard_weight=0.3, soft_weight=0 if targets is None else 1)
    truth = student.run("reference", said, objective, torch.float64)
    calls: list[int] = []
    compiled = chunked._compiled()
    uncounted = chunked._compiled
    chunked._compiled = lambda: lambda *a: (calls.append(1), compiled(*a))[1]  # type: ignore[assignment]
    try:
        found = error(student.run("compiled", said, objective, dtype), truth)
    finally:
        chunked._compiled = uncounted
    assert calls, "nothing was compiled"
    assert not [w for w in recwarn if "torch.compile failed" in str(w.message)]
    naive = error(student.run("reference", said, objective, dtype, precision="fast"), truth)
    at_most = 1.1 if dtype == torch.float32 else 1.5  # in bfloat16 each chunk's product is rounded
    for ours, theirs in zip(found, naive, strict=True):
        assert ours <= at_most * theirs + 3e-5, (found, naive)


@pytest.mark.parametrize("divergence", [d for d in DIVERGENCES if isinstance(d, Divergence)], ids=repr)
def test_every_built_in_divergence_compiles(divergence: Divergence) -> None:
    settings = Settings(Objective(divergence, T).terms, 1.0, None, True)
    logits, said = torch.randn(4, 300), DenseTargets(torch.randn(4, 300))
    share = torch.ones(4)
    eager = logits.clone()
    (expected,) = chunked._compare(Product(eager), None, said, None, (share,), settings)
    (found,) = torch.compile(chunked._compare, fullgraph=True)(Product(logits), None, said, None, (share,), settings)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(logits, eager, rtol=1e-4, atol=1e-6)


@every_kernel
@hypothesis_settings(max_examples=40)
@given(
    n=st.integers(0, 20),
    classes=st.integers(2, 300),
    width=st.integers(1, 40),
    rows=st.integers(1, 30),
    temperature=st.floats(0.5, 20),
    hard=st.floats(0, 2),
)
def test_any_shape_and_any_chunk(
    impl: str, n: int, classes: int, width: int, rows: int, temperature: float, hard: float
) -> None:
    student, said = Student(max(n, 1), classes, width), TARGETS["hidden"](max(n, 1), classes)
    student.mask = torch.arange(max(n, 1)) < n
    objective = Objective(forward_kl, temperature, hard_weight=hard)
    truth = student.run("reference", said, objective, torch.float64, mask=student.mask)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunked, "CHUNK_ROWS", {"cpu": rows})
        found = student.run(impl, said, objective, torch.float64, mask=student.mask)
    for a, b in zip(found, truth, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


@every_kernel
class TestEvery:
    def test_no_rows_and_no_counted_rows_give_zero(self, impl: str) -> None:
        student, said = Student(5, 50, 8), TARGETS["hidden"](5, 50)
        objective = Objective(hard_weight=0.5)
        nothing = student.run(impl, said, objective, torch.float32, mask=torch.zeros(5, dtype=torch.bool))
        assert all(not x.any() for x in nothing)
        empty = torch.randn(0, 8, requires_grad=True)
        loss = linear_divergence(empty, student.weight, said[:0], objective, student.labels[:0], impl=impl)
        loss.mean.backward()
        assert loss.mean == 0
        assert empty.grad is not None
        assert empty.grad.shape == (0, 8)

    def test_labels_alone_need_no_targets_and_unlabelled_rows_are_never_multiplied(self, impl: str) -> None:
        student = Student(12, 60, 8)
        student.hidden[::4] = torch.nan  # where the labels are -100
        objective = Objective(soft_weight=0, hard_weight=1)
        found = linear_divergence(student.hidden, student.weight, None, objective, student.labels, impl=impl)
        kept = student.labels != -100
        logits = student.hidden[kept].double() @ student.weight.double().T
        expected = torch.nn.functional.cross_entropy(logits, student.labels[kept])
        assert found.mean.item() == pytest.approx(expected.item(), rel=1e-5)
        assert found.count == kept.sum()

    def test_a_constant_on_the_logits_changes_nothing(self, impl: str) -> None:
        student = Student(9, 70, 8)
        logits = TARGETS["dense"](9, 70).logits.double()  # type: ignore[attr-defined]  # in float32 the shift would round
        objective = Objective(temperature=T, hard_weight=0.5)
        student.bias = student.bias.double()
        before = student.run(impl, DenseTargets(logits), objective, torch.float64)
        student.bias = student.bias + 3.0
        shifted = DenseTargets(logits - 5.0)
        after = student.run(impl, shifted, objective, torch.float64)
        for a, b in zip(after, before, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)

    def test_equal_models_are_at_zero_with_no_gradient(self, impl: str) -> None:
        student = Student(9, 70, 8)
        same = HiddenTargets(student.hidden, Head(student.weight, student.bias))
        found = student.run(impl, same, Objective(temperature=T), torch.float32)
        assert found[0] == 0
        assert all(gradient.abs().max() < 1e-7 for gradient in found[2:])

    def test_accumulation_over_parts_is_the_gradient_of_the_whole(self, impl: str) -> None:
        student, said = Student(20, 70, 8), TARGETS["hidden"](20, 70)
        objective = Objective(temperature=T, hard_weight=0.5)
        whole = student.run(impl, said, objective, torch.float64)
        leaves = [x.double().requires_grad_() for x in (student.hidden, student.weight, student.bias)]
        hidden, weight, bias = leaves
        cast_said = cast(said, torch.float64)
        counts = objective.align(torch.Size([20]), 70, cast_said, student.labels).counts(hidden.device)
        for part in (slice(0, 3), slice(3, 16), slice(16, 20)):
            loss = linear_divergence(
                hidden[part], weight, cast_said[part], objective, student.labels[part], bias=bias, counts=counts,
                impl=impl,
            )  # fmt: skip
            (loss.sum / counts.soft).backward()
        for leaf, expected in zip(leaves, whole[3:], strict=True):
            torch.testing.assert_close(leaf.grad, expected, rtol=1e-6, atol=1e-8)

    def test_leading_axes_are_positions(self, impl: str) -> None:
        student, said = Student(12, 60, 8), TARGETS["hidden"](12, 60)
        objective = Objective(hard_weight=0.5)
        flat = linear_divergence(student.hidden, student.weight, said, objective, student.labels, impl=impl)
        shaped = student.hidden.view(3, 4, 8), student.labels.view(3, 4)
        found = linear_divergence(shaped[0], student.weight, said, objective, shaped[1], impl=impl)
        assert torch.equal(found.mean, flat.mean)

    def test_no_gradient_is_computed_where_none_is_asked(self, impl: str) -> None:
        student, said = Student(6, 60, 8), TARGETS["hidden"](6, 60)
        weight = student.weight.clone().requires_grad_()
        loss = linear_divergence(student.hidden, weight, said, Objective(), impl=impl)
        (found,) = torch.autograd.grad(loss.mean, weight)
        reference = linear_divergence(student.hidden, weight, said, Objective(), impl="reference")
        torch.testing.assert_close(found, torch.autograd.grad(reference.mean, weight)[0])
        with torch.no_grad():
            assert not linear_divergence(student.hidden, weight, said, Objective(), impl=impl).sum.requires_grad

    @pytest.mark.parametrize("axes", ["states", "classes", "rows"])
    def test_what_does_not_fit_is_refused_naming_both_shapes(self, impl: str, axes: str) -> None:
        hidden, weight, said = torch.randn(6, 8), torch.randn(60, 8), TARGETS["dense"](6, 60)
        if axes == "states":
            with pytest.raises(ShapeError, match=r"hidden is \[6, 9\].*\[60, 8\]"):
                linear_divergence(torch.randn(6, 9), weight, said, Objective(), impl=impl)
        elif axes == "classes":
            with pytest.raises(ShapeError, match="over 61 classes, the teacher 6 over 60"):
                linear_divergence(hidden, torch.randn(61, 8), said, Objective(), impl=impl)
        else:
            with pytest.raises(ShapeError, match="5 positions over 60 classes, the teacher 6"):
                linear_divergence(hidden[:5], weight, said, Objective(), impl=impl)


@pytest.mark.parametrize("impl", ["reference", *KERNELS])
def test_a_whole_output_layer_takes_the_place_of_its_weight(impl: str) -> None:
    student, said = Student(9, 70, 8), TARGETS["hidden"](9, 70)
    leaves = [x.clone().requires_grad_() for x in (student.hidden, student.weight, student.bias)]
    hidden, weight, bias = leaves
    layer = {"bias": bias, "logit_scale": 0.8, "softcap": 5.0}
    objective = Objective(temperature=T, hard_weight=0.3)
    by_parts = linear_divergence(hidden, weight, said, objective, student.labels, impl=impl, **layer)
    whole = linear_divergence(hidden, Head(weight, **layer), said, objective, student.labels, impl=impl)
    assert torch.equal(whole.mean, by_parts.mean)
    expected, found = (torch.autograd.grad(loss.mean, leaves) for loss in (by_parts, whole))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("beside", [{"bias": torch.zeros(4)}, {"logit_scale": 0.5}, {"softcap": 5.0}], ids=str)
def test_parts_of_the_output_layer_beside_the_whole_are_refused(beside: dict[str, Any]) -> None:
    with pytest.raises(ObjectiveError, match="either the Head alone or its weight"):
        linear_divergence(torch.randn(2, 3), Head(torch.randn(4, 3)), torch.randn(2, 4), Objective(), **beside)


def test_an_unknown_implementation_is_refused() -> None:
    with pytest.raises(ObjectiveError, match="auto, reference, chunked, compiled, triton, not 'cuda'"):
        linear_divergence(torch.randn(2, 3), torch.randn(4, 3), torch.randn(2, 4), Objective(), impl="cuda")


def test_two_dtypes_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"hidden is torch\.float32 and weight torch\.bfloat16; cast"):
        linear_divergence(torch.randn(2, 3), torch.randn(4, 3).bfloat16(), torch.randn(2, 4), Objective())
