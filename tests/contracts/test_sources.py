"""What every source must do. A new source is a row of `SOURCES` and inherits everything below."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from transformers import TrainerCallback

import limbeck
from limbeck.errors import ConfigError, DataError
from limbeck.losses.objective import Objective
from limbeck.networks.asking import Batch
from limbeck.networks.mlp import mlp
from limbeck.training.config import DistillConfig
from limbeck.training.sources import Augmented, InOrder, Source
from limbeck.training.trainer import DistillTrainer
from limbeck.transfer import TransferSet, arrays

N, SIDE, CLASSES = 16, 4, 3
SEED = torch.Generator().manual_seed(0)
EXAMPLES = arrays(torch.randn(N, SIDE, SIDE, generator=SEED), torch.arange(N) % CLASSES)
BOTH = Objective(temperature=2.0, hard_weight=0.5)


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), mlp([SIDE * SIDE, 5, CLASSES], dropout=0.5))


def relabelled(batch: Batch, epoch: int) -> Batch:
    """Drops labels, masks examples and weighs others, unevenly over the rows and the epochs."""
    row = batch["row_id"] + epoch
    labels = torch.where(row % 5 == 0, batch["labels"], -100)
    return {**batch, "labels": labels, "mask": row % 4 != 1, "weights": 1.0 + row % 3}


def replayed(folder: Path) -> tuple[Source, TransferSet, Any]:
    """The views of a stored set, and the teacher that reads their targets."""
    augment = limbeck.jitter(1, seed=4)
    stored = limbeck.label(network(1), EXAMPLES, folder / "set", "dense", augment=augment, views=2)
    return Augmented(stored.teacher.replayed(augment)), stored, stored.teacher


def weighed(batches: list[Batch], student: nn.Module, epoch: int) -> list[Batch]:
    """A user's own function."""
    return [{**batch, "weights": 1.0 / (1 + batch["row_id"])} for batch in batches]


class Row(NamedTuple):
    """A source, the examples whose batches it is given, and a teacher that answers for what it returns.

    make: `folder -> (source, examples, teacher)`. argument: of DistillTrainer, `{"source": ...}` by default.
    """

    make: Callable[[Path], tuple[Source, Any, Any]]
    argument: dict[str, Any] | None = None


SOURCES = {
    "unchanged": Row(lambda _: (InOrder(), EXAMPLES, network(1))),
    "augmented": Row(lambda _: (Augmented(limbeck.jitter(1)), EXAMPLES, network(1))),
    "labels, mask and weights": Row(lambda _: (Augmented(relabelled), EXAMPLES, network(1))),
    "replayed views": Row(replayed, {"augment": limbeck.jitter(1, seed=4)}),
    "a function": Row(lambda _: (weighed, EXAMPLES, network(1))),
    "in order": Row(lambda _: (InOrder((weighed, Augmented(limbeck.jitter(1)))), EXAMPLES, network(1))),
}
every_source = pytest.mark.parametrize("row", SOURCES.values(), ids=SOURCES)


def batches_of(examples: Any, *rows: list[int]) -> list[Batch]:
    return [examples.__getitems__(numbers) for numbers in rows]


def same(a: Batch, b: Batch) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@every_source
def test_one_batch_for_each_and_those_given_are_unchanged(tmp_path: Path, row: Row) -> None:
    source, examples, _ = row.make(tmp_path)
    given = batches_of(examples, [0, 3, 5], [1, 2])
    before = copy.deepcopy(given)
    final = source(given, network(), 1)
    assert len(final) == 2
    assert [len(batch["row_id"]) for batch in final] == [3, 2]
    assert all(same(a, b) for a, b in zip(given, before, strict=True))
    assert list(source([], network(), 0)) == []


