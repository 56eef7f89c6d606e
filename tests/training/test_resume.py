"""Killed with SIGKILL and resumed: the weights of the undisturbed run, bit for bit, and its log.

The runs that are killed are forked processes: they die wherever the test says, with no chance to clean up.
"""

import gc
import json
import logging
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import EarlyStoppingCallback, TrainerCallback

import limbeck.training.checkpointed
from limbeck.errors import CheckpointError, ConfigError
from limbeck.losses.objective import Objective
from limbeck.networks.mlp import mlp
from limbeck.training.config import DistillConfig
from limbeck.training.trainer import DistillTrainer
from limbeck.transfer import digits, jitter

gc.freeze()  # Trainer collects garbage whenever it starts, and the libraries above are none
fork = multiprocessing.get_context("fork")
DATA = digits()
LAST = 20  # two epochs of ten steps; a checkpoint every four steps, so most are in the middle of an epoch


class Net(nn.Module):
    """A user's own network, with what makes training random and stateful."""

    def __init__(self) -> None:
        super().__init__()
        hidden = (nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3))
        self.layers = nn.Sequential(nn.Flatten(), *hidden, nn.Linear(16, 10))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layers(inputs)


def trainer_in(
    folder: Path, student: Callable[[], nn.Module] = Net, callbacks: Any = (), **changes: Any
) -> DistillTrainer:
    torch.manual_seed(0)
    teacher, net = mlp([64, 20, 10], dropout=0.5), student()
    batch = 32 // changes.get("gradient_accumulation_steps", 1)
    fixed = {"output_dir": str(folder), "num_train_epochs": 2, "per_device_train_batch_size": batch}
    often = {"save_strategy": "steps", "save_steps": 4, "logging_steps": 1, "learning_rate": 1e-2}
    config = DistillConfig(**(fixed | often | {"disable_tqdm": True, "save_total_limit": 2} | changes))
    return DistillTrainer(
        net,
        teacher,
        Objective(temperature=3.0, hard_weight=0.5),
        config,
        train_dataset=DATA.select(range(310)),
        eval_dataset=DATA.select(range(310, 350)),
        augment=jitter(1),
        callbacks=list(callbacks),
    )


def outcome(trainer: DistillTrainer) -> tuple[dict[str, Tensor], list[dict[str, float]]]:
    kept = ("step", "epoch", "loss", "soft_loss", "hard_loss", "learning_rate", "eval_loss")
    log = [{k: line[k] for k in kept if k in line} for line in trainer.state.log_history]
    return dict(trainer.model.state_dict()), log


