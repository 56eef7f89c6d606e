"""The chunked kernel where it is used: under autocast, checkpointing and DDP, with tied weights, in little memory.

Oracles: the naive lines in the same circumstances, and the sizes of all tensors that come into being.
"""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint
from two_processes import in_two_processes

from limbeck import DenseTargets, Head, HiddenTargets, Objective, forward_kl, linear_divergence, reverse_kl
from limbeck.losses.linear import chunked
from limbeck.losses.objective import Counts

N, C, H = 24, 90, 16
OBJECTIVE = Objective(temperature=2.0, hard_weight=0.4)


def taught(n: int = N, classes: int = C) -> HiddenTargets:
    g = torch.Generator().manual_seed(5)
    return HiddenTargets(torch.randn(n, 12, generator=g), Head(torch.randn(classes, 12, generator=g)))


class Model(nn.Module):
    """An embedding whose weight is the output layer's too, and the loss inside forward."""

    def __init__(self, impl: str):
        super().__init__()
        torch.manual_seed(3)
        self.embedding, self.inner, self.impl = nn.Embedding(C, H), nn.Linear(H, H), impl

    def forward(self, ids: Tensor, targets: Any, labels: Tensor, counts: Any = None) -> Tensor:
        hidden = self.inner(self.embedding(ids)).tanh()
        weight = self.embedding.weight
        loss = linear_divergence(hidden, weight, targets, OBJECTIVE, labels, counts=counts, impl=self.impl)
        return loss.sum / loss.count


def batch() -> tuple[Tensor, HiddenTargets, Tensor]:
    g = torch.Generator().manual_seed(9)
    ids, labels = torch.randint(0, C, (N,), generator=g), torch.randint(0, C, (N,), generator=g)
    labels[:3] = -100
    return ids, taught(), labels


def gradients(model: nn.Module) -> list[Tensor]:
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


def test_tied_weights_get_both_gradients() -> None:
    found, expected = Model("chunked"), Model("reference")
    for model in (found, expected):
        model(*batch()).backward()
    for a, b in zip(gradients(found), gradients(expected), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("impl", ["chunked", "compiled"])
def test_autocast_multiplies_in_its_dtype_and_returns_float32(impl: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked, "BLOCK_LOGITS", C * 4)
    found, expected = Model(impl), Model("reference")
    with torch.autocast("cpu", torch.bfloat16):
        values = [model(*batch()) for model in (found, expected)]
    for value in values:
        value.backward()
    assert values[0].dtype == torch.float32
    torch.testing.assert_close(*values, rtol=1e-5, atol=0)
    for a, b in zip(gradients(found), gradients(expected), strict=True):
        assert a.dtype == torch.float32
        assert (a - b).norm() < 1e-2 * b.norm()
    exact = Model("reference")
    exact(*batch()).backward()
    assert not torch.equal(gradients(exact)[0], gradients(found)[0])  # it was bfloat16


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_runs_it_twice_and_changes_nothing(reentrant: bool) -> None:
    plain, saved = Model("chunked"), Model("chunked")
    plain(*batch()).backward()
    ids, targets, labels = batch()
    hidden = saved.inner(saved.embedding(ids)).tanh()

    def loss(hidden: Tensor, weight: Tensor) -> Tensor:
        return linear_divergence(hidden, weight, targets, OBJECTIVE, labels, impl="chunked").mean

    value: Any = checkpoint(loss, hidden, saved.embedding.weight, use_reentrant=reentrant)
    value.backward()
    for a, b in zip(gradients(saved), gradients(plain), strict=True):
        torch.testing.assert_close(a, b)


def test_a_second_backward_is_refused_not_wrong() -> None:
    hidden = torch.randn(4, H, requires_grad=True)
    loss = linear_divergence(hidden, torch.randn(C, H), taught(4), Objective(), impl="chunked")
    loss.mean.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="call it again"):
        loss.mean.backward()


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that any operation returned."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, Tensor):
                self.elements = max(self.elements, tensor.numel())
        return out


def test_no_logits_exist_beyond_a_chunk_however_many_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    classes, rows = 500, 16
    monkeypatch.setattr(chunked, "CHUNK_ROWS", {"cpu": rows})
    largest = {}
    for impl in ("chunked", "reference"):
        hidden = torch.randn(400, 4, requires_grad=True)
        weight = torch.randn(classes, 4, requires_grad=True)
        with Largest() as seen:
            linear_divergence(hidden, weight, taught(400, classes), Objective(), impl=impl).mean.backward()
        largest[impl] = seen.elements
    assert largest["chunked"] == rows * classes
    assert largest["reference"] == 400 * classes