@every_source
def test_a_function_of_rows_and_epoch_alone(tmp_path: Path, row: Row) -> None:
    """The same rows become the same, alone or together, whatever the global generator has drawn, and draw nothing."""
    source, examples, _ = row.make(tmp_path)
    for epoch in (0, 1, 2):
        torch.manual_seed(epoch)
        (together,) = source(batches_of(examples, [4, 9, 2]), network(), epoch)
        student = network()
        torch.manual_seed(epoch + 100)
        state = torch.get_rng_state()
        apart = source(batches_of(examples, [4], [9], [2]), student, epoch)
        assert torch.equal(torch.get_rng_state(), state)
        for i, alone in enumerate(apart):
            assert all(torch.equal(alone[name][0], together[name][i]) for name in together)


@every_source
def test_the_student_stays_as_it_is(tmp_path: Path, row: Row) -> None:
    source, examples, _ = row.make(tmp_path)
    student = network().train()
    before = copy.deepcopy(student.state_dict())
    for mode in (True, False):
        student.train(mode)
        source(batches_of(examples, [0, 1]), student, 0)
        assert all(module.training == mode for module in student.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in student.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in student.parameters())


class Gradients(TrainerCallback):
    """The gradients before each optimizer step, and those of the objective on all that the source returned for it."""

    def __init__(self) -> None:
        self.steps: list[list[Tensor]] = []
        self.expected: list[list[Tensor]] = []
        self._final: list[Batch] = []

    def watch(self, trainer: DistillTrainer) -> None:
        """Records what the trainer's source returns."""
        self.teacher, source = trainer.teacher, trainer.source

        def watched(batches: list[Batch], student: nn.Module, epoch: int) -> list[Batch]:
            self._final = source(batches, student, epoch)
            return self._final

        trainer.source = watched  # type: ignore[assignment]

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.steps.append([p.grad.clone() for p in model.parameters()])
        batch = {name: torch.cat([part[name] for part in self._final]) for name in self._final[0]}
        given = {name: batch.get(name) for name in ("labels", "mask", "weights")}
        with torch.enable_grad():
            loss = BOTH(model(batch["inputs"]), self.teacher(batch), **given).mean
            self.expected.append(list(torch.autograd.grad(loss, list(model.parameters()))))


@every_source
def test_the_gradient_is_the_same_however_it_is_accumulated(tmp_path: Path, row: Row) -> None:
    """Positions are counted as the source returns them: the objective on all of a step's final batches says so."""
    source, examples, teacher = row.make(tmp_path)
    runs = []
    for size, accumulation in ((8, 1), (4, 2), (2, 4)):
        config = DistillConfig(
            output_dir=str(tmp_path / "run"),
            num_train_epochs=2,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=accumulation,
            learning_rate=0.01,
            optim="sgd",
            save_strategy="no",
            disable_tqdm=True,
        )
        student = network()
        student[1].eval()
        for module in student.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        trainer = DistillTrainer(
            student,
            copy.deepcopy(teacher),
            BOTH,
            config,
            train_dataset=examples,
            callbacks=[gradients := Gradients()],
            **(row.argument or {"source": source}),
        )
        gradients.watch(trainer)
        trainer.train()
        runs += [gradients.expected, gradients.steps]
    assert len(runs[0]) == 4
    assert any(gradient.abs().max() > 0 for gradient in runs[0][0])
    for other in runs[1:]:
        for one, two in zip(runs[0], other, strict=True):
            for a, b in zip(one, two, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_another_number_of_batches_is_refused() -> None:
    with pytest.raises(DataError, match=r"one batch for each .* was given 2 and returned 1"):
        InOrder((lambda batches, student, epoch: batches[:1],))(batches_of(EXAMPLES, [0], [1]), network(), 0)


def test_a_source_with_stored_targets_is_refused(tmp_path: Path) -> None:
    _, stored, teacher = replayed(tmp_path)
    config = DistillConfig(output_dir=str(tmp_path / "run"))
    arguments: dict[str, Any] = {"train_dataset": stored, "augment": limbeck.jitter(1, seed=4), "source": weighed}
    with pytest.raises(ConfigError, match=r"recorded or stored teacher .* remove source"):
        DistillTrainer(network(), teacher, BOTH, config, **arguments)
