"""What every teacher must do. A new teacher is a row of `TEACHERS` and inherits everything below."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

import limbeck
from limbeck import Ensemble, FunctionTeacher, ModelTeacher, Specialist, Specialists, record
from limbeck.losses.targets import DenseTargets, SoftTargets
from limbeck.networks.asking import Batch, networks_of
from limbeck.networks.positions import positions_of
from limbeck.teachers import BaseTeacher, Teacher, as_teacher
from limbeck.teachers.protocol import CutTeacher

N, D, C = 12, 6, 5  # examples, features, classes
SET = limbeck.arrays(torch.randn(N, D, generator=torch.Generator().manual_seed(0)), torch.arange(N) % C)
BATCH = SET.__getitems__(list(range(N)))


def network(seed: int = 0, classes: int = C) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(D, 8), nn.Dropout(0.5), nn.ReLU(), nn.Linear(8, classes))


def classifier() -> LogisticRegression:
    rng = np.random.default_rng(0)
    return LogisticRegression().fit(rng.normal(size=(50, D)).astype(np.float32), np.arange(50) % C)


def function(batch: Batch) -> Tensor:
    logits: Tensor = batch["inputs"][:, :C] * 3
    return logits


class Own:
    """A user's class with the two methods of `Teacher` alone."""

    def __call__(self, batch: Batch) -> SoftTargets:
        return DenseTargets(batch["inputs"][:, :C] * 2)

    def fingerprint(self) -> str:
        return "own"


def adapter() -> Any:
    peft = pytest.importorskip("peft", reason="peft is not installed")
    made = peft.get_peft_model(network(), peft.LoraConfig(r=2, target_modules=["0"]))
    return limbeck.WithoutAdapter(made)


def stored(folder: Path) -> Any:
    return limbeck.label(network(), SET, folder / "stored", "dense", dtype="float32").teacher


TEACHERS: dict[str, Callable[[Path], Any]] = {
    "network": lambda _: network(),
    "named network": lambda _: ModelTeacher(named()),
    "classifier": lambda _: classifier(),
    "function": lambda _: FunctionTeacher(function, fingerprint="f"),
    "own class": lambda _: Own(),
    "ensemble": lambda _: Ensemble([network(1), classifier()], weights=[2, 1]),
    "nested ensemble": lambda _: Ensemble([Ensemble([network(1), network(2)], mean="geometric"), network(3)]),
    "specialists": lambda _: Specialists(
        network(), [Specialist(network(1, 3), (0, 2)), Specialist(network(2, 2), (1,))]
    ),
    "recorded": lambda _: record(network(), SET),
    "adapter": lambda _: adapter(),
    "stored": stored,
    "stored in an ensemble": lambda folder: Ensemble([stored(folder), stored(folder)]),
    "stored in a nested ensemble": lambda folder: Ensemble([Ensemble([stored(folder)]), stored(folder)]),
    "cut": lambda _: CutTeacher(as_teacher(lambda batch: torch.cat([function(batch)] * 2, -1)), C),
}
NO_FINGERPRINT = {"cut"}  # a function without a name


def named() -> nn.Module:
    made = network()
    made.label_names = tuple("abcde")  # type: ignore[assignment]
    return made