def test_chunks_fit_into_their_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    exact, fast = (Head(torch.empty(1000, H, dtype=torch.bfloat16), precision=each) for each in ("exact", "fast"))
    targets = HiddenTargets(torch.empty(1, 8), Head(torch.empty(1000, 8)))
    monkeypatch.setattr(chunked, "CHUNK_BYTES", {"cpu": 60_000})
    assert chunked._chunk_rows(exact, targets) == 60_000 // (1000 * (4 + 4))
    assert chunked._chunk_rows(fast, targets) == 60_000 // (1000 * (2 + 4))
    assert chunked._chunk_rows(fast, None) == 60_000 // (1000 * 2)
    monkeypatch.setattr(chunked, "CHUNK_BYTES", {"cpu": 1})
    assert chunked._chunk_rows(fast, None) == 1


def test_where_nothing_compiles_it_warns_once_and_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_compiler(function: Any, **options: Any) -> Any:
        def fail(*arguments: Any) -> Any:
            raise RuntimeError("no C++ compiler was found")

        return fail

    monkeypatch.setattr(torch, "compile", no_compiler)
    monkeypatch.setattr(chunked, "BLOCK_LOGITS", C * 4)
    chunked._compiled.cache_clear()
    try:
        found, expected = Model("compiled"), Model("reference")
        with pytest.warns(UserWarning, match="runs uncompiled: no C.. compiler") as warned:
            found(*batch()).backward()
        assert len(warned) == 1
        expected(*batch()).backward()
        for a, b in zip(gradients(found), gradients(expected), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    finally:
        chunked._compiled.cache_clear()


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """A torch.compile that raises `compiler["error"]` for reverse_kl, and notes the divergences that it ran."""
    state: dict[str, Any] = {"error": KeyError("buf4"), "ran": []}

    def fake(function: Any, **options: Any) -> Any:
        def run(*arguments: Any) -> Any:
            name = arguments[-1].terms[0].divergence.name
            if name == "reverse_kl":
                raise state["error"]
            state["ran"].append(name)
            return function(*arguments)

        return run

    monkeypatch.setattr(torch, "compile", fake)
    monkeypatch.setattr(chunked, "BLOCK_LOGITS", C * 4)
    chunked._compiled.cache_clear()
    yield state
    chunked._compiled.cache_clear()


def compiled_loss(divergence: Any) -> Tensor:
    hidden, weight = torch.ones(N, H), torch.ones(C, H).requires_grad_()
    return linear_divergence(hidden, weight, taught(), Objective(divergence), impl="compiled").mean


def test_a_case_that_does_not_compile_leaves_the_others_compiled(compiler: dict[str, Any]) -> None:
    with pytest.warns(UserWarning, match=r"runs uncompiled: 'buf4'\s.*soft \(reverse_kl\) and LayerTargets") as warned:
        found, _ = [compiled_loss(reverse_kl) for _ in range(2)]
    assert len(warned) == 1
    hidden, weight = torch.ones(N, H), torch.ones(C, H)
    torch.testing.assert_close(
        found.detach(), linear_divergence(hidden, weight, taught(), Objective(reverse_kl), impl="reference").mean
    )
    assert not compiler["ran"]
    compiled_loss(forward_kl)
    assert set(compiler["ran"]) == {"forward_kl"}


def _caused_by(cause: BaseException) -> BaseException:
    error = RuntimeError("backend='inductor' raised")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        _caused_by(torch.OutOfMemoryError("CUDA out of memory")),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
    ],
    ids=["raised", "as a cause", "on a CPU"],
)
def test_running_out_of_memory_is_no_failure_to_compile(compiler: dict[str, Any], error: BaseException) -> None:
    compiler["error"] = error
    for _ in range(2):  # the second time as the first: the case is still compiled
        with pytest.raises(RuntimeError) as raised:
            compiled_loss(reverse_kl)
        assert raised.value is error


