"""What every kind of soft targets must do. A new kind is a row of `KINDS` and inherits everything below."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from limbeck.errors import TargetError
from limbeck.losses.divergences import forward_kl, reverse_kl
from limbeck.losses.objective import Objective
from limbeck.losses.targets import (
    DenseTargets,
    Head,
    HiddenTargets,
    MixedTargets,
    SampledTargets,
    SoftTargets,
    SparseTargets,
    as_targets,
    autocast_to,
    chunk_reader,
    concatenate,
    given_logits,
    hidden_states,
    is_compilable,
    is_complete,
    is_partition,
    logit_bytes,
    softened_logits,
)
from limbeck.store.kinds import kind_from
from limbeck.training.config import DistillConfig
from limbeck.training.monitor import measured
from limbeck.training.trainer import DistillTrainer
from limbeck.transfer import arrays

INF, NAN = math.inf, math.nan
N, C, BAD = 6, 7, 3  # positions, classes, the row that is spoiled
T = 2.0


def logits(seed: int) -> Tensor:
    return 2 * torch.randn(N, C, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def row_set(tensor: Tensor, values: Any) -> Tensor:
    """The tensor with row `BAD` changed."""
    tensor = tensor.clone()
    tensor[BAD] = torch.as_tensor(values, dtype=tensor.dtype)
    return tensor


def sparse(k: int = 3, **changed: Any) -> SparseTargets:
    targets = SparseTargets.from_logits(logits(1), k, T)
    return dataclasses.replace(targets, **{name: change(getattr(targets, name)) for name, change in changed.items()})


def sampled(**changed: Any) -> SampledTargets:
    targets = SampledTargets.draw(logits(1), 4, T, torch.Generator().manual_seed(0))
    return dataclasses.replace(targets, **{name: change(getattr(targets, name)) for name, change in changed.items()})


def mixed(mean: str, spoil: Callable[[Tensor], Tensor] = lambda v: v) -> MixedTargets:
    return MixedTargets([DenseTargets(logits(1)), DenseTargets(spoil(logits(2)))], mean, weights=[3, 1])


not_logits = {
    "nan": lambda v: row_set(v, [NAN, *[0.0] * (C - 1)]),
    "+inf": lambda v: row_set(v, [INF, *[0.0] * (C - 1)]),
    "only -inf": lambda v: row_set(v, [-INF] * C),
}


def spoiled_sparse(k: int) -> dict[str, Callable[[], SoftTargets]]:
    spoiled = {
        "nan": lambda: sparse(k, log_probs=lambda x: row_set(x, [NAN, *[-2.0] * (k - 1)])),
        "+inf": lambda: sparse(k, log_probs=lambda x: row_set(x, [INF, *[-2.0] * (k - 1)])),
        "only -inf": lambda: sparse(
            k, log_probs=lambda x: row_set(x, [-INF] * k), tail=lambda x: None if x is None else row_set(x, -INF)
        ),
        "mass above 1": lambda: sparse(k, log_probs=lambda x: row_set(x, [0.1] * k)),
        "id too high": lambda: sparse(k, ids=lambda x: row_set(x, [C, *range(k - 1)])),
        "id below 0": lambda: sparse(k, ids=lambda x: row_set(x, [-1, *range(k - 1)])),
    }
    if k > 1:
        spoiled["a class twice"] = lambda: sparse(k, ids=lambda x: row_set(x, [0, *range(k - 1)]))
        spoiled["mass below 1"] = lambda: sparse(
            k, log_probs=lambda x: row_set(x, [-4.0] * k), tail=lambda x: None if x is None else row_set(x, -50.0)
        )
    if k < C:
        spoiled["nan in the tail"] = lambda: sparse(k, tail=lambda x: row_set(x, NAN))
        spoiled["nan in the tail's mean"] = lambda: sparse(k, tail_mean=lambda x: row_set(x, NAN))
    return spoiled


def hidden(**changed: Any) -> HiddenTargets:
    g = torch.Generator().manual_seed(4)
    weight, bias, states = (torch.randn(*shape, generator=g, dtype=torch.float64) for shape in ((C, 4), (C,), (N, 4)))
    targets = HiddenTargets(states, Head(weight, bias, logit_scale=0.8, softcap=4.0))
    return dataclasses.replace(targets, **{name: change(getattr(targets, name)) for name, change in changed.items()})


class Kind(NamedTuple):
    name: str
    make: Callable[[], SoftTargets]
    events: int  # E
    spoiled: dict[str, Callable[[], SoftTargets]]  # the same, with row BAD no distribution
    partition: bool = True  # of all classes: probabilities of the events sum to 1


KINDS = [
    Kind(
        "dense",
        lambda: DenseTargets(logits(1)),
        C,
        {name: lambda spoil=spoil: DenseTargets(spoil(logits(1))) for name, spoil in not_logits.items()},
    ),
    Kind(
        "from_probs",
        lambda: DenseTargets.from_probs(logits(1).softmax(-1)),
        C,
        {
            "negative": lambda: DenseTargets.from_probs(row_set(logits(1).softmax(-1), [-0.1, 1.1, *[0.0] * (C - 2)])),
            "all 0": lambda: DenseTargets.from_probs(row_set(logits(1).softmax(-1), [0.0] * C)),
        },
    ),
    Kind(
        "hidden",
        hidden,
        C,
        {
            "nan": lambda: hidden(hidden=lambda x: row_set(x, [NAN, 0.0, 0.0, 0.0])),
            "inf": lambda: hidden(hidden=lambda x: row_set(x, [INF, 0.0, 0.0, 0.0])),
        },
    ),
    *[Kind(f"sparse-{k}", lambda k=k: sparse(k), min(k + 1, C), spoiled_sparse(k)) for k in (1, 3, C)],
    Kind("sparse without its tail", lambda: sparse(tail=lambda _: None, tail_mean=lambda _: None), 4, {}),
    Kind(
        "sampled",
        sampled,
        4,
        {
            "id too high": lambda: sampled(ids=lambda x: row_set(x, [0, 1, 2, C])),
            "id below 0": lambda: sampled(ids=lambda x: row_set(x, [0, 1, 2, -1])),
            "nan": lambda: sampled(weights=lambda x: row_set(x, [0.1, 0.1, 0.1, NAN])),
            "inf": lambda: sampled(weights=lambda x: row_set(x, [0.1, 0.1, 0.1, INF])),
            "negative": lambda: sampled(weights=lambda x: row_set(x, [0.1, 0.1, 0.1, -0.1])),
        },
        partition=False,
    ),
    *[
        Kind(
            f"mixed-{mean}",
            lambda mean=mean: mixed(mean),
            C,
            {name: lambda mean=mean, spoil=spoil: mixed(mean, spoil) for name, spoil in not_logits.items()},
        )
        for mean in ("arithmetic", "geometric")
    ],
    Kind(
        "mixed of mixed",
        lambda: MixedTargets([mixed("geometric"), DenseTargets(logits(3))]),
        C,
        {name: lambda spoil=spoil: MixedTargets([mixed("geometric", spoil)]) for name, spoil in not_logits.items()},
    ),
]

every = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
STUDENT = (logits(9) / T).log_softmax(-1)


@every
def test_it_is_soft_targets(kind: Kind) -> None:
    targets = kind.make()
    assert isinstance(targets, SoftTargets)
    assert as_targets(targets) is targets
    assert (len(targets), targets.num_classes) == (N, C)


@every
def test_events_are_two_rows_of_log_probabilities(kind: Kind) -> None:
    student = STUDENT.clone().requires_grad_()
    log_q, log_p = kind.make().events(student, T)
    assert log_q.shape == log_p.shape == (N, kind.events)
    assert log_q.requires_grad
    assert not log_p.requires_grad
    if kind.partition:
        torch.testing.assert_close(log_q.exp().sum(-1), torch.ones(N, dtype=torch.float64), rtol=0, atol=1e-12)
        torch.testing.assert_close(log_p.exp().sum(-1), torch.ones(N, dtype=torch.float64), rtol=0, atol=1e-12)
    assert (log_q <= 1e-12).all()
    assert (log_p <= 1e-12).all()


@every
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_teachers_side_is_float32_or_wider(kind: Kind, dtype: torch.dtype) -> None:
    """Targets stored in half precision are widened before they are softened."""
    narrow = _cast(kind.make(), dtype)
    log_q, log_p = narrow.events(STUDENT.float(), T)
    assert log_q.dtype == log_p.dtype == torch.float32
    exact = kind.make().events(STUDENT, T)[1]
    torch.testing.assert_close(log_p.double(), exact, rtol=2e-2, atol=5e-2)


@every
@pytest.mark.parametrize(
    "rows",
    [
        slice(1, 4),
        slice(None, None, 2),
        slice(0, 0),
        torch.tensor([4, 0, 0]),
        torch.tensor([True, False, True, True, False, False]),
        torch.zeros(N, dtype=torch.bool),
    ],
    ids=["slice", "step", "empty slice", "index", "mask", "empty mask"],
)
def test_the_events_of_some_rows_are_those_rows_of_the_events(kind: Kind, rows: Any) -> None:
    targets = kind.make()
    some = targets[rows]
    assert len(some) == len(STUDENT[rows])
    assert some.num_classes == C
    log_q, log_p = targets.events(STUDENT, T)
    some_q, some_p = some.events(STUDENT[rows], T)
    torch.testing.assert_close(some_q, log_q[rows], rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(some_p, log_p[rows], rtol=1e-13, atol=1e-13)
    assert some.bad_rows(forward_kl).tolist() == targets.bad_rows(forward_kl)[rows].tolist()


@every
def test_parts_put_together_are_the_whole(kind: Kind) -> None:
    targets = kind.make()
    whole = concatenate([targets[:1], targets[1:1], targets[1:4], targets[4:]])
    assert (type(whole), len(whole), whole.num_classes) == (type(targets), N, C)
    for one, other in zip(whole.events(STUDENT, T), targets.events(STUDENT, T), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-13, atol=1e-13)


@every
def test_spread_is_what_autograd_gives_through_the_events(kind: Kind) -> None:
    targets = kind.make()
    student = STUDENT.clone().requires_grad_()
    log_q, _ = targets.events(student, T)
    slope = torch.randn(log_q.shape, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    (expected,) = torch.autograd.grad(log_q, student, slope)
    found = targets.spread(slope, STUDENT, log_q.detach())  # type: ignore[attr-defined]
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)


@every
def test_what_is_complete_speaks_of_every_class_without_a_student(kind: Kind) -> None:
    """Oracle: the events against a uniform student. Its classes are known by where its own log q stand."""
    targets = kind.make()
    if not targets.complete:
        with pytest.raises(TargetError, match="all classes"):
            targets.all_log_probs(T)
        return
    student = logits(5).log_softmax(-1)
    log_q, log_p = targets.events(student, T)
    at = (log_q[:, :, None] == student[:, None, :]).to(log_p.dtype)  # [n, E, C]: which class each event is
    assert bool((at.sum(-1) == 1).all() and (at.sum(1) == 1).all())
    torch.testing.assert_close(targets.all_log_probs(T), torch.einsum("ne,nec->nc", log_p, at), rtol=1e-6, atol=1e-6)


def test_a_complete_kind_of_ones_own_has_its_divergences_and_agreement_measured() -> None:
    """A kind that no file of ours knows, beside dense targets of the same logits."""

    class Own(DenseTargets):
        pass

    class Foreign:
        """Only the protocol, and nothing inherited."""

        def __init__(self, inner: SoftTargets):
            self.inner = inner

        num_classes, complete = C, True

        def __len__(self) -> int:
            return len(self.inner)

        def __getitem__(self, rows: Any) -> Any:
            return Foreign(self.inner[rows])

        def to(self, device: Any) -> Any:
            return Foreign(self.inner.to(device))

        def events(self, student_log_probs: Tensor, temperature: float) -> Any:
            return self.inner.events(student_log_probs, temperature)

        def all_log_probs(self, temperature: float) -> Tensor:
            return self.inner.all_log_probs(temperature)

        def spread(self, slope: Tensor, student_log_probs: Tensor, log_q: Tensor) -> Tensor:
            return self.inner.spread(slope, student_log_probs, log_q)

        def compared_by(self, divergence: Any, temperature: float) -> Any:
            return divergence

        def bad_rows(self, divergence: Any) -> Tensor:
            return self.inner.bad_rows(divergence)

    dense = DenseTargets(logits(1))
    expected = measured(Objective(temperature=T), logits(2), dense, None)
    assert {"forward_kl", "reverse_kl", "agreement", "acceptance"} <= expected.keys()
    for targets in (Own(dense.logits), Foreign(dense)):
        found = measured(Objective(temperature=T), logits(2), as_targets(targets), None)
        assert found.keys() == expected.keys()
        for name, values in expected.items():
            torch.testing.assert_close(found[name], values)


class Foreign:
    """A kind of a user's own with the required members alone, beside dense targets of the same logits."""

    num_classes = C

    def __init__(self, inner: DenseTargets):
        self.inner = inner

    def __len__(self) -> int:
        return len(self.inner)

    def __getitem__(self, rows: Any) -> Any:
        return type(self)(self.inner[rows])

    def to(self, device: Any) -> Any:
        return type(self)(self.inner.to(device))

    def events(self, student_log_probs: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        return self.inner.events(student_log_probs, temperature)

    def compared_by(self, divergence: Any, temperature: float) -> Any:
        return divergence

    def bad_rows(self, divergence: Any) -> Tensor:
        return self.inner.bad_rows(divergence)


class ForeignComplete(Foreign):
    complete = True

    def all_log_probs(self, temperature: float) -> Tensor:
        return self.inner.all_log_probs(temperature)


def test_a_kind_with_the_required_members_alone_has_defaults_for_all_others() -> None:
    dense = DenseTargets(logits(1))
    foreign: Any = as_targets(Foreign(dense))
    assert (is_complete(foreign), is_partition(foreign), is_compilable(foreign)) == (False, True, False)
    assert (given_logits(foreign), hidden_states(foreign), logit_bytes(foreign)) == ([], None, 0)
    assert autocast_to(foreign, torch.bfloat16) is foreign
    block: Any = chunk_reader(foreign, 4)(slice(2, 6))[slice(1, 3)]
    torch.testing.assert_close(block.inner.logits, dense.logits[3:5])
    complete: Any = ForeignComplete(dense)
    torch.testing.assert_close(softened_logits(complete, T), dense.all_log_probs(T))


@pytest.mark.parametrize("kind", [Foreign, ForeignComplete])
@pytest.mark.parametrize("labelled", [True, False])
def test_a_kind_of_ones_own_trains_as_dense_targets_do(kind: type[Foreign], labelled: bool, tmp_path: Path) -> None:
    inputs = logits(3).float()
    examples = arrays(inputs, torch.arange(N) % C if labelled else None)

    class Own:
        """A teacher that gives the targets of `kind`, or dense ones."""

        def __init__(self, kind: Any):
            self.kind = kind

        def __call__(self, batch: Any) -> Any:
            return self.kind(DenseTargets(3 * batch["inputs"]))

        def fingerprint(self) -> str:
            return "own"

    runs = []
    for wrapped in (lambda dense: dense, kind):
        torch.manual_seed(0)
        student = nn.Linear(C, C)
        config = DistillConfig(
            output_dir=str(tmp_path / "run"), learning_rate=0.1, save_strategy="no", disable_tqdm=True
        )
        objective = Objective(temperature=T, hard_weight=0.5 * labelled)
        trainer = DistillTrainer(
            student, Own(wrapped), objective, config, train_dataset=examples, eval_dataset=examples
        )
        trainer.train()
        runs.append((student.weight.detach().clone(), trainer.evaluate()))
    (expected, all_means), (found, means) = runs
    assert torch.equal(found, expected)
    for name in ("eval_soft_loss", "eval_loss", *(["eval_forward_kl"] if kind is ForeignComplete else [])):
        assert means[name] == pytest.approx(all_means[name], rel=1e-6)
    assert ("eval_agreement" in means) == (kind is ForeignComplete)


def test_what_a_kind_of_ones_own_lacks_to_be_mixed_or_stored_is_named() -> None:
    dense = DenseTargets(logits(1))
    foreign: Any = Foreign(dense)
    for use in (lambda: MixedTargets([dense, foreign]), lambda: kind_from("dense").encode(foreign)):
        with pytest.raises(TargetError, match=r"Foreign.*lacks complete and all_log_probs"):
            use()
    complete: Any = ForeignComplete(dense)
    mixture = MixedTargets([dense, complete]).all_log_probs(T)
    torch.testing.assert_close(mixture, dense.all_log_probs(T))
    stored = kind_from("dense", dtype="float32").encode(complete)["logits"]
    torch.testing.assert_close(torch.from_numpy(stored).softmax(-1), dense.all_log_probs(1.0).exp().float())


@every
def test_every_kind_reads_chunks_and_blocks_as_slices(kind: Kind) -> None:
    targets = kind.make()
    blocks = chunk_reader(targets, 4)(slice(1, 5))
    for block, rows in ((slice(0, 2), slice(1, 3)), (slice(2, 4), slice(3, 5))):
        found, expected = blocks[block], targets[rows]
        for one, other in zip(found.events(STUDENT[rows], T), expected.events(STUDENT[rows], T), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


@every
def test_good_rows_are_not_bad(kind: Kind) -> None:
    bad = kind.make().bad_rows(forward_kl)
    assert bad.dtype == torch.bool
    assert bad.tolist() == [False] * N


@pytest.mark.parametrize(
    ("kind", "spoiled"),
    [(kind, name) for kind in KINDS for name in kind.spoiled],
    ids=lambda x: x.name if isinstance(x, Kind) else x,
)
@pytest.mark.parametrize("divergence", [forward_kl, reverse_kl])
def test_the_row_that_is_no_distribution_is_named(kind: Kind, spoiled: str, divergence: Any) -> None:
    bad = kind.spoiled[spoiled]().bad_rows(divergence)
    assert bad.tolist() == [row == BAD for row in range(N)]


@every
def test_to_moves_every_tensor(kind: Kind) -> None:
    """The meta device has shapes and no numbers: a tensor left behind on the CPU raises."""
    targets = kind.make().to("meta")
    log_q, log_p = targets.events(STUDENT.to("meta"), T)
    assert log_q.device.type == log_p.device.type == "meta"
    assert log_q.shape == log_p.shape == (N, kind.events)
    assert (len(targets), targets.num_classes) == (N, C)
    assert targets.bad_rows(forward_kl).device.type == "meta"


def _cast(targets: Any, dtype: torch.dtype) -> Any:
    if isinstance(targets, MixedTargets):
        return dataclasses.replace(targets, members=[_cast(member, dtype) for member in targets.members])
    if isinstance(targets, HiddenTargets):
        return dataclasses.replace(targets, hidden=targets.hidden.to(dtype), head=_cast(targets.head, dtype))
    values = {field.name: getattr(targets, field.name) for field in dataclasses.fields(targets)}
    floats = {k: v.to(dtype) for k, v in values.items() if isinstance(v, Tensor) and v.is_floating_point()}
    return dataclasses.replace(targets, **floats)
