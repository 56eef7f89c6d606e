"""Students trained from stored targets.

Oracle: the same student trained with the live teacher, same order of examples, float32.
"""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

import limbeck
from limbeck import ConfigError, DataError, ModelTeacher, Objective
from limbeck.networks.asking import Batch

from .small import V, images, llama, log_p, network, rows, trainer, words


def weights(student: Any) -> torch.Tensor:
    return torch.cat([p.detach().reshape(-1) for p in student.parameters()])


def small_llama(vocabulary: int = V) -> Any:
    student = llama(seed=7, vocabulary=vocabulary)
    for parameter in student.parameters():
        parameter.data.mul_(0.25)
    return student


def test_a_classifier_ends_with_the_weights_of_the_live_teacher(tmp_path: Path) -> None:
    labelled = limbeck.label(network(), images(), tmp_path / "set", "dense", dtype="float32", rows_per_shard=16)
    stored, live, before = network(5), network(5), weights(network(5))
    trainer(stored, labelled.teacher, tmp_path / "stored", labelled).train()
    trainer(live, network(), tmp_path / "live", images()).train()
    torch.testing.assert_close(weights(stored), weights(live), rtol=1e-4, atol=1e-5)
    assert (weights(stored) - before).norm() > 1


def test_a_language_model_ends_with_the_weights_of_the_live_teacher(tmp_path: Path) -> None:
    """Its states are made numbers that float16 holds exactly: nothing is rounded where they are kept."""
    teacher = llama()
    teacher.model.norm.register_forward_hook(lambda module, given, states: states.half().float())
    labelled = limbeck.label(teacher, rows(), tmp_path / "set", "hidden", rows_per_shard=6)
    stored, live, before = small_llama(), small_llama(), weights(small_llama())
    settings: dict[str, Any] = {"learning_rate": 0.003}
    trainer(stored, labelled.teacher, tmp_path / "stored", labelled, **settings).train()
    trainer(live, teacher, tmp_path / "live", Rows(rows()), **settings).train()
    torch.testing.assert_close(weights(stored), weights(live), rtol=1e-3, atol=1e-5)
    assert (weights(stored) - before).norm() > 0.1


class Rows(torch.utils.data.Dataset):
    """Rows as a live run reads them."""

    def __init__(self, dataset: Any):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, place: int) -> dict[str, Any]:
        row: dict[str, Any] = self.dataset[place]
        return row


def test_a_part_serves_evaluation(tmp_path: Path) -> None:
    labelled = limbeck.label(network(), images(), tmp_path / "set", "dense", dtype="float32")
    rest, part = labelled.split(0.4, seed=0)
    student = network(5)
    found = trainer(student, labelled.teacher, tmp_path / "run", rest, eval_dataset=part).evaluate()
    batch = part.__getitems__(range(len(part)))
    q = student(batch["inputs"]).detach().log_softmax(-1)
    p = log_p(ModelTeacher(network())(batch))
    at_one = (p.exp() * (p - q)).sum(-1).mean()
    assert found["eval_forward_kl"] == pytest.approx(float(at_one), rel=1e-4)


@pytest.mark.parametrize("kind", ["dense", "top_k", "sampled", "hidden"])
def test_every_kind_trains_and_is_evaluated(tmp_path: Path, kind: str) -> None:
    """The loss of rows that are held out falls, by what is kept of them."""
    options = {"k": 8} if kind in ("top_k", "sampled") else {}
    rest, part = limbeck.label(llama(), rows(40), tmp_path / "set", kind, **options).split(0.2)
    settings: dict[str, Any] = {"learning_rate": 0.01, "num_train_epochs": 8}
    worker = trainer(
        small_llama(), rest.teacher, tmp_path / "run", rest, Objective(temperature=1.0), eval_dataset=part, **settings
    )
    before = worker.evaluate()
    worker.train()
    after = worker.evaluate()
    assert after["eval_loss"] < before["eval_loss"]
    assert math.isfinite(after["eval_nll"])


def test_a_padded_student_is_cut_to_the_stored_tokenizer(tmp_path: Path) -> None:
    labelled = limbeck.label(llama(), rows(), tmp_path / "set", "hidden", tokenizer=words())
    worker = trainer(small_llama(V + 3), labelled.teacher, tmp_path / "run", labelled, processing_class=words())
    assert worker.plan.classes == V
    worker.check()
    with pytest.raises(DataError, match=r"another tokenizer than the student's.*\n  tokenizer: stored"):
        trainer(small_llama(), labelled.teacher, tmp_path / "run", labelled, processing_class=words(first="x"))
    with pytest.raises(DataError, match=r"\n  chat_template: stored None"):
        trainer(
            small_llama(), labelled.teacher, tmp_path / "run", labelled, processing_class=words(chat_template="{{ 1 }}")
        )