@pytest.fixture(params=TEACHERS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def teacher(name: str, tmp_path: Path) -> BaseTeacher:
    return as_teacher(TEACHERS[name](tmp_path))


@pytest.fixture
def batch(name: str, tmp_path: Path, teacher: BaseTeacher) -> Batch:
    """The batch, with the stored columns where the teacher reads those."""
    return limbeck.open(tmp_path / "stored").__getitems__(list(range(N))) if teacher.in_batch else BATCH


def log_probs(teacher: BaseTeacher, batch: Batch, temperature: float = 1.0) -> Tensor:
    return teacher(batch).all_log_probs(temperature)


def test_it_is_a_teacher_and_as_teacher_returns_it_as_it_is(teacher: BaseTeacher) -> None:
    assert isinstance(teacher, BaseTeacher)
    assert isinstance(teacher, Teacher)
    assert as_teacher(teacher) is teacher


def test_it_gives_a_distribution_per_position(teacher: BaseTeacher, batch: Batch) -> None:
    targets = teacher(batch)
    assert (len(targets), targets.num_classes) == (N, C)
    for temperature in (1.0, 3.0):
        p = targets.all_log_probs(temperature).double().exp()
        torch.testing.assert_close(p.sum(-1), torch.ones(N, dtype=torch.float64), rtol=0, atol=1e-5)


def test_each_row_is_that_of_its_example(teacher: BaseTeacher, batch: Batch) -> None:
    order = torch.randperm(N, generator=torch.Generator().manual_seed(1))
    moved = {column: values[order] for column, values in batch.items()}
    torch.testing.assert_close(log_probs(teacher, moved), log_probs(teacher, batch)[order])
    assert log_probs(teacher, batch).std(0).max() > 0.01  # the examples' rows differ


def test_positions_that_are_handed_in_change_nothing(teacher: BaseTeacher, batch: Batch) -> None:
    given = teacher(batch, positions_of(batch, 1)).all_log_probs(1.0)
    assert torch.equal(given, log_probs(teacher, batch))


def test_it_answers_without_gradient(teacher: BaseTeacher, batch: Batch) -> None:
    with torch.enable_grad():
        assert not log_probs(teacher, batch).requires_grad


def test_it_answers_in_eval_mode_whatever_mode_it_was_put_in(teacher: BaseTeacher, batch: Batch) -> None:
    for model in networks_of(teacher) or []:
        model.train()
    assert torch.equal(log_probs(teacher, batch), log_probs(teacher, batch))  # dropout would differ


def test_its_fingerprint_is_stable(name: str, teacher: BaseTeacher, batch: Batch, tmp_path: Path) -> None:
    if name in NO_FINGERPRINT:
        with pytest.raises(limbeck.ModelError, match="give it a name"):
            teacher.fingerprint()
        return
    before = teacher.fingerprint()
    teacher(batch)
    assert teacher.to("cpu").fingerprint() == before
    assert teacher.cut(C - 1).fingerprint() == before
    assert as_teacher(TEACHERS[name](tmp_path)).fingerprint() == before


@pytest.mark.parametrize("classes", [C - 1, 3])
def test_cut_returns_a_teacher_of_the_first_classes(teacher: BaseTeacher, batch: Batch, classes: int) -> None:
    whole, names = log_probs(teacher, batch), teacher.label_names
    cut = teacher.cut(classes)
    assert isinstance(cut, BaseTeacher)
    assert cut(batch).num_classes == classes
    assert torch.equal(log_probs(teacher, batch), whole), "the caller's teacher has changed"
    assert teacher.label_names == names
    assert cut.label_names == (None if names is None else names[:classes])
    again = cut.cut(C)  # never wider than it is
    torch.testing.assert_close(log_probs(again, batch), log_probs(cut, batch), rtol=0, atol=0)
    flags = ("one_view", "in_batch", "shares_student")
    assert [getattr(cut, flag) for flag in flags] == [getattr(teacher, flag) for flag in flags]
    assert [id(n) for n in networks_of(cut) or []] == [id(n) for n in networks_of(teacher) or []]


def test_cut_renormalises(name: str, teacher: BaseTeacher, batch: Batch) -> None:
    if name in ("ensemble", "nested ensemble", "stored in an ensemble", "stored in a nested ensemble", "specialists"):
        pytest.skip("its members are cut before they are combined")
    for temperature in (1.0, 3.0):
        expected = log_probs(teacher, batch, temperature)[:, :3].log_softmax(-1)
        torch.testing.assert_close(log_probs(teacher.cut(3), batch, temperature), expected)


def test_cut_to_as_many_classes_changes_nothing(teacher: BaseTeacher, batch: Batch) -> None:
    for classes in (C, C + 3):
        torch.testing.assert_close(log_probs(teacher.cut(classes), batch), log_probs(teacher, batch), rtol=0, atol=0)


def test_cut_to_no_class_is_refused(teacher: BaseTeacher) -> None:
    with pytest.raises(limbeck.ModelError):
        teacher.cut(0)


def test_to_returns_the_teacher_itself(teacher: BaseTeacher, batch: Batch) -> None:
    before = log_probs(teacher, batch)
    assert teacher.to("cpu") is teacher
    torch.testing.assert_close(log_probs(teacher, batch), before, rtol=0, atol=0)


def test_the_names_of_its_classes_are_as_many_as_they(name: str, teacher: BaseTeacher) -> None:
    assert teacher.label_names is None or len(teacher.label_names) == C
    assert (teacher.label_names == tuple("abcde")) == (name == "named network")


def test_it_prepares_for_sets_without_changing_them_or_itself(teacher: BaseTeacher, tmp_path: Path) -> None:
    examples = limbeck.open(tmp_path / "stored") if teacher.in_batch else SET
    assert teacher.prepare({"transfer": examples}, None, None) == (None, None)
    if teacher.in_batch:
        with pytest.raises(limbeck.DataError, match="without stored targets"):
            teacher.prepare({"transfer": SET}, None, None)


def test_it_closes(teacher: BaseTeacher) -> None:
    teacher.close()


def test_its_weights_stay_as_they_are(teacher: BaseTeacher, batch: Batch) -> None:
    before = [copy.deepcopy(model.state_dict()) for model in networks_of(teacher) or []]
    log_probs(teacher.cut(3), batch)
    for model, weights in zip(networks_of(teacher) or [], before, strict=True):
        assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())