def test_targets_of_a_users_own_come_back_through_autograd() -> None:
    class Halves:
        """Two events: the first half of the classes and the second."""

        num_classes = C

        def __init__(self, log_probs: Tensor):
            self.log_probs = log_probs

        def __len__(self) -> int:
            return len(self.log_probs)

        def __getitem__(self, rows: Any) -> "Halves":
            return Halves(self.log_probs[rows])

        def to(self, device: Any) -> "Halves":
            return self

        def events(self, student: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
            halves = student[:, : C // 2].logsumexp(-1), student[:, C // 2 :].logsumexp(-1)
            return torch.stack(halves, -1), self.log_probs

        def compared_by(self, divergence: Any, temperature: float) -> Any:
            return divergence

        def bad_rows(self, divergence: Any) -> Tensor:
            return torch.zeros(len(self), dtype=torch.bool)

    targets = Halves(torch.randn(N, 2).log_softmax(-1))
    values = []
    for impl in ("chunked", "compiled", "reference"):
        hidden, weight = (
            torch.randn(N, H, generator=torch.Generator().manual_seed(1)),
            taught().head.weight.repeat(1, 2),
        )
        hidden, weight = hidden.requires_grad_(), weight[:, :H].clone().requires_grad_()
        loss = linear_divergence(hidden, weight, targets, Objective(forward_kl, 3.0), impl=impl).mean
        values.append([loss.detach(), *torch.autograd.grad(loss, (hidden, weight))])
    for found in values[:2]:
        for a, b in zip(found, values[2], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_dense_targets_without_gradient_do_not_change() -> None:
    said = torch.randn(N, C)
    before = said.clone()
    hidden = torch.randn(N, H, requires_grad=True)
    linear_divergence(hidden, torch.randn(C, H), DenseTargets(said), Objective(), impl="chunked").mean.backward()
    assert torch.equal(said, before)


def _one_of_two(rank: int, folder: str) -> None:
    dist.init_process_group("gloo")
    model = nn.parallel.DistributedDataParallel(Model("chunked"))
    ids, targets, labels = batch()
    rows = slice(0, 9) if rank == 0 else slice(9, N)
    counts = OBJECTIVE.align(torch.Size([N]), C, targets, labels).counts(ids.device)
    loss = model(ids[rows], targets[rows], labels[rows], counts)
    (2 * loss).backward()  # DDP takes the mean over processes, of shares that add up
    if rank == 0:
        torch.save(gradients(model), Path(folder) / "gradients.pt")


def test_two_processes_under_ddp_have_the_gradient_of_one(tmp_path: Path) -> None:
    in_two_processes(_one_of_two, str(tmp_path))
    found = torch.load(tmp_path / "gradients.pt", weights_only=True)
    alone = copy.deepcopy(Model("chunked"))
    alone(*batch()).backward()
    for a, b in zip(found, gradients(alone), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_without_grad_no_gradient_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, weight = torch.randn(N, H, requires_grad=True), torch.randn(C, H, requires_grad=True)
    products: list[Any] = []
    add = chunked._Gradients.add
    monkeypatch.setattr(chunked._Gradients, "add", lambda self, *a: (products.append(self), add(self, *a)))
    with torch.no_grad():
        value = linear_divergence(hidden, weight, taught(), Objective(), impl="chunked").mean
    assert [gradients.needed() for gradients in products] == [False]
    assert value == linear_divergence(hidden, weight, taught(), Objective(), impl="chunked").mean
    assert [gradients.needed() for gradients in products] == [False, True]


def test_float16_does_not_overflow_where_labels_are_few() -> None:
    """One label for 200,000 positions weighs as much as they do together."""
    objective = Objective(hard_weight=1.0)
    counts = objective.align(torch.Size([2]), C, torch.zeros(2, C), torch.tensor([3, -100])).counts(torch.device("cpu"))
    counts = Counts(soft=torch.tensor(200_000.0), hard=counts["hard"])
    hidden, weight = torch.randn(2, H).half().requires_grad_(), torch.randn(C, H).half().requires_grad_()
    labels, said = torch.tensor([3, -100]), torch.randn(2, C)
    found, expected = (
        torch.autograd.grad(
            linear_divergence(hidden, weight, said, objective, labels, counts=counts, impl=impl).mean, (hidden, weight)
        )
        for impl in ("chunked", "reference")
    )
    for a, b in zip(found, expected, strict=True):
        assert a.isfinite().all()
        torch.testing.assert_close(a, b, rtol=2e-2, atol=1e-3)