def test_sets_without_this_teachers_targets_are_refused(tmp_path: Path) -> None:
    labelled = limbeck.label(network(), images(), tmp_path / "set", "dense")
    other = limbeck.label(network(1), images(), tmp_path / "other", "dense")
    with pytest.raises(DataError, match="The transfer set is a TransferSet without stored targets"):
        trainer(network(5), labelled.teacher, tmp_path / "run", images())
    with pytest.raises(DataError, match="The evaluation set is a TransferSet without"):
        trainer(network(5), labelled.teacher, tmp_path / "run", labelled, eval_dataset=images())
    with pytest.raises(DataError, match=r"The transfer set .*other has other settings.*\n  teacher: stored"):
        trainer(network(5), labelled.teacher, tmp_path / "run", other)
    views = limbeck.label(network(), images(), tmp_path / "views", "dense", augment=limbeck.jitter(1), views=2)
    with pytest.raises(DataError, match=r"The transfer set .*set has other settings.*\n  augmentation: stored 'jitter"):
        trainer(network(5), views.teacher, tmp_path / "run", labelled, augment=limbeck.jitter(1))
    with pytest.raises(DataError, match="no 'target_logits'"):
        labelled.teacher(images().__getitems__([0]))


VIEWS = {"kind": "dense", "dtype": "float32", "rows_per_shard": 16}


class Epochs(TrainerCallback):
    """The weights after each epoch."""

    def __init__(self) -> None:
        self.seen: list[torch.Tensor] = []

    def on_epoch_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.seen.append(weights(model))


def test_views_are_replayed_epoch_by_epoch(tmp_path: Path) -> None:
    """Two views, three epochs: the first two are the live teacher's; the third shows the first view again."""
    augment = limbeck.jitter(1, seed=4)
    labelled = limbeck.label(network(), images(), tmp_path / "set", augment=augment, views=2, **VIEWS)

    def again(batch: Batch, epoch: int) -> Any:
        return augment(batch, epoch % 2)

    stored, live = network(5), network(5)
    trained = {}
    for name, student, teacher, train, shown in (
        ("stored", stored, labelled.teacher, labelled, limbeck.jitter(1, seed=4)),
        ("live", live, network(), images(), again),
    ):
        worker = trainer(student, teacher, tmp_path / name, train, augment=shown, num_train_epochs=3)
        worker.add_callback(epochs := Epochs())
        worker.train()
        trained[name] = epochs.seen
    assert len(trained["stored"]) == 3
    for one, other in zip(trained["stored"], trained["live"], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_each_view_keeps_what_was_said_of_it(tmp_path: Path) -> None:
    augment = limbeck.jitter(1, seed=4)
    labelled = limbeck.label(network(), images(), tmp_path / "set", augment=augment, views=2, **VIEWS)
    batch = labelled.__getitems__([3, 30])
    shown = labelled.teacher.replayed(augment)
    assert batch["target_logits"].shape == (2, 2, 5)
    for epoch in range(4):
        seen = shown(batch, epoch)
        assert torch.equal(seen["inputs"], augment(batch, epoch % 2)["inputs"])
        said = log_p(labelled.teacher(seen))
        torch.testing.assert_close(said, log_p(ModelTeacher(network())(seen)), rtol=0, atol=1e-5)
    first, second = (log_p(labelled.teacher(shown(batch, epoch))) for epoch in (0, 1))
    assert not torch.equal(first, second)
    assert limbeck.verify(tmp_path / "set", network()) == []


@pytest.mark.parametrize("other", [None, limbeck.jitter(2, seed=4), limbeck.jitter(1, seed=5)])
def test_another_augmentation_than_the_labelled_one_is_refused(tmp_path: Path, other: Any) -> None:
    labelled = limbeck.label(network(), images(), tmp_path / "set", augment=limbeck.jitter(1, seed=4), views=2, **VIEWS)
    with pytest.raises(ConfigError, match=r"jitter\(pixels=1, seed=4\) with seed 4, but training has") as refused:
        trainer(network(5), labelled.teacher, tmp_path / "run", labelled, augment=other)
    assert ("no augmentation" if other is None else repr(other)) in str(refused.value)


def test_augmenting_what_was_labelled_as_it_is_is_refused(tmp_path: Path) -> None:
    labelled = limbeck.label(network(), images(), tmp_path / "set", "dense")
    with pytest.raises(ConfigError, match="as they are"):
        trainer(network(5), labelled.teacher, tmp_path / "run", labelled, augment=limbeck.jitter(1))


def test_views_cannot_be_evaluated(tmp_path: Path) -> None:
    augment = limbeck.jitter(1, seed=4)
    labelled = limbeck.label(network(), images(), tmp_path / "set", augment=augment, **VIEWS)
    with pytest.raises(DataError, match="1 augmented views"):
        labelled.teacher(labelled.__getitems__([0]))


def test_labels_alone_need_no_targets(tmp_path: Path) -> None:
    """With soft_weight=0 a stored teacher is never asked, so any set will do."""
    labelled = limbeck.label(network(), images(), tmp_path / "set", "dense")
    on_labels = Objective(soft_weight=0.0, hard_weight=1.0)
    one, other = network(5), network(5)
    trainer(one, labelled.teacher, tmp_path / "run", images(), on_labels).train()
    trainer(other, None, tmp_path / "run", images(), on_labels).train()
    assert torch.equal(weights(one), weights(other))