def assert_same(trainer: DistillTrainer, undisturbed: Any) -> None:
    (weights, log), (expected, expected_log) = outcome(trainer), undisturbed
    assert trainer.state.global_step == LAST
    assert weights.keys() == expected.keys()
    for name in weights:
        assert torch.equal(weights[name], expected[name]), name
    assert log[:-1] == expected_log[:-1]  # the last line has running times only


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class DieAt(TrainerCallback):
    """In the middle of a step: its gradient is there, the optimizer has not moved."""

    def __init__(self, step: int, when: str = "on_pre_optimizer_step"):
        self.step = step
        setattr(self, when, self.die)

    def die(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            die()


def killed(run: Callable[[], Any]) -> None:
    """Runs it in a process of its own, which must kill itself."""
    process = fork.Process(target=run)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL


def runs(tmp_path_factory: Any, **how: Any) -> Any:
    folder = tmp_path_factory.mktemp("undisturbed")
    trainer = trainer_in(folder, **how)
    trainer.train()
    return outcome(trainer)


HOW: dict[str, dict[str, Any]] = {
    "plain": {},
    "accumulated": {"gradient_accumulation_steps": 4},
    "workers": {"dataloader_num_workers": 2, "gradient_accumulation_steps": 2},
    "constrained": {"student": lambda: mlp([64, 16, 10], dropout=0.3, input_dropout=0.1, max_norm=0.5)},
    "evaluated": {"eval_strategy": "steps", "eval_steps": 3},
    "epochs": {"save_strategy": "epoch"},
}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    done: dict[str, Any] = {}

    def run(how: str) -> Any:
        if how not in done:
            done[how] = runs(tmp_path_factory, **HOW[how])
        return done[how]

    return run


@pytest.fixture(autouse=True)
def _warnings_are_heard(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level(logging.WARNING, logger="limbeck"):
        yield


# In the middle of an epoch


@pytest.mark.parametrize(
    ("how", "step", "when"),
    [
        ("plain", 5, "on_pre_optimizer_step"),
        ("plain", 8, "on_step_begin"),
        ("plain", 19, "on_step_end"),
        ("accumulated", 13, "on_substep_end"),
        ("workers", 9, "on_pre_optimizer_step"),
        ("constrained", 14, "on_optimizer_step"),
        ("evaluated", 18, "on_evaluate"),
        ("epochs", 10, "on_epoch_begin"),
        ("epochs", 15, "on_step_begin"),
    ],
)
def test_killed_between_checkpoints(
    tmp_path: Path, undisturbed: Callable[[str], Any], how: str, step: int, when: str
) -> None:
    killed(lambda: trainer_in(tmp_path, callbacks=[DieAt(step, when)], **HOW[how]).train())
    trainer = trainer_in(tmp_path, **HOW[how])
    newest = int(trainer.last_checkpoint().name.removeprefix("checkpoint-"))
    assert 0 < newest <= step  # it did not start again
    trainer.train(resume_from_checkpoint=True)
    assert_same(trainer, undisturbed(how))


def test_killed_again_and_again(tmp_path: Path, undisturbed: Callable[[str], Any]) -> None:
    killed(lambda: trainer_in(tmp_path, callbacks=[DieAt(6)]).train())
    for step in (9, 10, 17):
        killed(lambda: trainer_in(tmp_path, callbacks=[DieAt(step)]).train(resume_from_checkpoint=True))  # noqa: B023
    trainer = trainer_in(tmp_path)
    trainer.train(resume_from_checkpoint=True)
    assert_same(trainer, undisturbed("plain"))


def test_killed_before_the_first_checkpoint(tmp_path: Path, undisturbed: Callable[[str], Any]) -> None:
    killed(lambda: trainer_in(tmp_path, callbacks=[DieAt(3)]).train())
    trainer = trainer_in(tmp_path)
    with pytest.raises(CheckpointError, match="holds no complete checkpoint; train without resuming"):
        trainer.train(resume_from_checkpoint=True)
    trainer.train()
    assert_same(trainer, undisturbed("plain"))


@pytest.mark.parametrize("steps", [8, 10])
def test_a_run_that_has_ended_is_resumed_without_a_further_step(tmp_path: Path, steps: int) -> None:
    """In the middle of an epoch as at its end, also after it was killed before anybody kept the student."""
    first = trainer_in(tmp_path, max_steps=steps, save_steps=steps)
    first.train()
    for _ in range(2):
        again = trainer_in(tmp_path, max_steps=steps, save_steps=steps)
        again.train(resume_from_checkpoint=True)
        assert again.state.global_step == steps
        weights, expected = again.model.state_dict(), first.model.state_dict()
        assert all(torch.equal(weights[name], expected[name]) for name in expected)


def test_a_run_that_was_stopped_early_is_resumed_without_a_further_step(tmp_path: Path) -> None:
    """However often; and one that was killed before has waited as long as it had."""
    patient = {"num_train_epochs": 30, "save_strategy": "epoch", "eval_strategy": "epoch", "learning_rate": 0.3}
    patient |= {"load_best_model_at_end": True, "metric_for_best_model": "loss", "greater_is_better": False}

    def made(folder: Path, *callbacks: Any, patience: int = 2) -> DistillTrainer:
        stop = EarlyStoppingCallback(early_stopping_patience=patience)
        return trainer_in(folder, callbacks=[stop, *callbacks], **patient)

    first = made(tmp_path / "whole")
    first.train()
    ended = first.state.global_step
    assert 20 < ended < 300
    for _ in range(2):
        again = made(tmp_path / "whole")
        again.train(resume_from_checkpoint=True)
        assert again.state.global_step == ended
        weights, expected = again.model.state_dict(), first.model.state_dict()
        assert all(torch.equal(weights[name], expected[name]) for name in expected)
    longer = made(tmp_path / "whole", patience=4)
    longer.train(resume_from_checkpoint=True)
    assert longer.state.global_step >= ended + 20
    killed(lambda: made(tmp_path / "cut", DieAt(ended - 3)).train())
    resumed = made(tmp_path / "cut")
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == ended
    assert all(torch.equal(resumed.model.state_dict()[name], expected[name]) for name in expected)


# In the middle of writing a checkpoint


def half_of(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def die_in(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, step: int, *, after: bool, cut: str = "") -> None:
    """Dies before or after `owner.name` has run at that step; `cut` is a file to cut in half first."""
    original = getattr(owner, name)

    def deadly(self: Any, *args: Any, **kwargs: Any) -> Any:
        folder = Path(args[0]) if args and isinstance(args[0], str) else Path()
        if step != (self.state.global_step if hasattr(self, "state") else self.global_step):
            return original(self, *args, **kwargs)
        if after:
            original(self, *args, **kwargs)
        if cut:
            half_of(folder / cut)
        die()

    monkeypatch.setattr(owner, name, deadly)


@pytest.mark.parametrize(
    ("name", "after", "cut"),
    [
        ("_save", False, ""),
        ("_save", True, "model.safetensors"),
        ("_save_optimizer_and_scheduler", False, ""),
        ("_save_optimizer_and_scheduler", True, "optimizer.pt"),
        ("_save_rng_state", False, ""),
        ("_save_rng_state", True, ""),
    ],
)
def test_killed_while_a_checkpoint_is_written(
    tmp_path: Path,
    undisturbed: Callable[[str], Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    name: str,
    after: bool,
    cut: str,
) -> None:
    with monkeypatch.context() as child:
        die_in(child, DistillTrainer, name, 12, after=after, cut=cut)
        killed(lambda: trainer_in(tmp_path).train())
    trainer = trainer_in(tmp_path)
    trainer.train(resume_from_checkpoint=True)
    if (name, after) != ("_save", False):  # otherwise there was no folder yet
        assert "checkpoint-12 is skipped: it was cut off while it was being written" in caplog.text
        assert f"Resuming from {tmp_path / 'checkpoint-8'}" in caplog.text
    assert_same(trainer, undisturbed("plain"))


def test_killed_before_the_seal(
    tmp_path: Path,
    undisturbed: Callable[[str], Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """All the files are there, but nobody has said so."""
    seal = limbeck.training.checkpointed.seal
    with monkeypatch.context() as child:
        child.setattr(
            limbeck.training.checkpointed,
            "seal",
            lambda folder, run: die() if folder.name == "checkpoint-16" else seal(folder, run),
        )
        killed(lambda: trainer_in(tmp_path).train())
    assert (tmp_path / "checkpoint-16" / "trainer_state.json").exists()
    trainer = trainer_in(tmp_path)
    trainer.train(resume_from_checkpoint=True)
    assert "checkpoint-16 is skipped: it was cut off" in caplog.text
    assert_same(trainer, undisturbed("plain"))


@pytest.mark.parametrize("first", ["limbeck_checkpoint.json", "optimizer.pt", "model.safetensors"])
def test_killed_while_an_old_checkpoint_is_deleted(
    tmp_path: Path, undisturbed: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    delete = shutil.rmtree

    def deadly(path: Any, *args: Any, **kwargs: Any) -> None:
        if not Path(path).exists() or Path(path).name != "checkpoint-8":
            return delete(path, *args, **kwargs)
        (Path(path) / first).unlink()
        die()

    with monkeypatch.context() as child:
        child.setattr(shutil, "rmtree", deadly)
        killed(lambda: trainer_in(tmp_path).train())
    left = sorted(path.name for path in tmp_path.glob("checkpoint-*"))
    assert left == ["checkpoint-12", "checkpoint-16", "checkpoint-8"]
    with pytest.raises(CheckpointError, match="checkpoint-8 cannot be resumed from"):
        trainer_in(tmp_path).train(resume_from_checkpoint=str(tmp_path / "checkpoint-8"))
    trainer = trainer_in(tmp_path)
    assert trainer.last_checkpoint().name == "checkpoint-16"
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-12"))
    assert_same(trainer, undisturbed("plain"))


def test_a_checkpoint_damaged_later_is_noticed(
    tmp_path: Path, undisturbed: Callable[[str], Any], caplog: pytest.LogCaptureFixture
) -> None:
    killed(lambda: trainer_in(tmp_path, callbacks=[DieAt(13)]).train())
    half_of(tmp_path / "checkpoint-12" / "optimizer.pt")
    trainer = trainer_in(tmp_path)
    trainer.train(resume_from_checkpoint=True)
    assert "checkpoint-12 is skipped: optimizer.pt has" in caplog.text
    assert_same(trainer, undisturbed("plain"))
    for checkpoint in tmp_path.glob("checkpoint-*"):
        (checkpoint / "scheduler.pt").unlink()
    with pytest.raises(CheckpointError, match="no complete checkpoint"):
        trainer_in(tmp_path).train(resume_from_checkpoint=True)
    assert "scheduler.pt is missing" in caplog.text


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "rng_state.pth", "trainer_state.json"])
def test_a_flipped_bit_is_noticed_and_the_checkpoint_before_is_used(
    tmp_path: Path, undisturbed: Callable[[str], Any], caplog: pytest.LogCaptureFixture, name: str
) -> None:
    killed(lambda: trainer_in(tmp_path, callbacks=[DieAt(13)]).train())
    path = tmp_path / "checkpoint-12" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"cannot be resumed from: {name} has other bytes than were written"):
        trainer_in(tmp_path).train(resume_from_checkpoint=str(tmp_path / "checkpoint-12"))
    trainer = trainer_in(tmp_path)
    trainer.train(resume_from_checkpoint=True)
    assert f"checkpoint-12 is skipped: {name} has other bytes" in caplog.text
    assert f"Resuming from {tmp_path / 'checkpoint-8'}" in caplog.text
    assert_same(trainer, undisturbed("plain"))


class DamageBest(TrainerCallback):
    """Flips a bit of the best checkpoint's weights when training is about to end."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == LAST - 1:
            path = Path(state.best_model_checkpoint, "model.safetensors")
            content = bytearray(path.read_bytes())
            content[-1] ^= 64
            path.write_bytes(content)


def test_a_damaged_best_checkpoint_is_not_loaded_at_the_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A high loss is said to be good, so that the first evaluation is the best."""
    often = {"eval_strategy": "steps", "eval_steps": 4, "save_total_limit": None, "load_best_model_at_end": True}
    often |= {"metric_for_best_model": "soft_loss", "greater_is_better": True}
    trainer = trainer_in(tmp_path, callbacks=[DamageBest()], **often)
    trainer.train()
    assert "checkpoint-4, is damaged: model.safetensors has other bytes" in caplog.text
    last = load_file(tmp_path / f"checkpoint-{LAST}" / "model.safetensors")
    for name, weight in trainer.model.state_dict().items():
        assert torch.equal(weight, last[name]), name


# What is resumed


def test_a_checkpoint_of_another_student_is_refused(tmp_path: Path) -> None:
    trainer_in(tmp_path, max_steps=4).train()
    for other in (lambda: mlp([64, 16, 10]), lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10))):
        with pytest.raises(CheckpointError, match="checkpoint-4 does not hold this student"):
            trainer_in(tmp_path, other).train(resume_from_checkpoint=True)

    class Wider(Net):
        def __init__(self) -> None:
            super().__init__()
            self.layers[1], self.layers[2], self.layers[5] = nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 10)

    with pytest.raises(CheckpointError, match="size mismatch"):
        trainer_in(tmp_path, Wider).train(resume_from_checkpoint=True)


FINER = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 4}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"per_device_train_batch_size": 8}, r"examples per step .*: 32 when it was written, 8 now"),
        ({"per_device_train_batch_size": 64}, r"examples per step .*: 32 when it was written, 64 now"),
        (FINER | {"gradient_accumulation_steps": 2}, r"examples per step .*: 32 when it was written, 16 now"),
        ({"dataloader_drop_last": True}, "dataloader_drop_last: False when it was written, True now"),
        ({"seed": 7}, r"the seed of the order of examples .*: 42 when it was written, 7 now"),
        ({"data_seed": 5}, r"the seed of the order of examples .*: 42 when it was written, 5 now"),
        ({"train_sampling_strategy": "sequential"}, "train_sampling_strategy: random when .*, sequential now"),
    ],
)
def test_other_batches_are_refused_with_both_numbers(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    trainer_in(tmp_path, max_steps=4).train()
    with pytest.raises(ConfigError, match=rf"checkpoint-4 has taken 4 steps, .*\. {said}\. Resume with what"):
        trainer_in(tmp_path, **changes).train(resume_from_checkpoint=True)


def test_as_many_examples_per_step_in_other_parts_go_on(tmp_path: Path) -> None:
    """Without dropout or batch statistics, which see parts of a step, the weights are those of the undisturbed run."""
    plain = {"student": lambda: mlp([64, 16, 10])}
    whole = trainer_in(tmp_path / "whole", **plain)
    whole.train()
    killed(lambda: trainer_in(tmp_path / "killed", callbacks=[DieAt(9)], **plain).train())
    trainer = trainer_in(tmp_path / "killed", **plain, **FINER)
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step == LAST
    for name, weight in trainer.model.state_dict().items():
        torch.testing.assert_close(weight, whole.model.state_dict()[name], rtol=1e-4, atol=1e-6)


def test_a_set_of_another_size_is_refused(tmp_path: Path) -> None:
    trainer_in(tmp_path, max_steps=4).train()
    trainer = trainer_in(tmp_path)
    trainer.train_dataset = DATA.select(range(200))
    with pytest.raises(ConfigError, match="examples in the transfer set: 310 when it was written, 200 now"):
        trainer.train(resume_from_checkpoint=True)


def test_a_new_order_may_begin_with_an_epoch(tmp_path: Path) -> None:
    trainer_in(tmp_path, max_steps=10, save_steps=10).train()
    trainer = trainer_in(tmp_path, seed=7)
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step == LAST


@pytest.mark.parametrize(("batch", "refused"), [(32, False), (8, True), (64, True)])
def test_seals_without_a_record_of_batches_go_by_steps_per_epoch(tmp_path: Path, batch: int, refused: bool) -> None:
    trainer_in(tmp_path, max_steps=8).train()
    path = tmp_path / "checkpoint-8" / "limbeck_checkpoint.json"
    seal = json.loads(path.read_text())
    path.write_text(json.dumps({name: value for name, value in seal.items() if name not in ("run", "seal")}))
    trainer = trainer_in(tmp_path, per_device_train_batch_size=batch)
    if refused:
        now = 310 / batch
        with pytest.raises(ConfigError, match=f"steps per epoch: 10 when it was written, {now:.0f} now"):
            trainer.train(resume_from_checkpoint=True)
    else:
        trainer.train(resume_from_checkpoint=True)
        assert trainer.state.global_step == LAST


def test_fewer_steps_than_were_taken_are_said_to_leave_nothing(tmp_path: Path, caplog: Any) -> None:
    trainer_in(tmp_path, max_steps=8).train()
    trainer = trainer_in(tmp_path, max_steps=5)
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step == 8
    assert "has taken 8 steps and 5 are wanted: there is nothing left to train" in caplog.text


class Tied(nn.Module):
    """Weights used twice are kept once."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, 64), nn.Linear(64, 64)
        self.second.weight = self.first.weight
        self.last = nn.Linear(64, 10)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.last(self.second(self.first(inputs.flatten(1)).relu()).relu())


def test_tied_weights_are_resumed(tmp_path: Path) -> None:
    whole = trainer_in(tmp_path / "whole", Tied)
    whole.train()
    killed(lambda: trainer_in(tmp_path / "killed", Tied, [DieAt(9)]).train())
    trainer = trainer_in(tmp_path / "killed", Tied)
    trainer.train(resume_from_checkpoint=True)
    assert trainer.model.second.weight is trainer.model.first.weight
    assert_same(trainer, outcome(whole))


def test_early_stopping_goes_on_counting(tmp_path: Path) -> None:
    """Told that a high loss is good, it finds the first evaluation the best, and stops four later."""

    def make(folder: Path, *callbacks: Any) -> DistillTrainer:
        often = {"eval_strategy": "steps", "eval_steps": 1, "save_steps": 1, "save_total_limit": None}
        best = {"load_best_model_at_end": True, "metric_for_best_model": "soft_loss", "greater_is_better": True}
        patience = EarlyStoppingCallback(early_stopping_patience=4)
        return trainer_in(folder, lambda: mlp([64, 16, 10]), [patience, *callbacks], **often, **best)

    whole = make(tmp_path / "whole")
    whole.train()
    assert whole.state.global_step == 5
    killed(lambda: make(tmp_path / "killed", DieAt(4)).train())
    trainer = make(tmp_path / "killed")
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step == 5
    best = load_file(tmp_path / "whole" / "checkpoint-1" / "model.safetensors")
    for name, weight in trainer.model.state_dict().items():
        assert torch.equal(weight, best[name]), name


def test_a_second_run_in_a_used_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its checkpoints are newer, though their numbers are lower: those of the first run are deleted, not its own."""
    trainer_in(tmp_path).train()
    old = sorted(tmp_path.glob("checkpoint-*"))
    assert [path.name for path in old] == ["checkpoint-16", "checkpoint-20"]
    for path in old:
        os.utime(path, (1e9, 1e9))
    caplog.clear()
    trainer_in(tmp_path, max_steps=8).train()
    assert "holds checkpoints of an earlier run" in caplog.text
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-4", "checkpoint-8"]


def test_nothing_of_an_older_checkpoint_stays_in_a_newer_one(tmp_path: Path) -> None:
    old = tmp_path / "checkpoint-4"
    old.mkdir()
    (old / "model-00002-of-00002.safetensors").write_bytes(b"of a larger student")
    trainer_in(tmp_path, max_steps=4).train()
    assert trainer_in(tmp_path).last_checkpoint() == old
    assert not (old / "model-00002-of-00002.safetensors").exists()


def test_a_checkpoint_holds_the_student_and_no_arguments_or_teacher(tmp_path: Path) -> None:
    trainer_in(tmp_path, max_steps=4).train()
    checkpoint = tmp_path / "checkpoint-4"
    assert sorted(path.name for path in checkpoint.iterdir()) == [
        "config.json",
        "limbeck_checkpoint.json",
        "limbeck_model.json",
        "model.safetensors",
        "optimizer.pt",
        "rng_state.pth",
        "scheduler.pt",
        "trainer_state.json",
    ]
    student = Net()
    optimizer = torch.load(checkpoint / "optimizer.pt", weights_only=True)
    assert sum(len(group["params"]) for group in optimizer["param_groups"]) == len(list(student.parameters()))
    x = torch.zeros(2, 8, 8)
    opened = limbeck.load(checkpoint, into=Net())
    torch.testing.assert_close(opened(x), limbeck.load(checkpoint, into=student)(x))
