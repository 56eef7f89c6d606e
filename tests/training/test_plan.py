"""What is refused before a step is taken, and what each refusal says; a check leaves everything as it was."""

import copy
import dataclasses
import gc
import math
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset
from transformers import LlamaConfig, LlamaForCausalLM

import limbeck
from limbeck.errors import ConfigError, DataError, LimbeckError, ModelError, ObjectiveError, ShapeError, TargetError
from limbeck.losses.divergences import forward_kl, logit_matching, reverse_kl, skewed_reverse_kl
from limbeck.losses.numbers import NO_LABEL
from limbeck.losses.objective import Objective
from limbeck.losses.targets import SparseTargets
from limbeck.networks.checks import check_label_names
from limbeck.networks.mlp import mlp
from limbeck.teachers import Ensemble, ModelTeacher
from limbeck.training import plan
from limbeck.training.config import DistillConfig
from limbeck.training.plan import Plan, on_device_of
from limbeck.training.trainer import DistillTrainer
from limbeck.transfer import TransferSet, arrays

gc.freeze()  # Trainer collects garbage whenever it starts, and the libraries above are none
N, CLASSES = 12, 3
X = torch.randn(N, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(N) % CLASSES
SOFT, BOTH = Objective(temperature=2.0), Objective(temperature=2.0, hard_weight=0.5)
CATS = ("bird", "cat", "dog")


def network(classes: int = CLASSES, names: Any = None, **settings: Any) -> nn.Module:
    torch.manual_seed(classes)
    net = mlp([4, classes], **settings)
    net.label_names = names
    return net


def trainer_for(
    folder: Path, student: Any = None, teacher: Any = None, objective: Objective = SOFT, data: Any = None, **more: Any
) -> DistillTrainer:
    config = DistillConfig(output_dir=str(folder), max_steps=2, per_device_train_batch_size=8, disable_tqdm=True)
    return DistillTrainer(
        network() if student is None else student,
        teacher,
        objective,
        config,
        train_dataset=arrays(X, Y) if data is None else data,
        **more,
    )


def refused(folder: Path, kind: type[LimbeckError], said: str, *arguments: Any, **more: Any) -> None:
    """Training is refused with an error that says so, and no step is taken."""
    with pytest.raises(kind, match=said):
        (trainer := trainer_for(folder, *arguments, **more)).train()
    if "trainer" in locals():
        assert trainer.state.global_step == 0


def llama(**more: int) -> LlamaForCausalLM:
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    return LlamaForCausalLM(LlamaConfig(**sizes, vocab_size=20, **more))


class Softmax(nn.Sequential):
    def __init__(self, net: nn.Module) -> None:
        super().__init__(net, nn.Softmax(-1))


# Classes


def test_as_many_classes(tmp_path: Path) -> None:
    refused(tmp_path, ShapeError, "teacher has 5 classes and the student 3; .*last layer", None, network(5))
    names = ("a", "b", "c", "d")
    with_names = arrays(X, Y, label_names=names)
    refused(
        tmp_path, ShapeError, "transfer set has 4 classes and the student 3 outputs", None, network(), data=with_names
    )
    refused(
        tmp_path,
        ShapeError,
        "evaluation set has 4 classes",
        None,
        network(),
        data=arrays(X, Y),
        eval_dataset=with_names,
    )
    named = network(names=CATS)
    refused(tmp_path, ShapeError, "the student has 3 and the transfer set has 4", named, network(), data=with_names)


def test_in_the_same_order(tmp_path: Path) -> None:
    other = ("bird", "dog", "cat")
    for teacher, student, data in (
        (network(names=CATS), network(names=other), arrays(X, Y)),
        (network(names=CATS), network(), arrays(X, Y, label_names=other)),
        (Ensemble([network(), network(names=CATS)]), network(names=other), arrays(X, Y)),
        (LogisticRegression().fit(X.numpy(), np.array(CATS)[Y]), network(), arrays(X, Y, label_names=other)),
    ):
        said = "Class 1 is 'cat' for the teacher and 'dog' for the (student|transfer set).*same order.*Reorder"
        refused(tmp_path, DataError, said, student, teacher, data=data)
    refused(
        tmp_path,
        DataError,
        "Class 1 is 'cat' for the student and 'dog' for the evaluation set",
        network(names=CATS),
        network(),
        eval_dataset=arrays(X, Y, label_names=other),
    )
    said = "same classes in the same order"
    refused(tmp_path, ModelError, said, None, Ensemble([network(names=CATS), network(names=other)]))


def test_each_of_several_evaluation_sets_is_checked(tmp_path: Path) -> None:
    """As a single one is: the names of the classes, their number and the labels."""
    good, four = arrays(X, Y), ("a", "b", "c", "d")
    for other, kind, message in (
        (arrays(X, Y, label_names=("bird", "dog", "cat")), DataError, "the 'b' evaluation set.*same order"),
        (arrays(X, Y + 1), DataError, "Label 3 of example 2 of the 'b' evaluation set is outside the 3 classes"),
    ):
        refused(tmp_path, kind, message, network(names=CATS), network(), eval_dataset={"a": good, "b": other})
    message = "The 'b' evaluation set has 4 classes and the student 3 outputs"
    named = arrays(X, Y, label_names=four)
    refused(tmp_path, ShapeError, message, None, network(), eval_dataset={"a": good, "b": named})
    trainer_for(tmp_path, None, network(), eval_dataset={"a": good, "b": good}).train()


def test_the_plan_is_frozen_and_says_what_was_found(tmp_path: Path) -> None:
    trainer = trainer_for(tmp_path, None, network())
    assert not trainer.plan.checked
    trainer.check()
    assert trainer.plan == Plan(next_tokens=False, checked=True)
    with pytest.raises(dataclasses.FrozenInstanceError):
        trainer.plan.classes = 2


def test_a_check_runs_where_each_network_is() -> None:
    """Trainer leaves the student on the CPU at first where FSDP, DeepSpeed or bf16_full_eval move it later."""
    batch = {"inputs": X, "row_id": torch.arange(N)}
    elsewhere = {name: column.to("meta") for name, column in batch.items()}
    for model in (network(), ModelTeacher(network())):
        assert {tensor.device.type for tensor in on_device_of(model, batch).values()} == {"cpu"}
        with pytest.raises(NotImplementedError, match="out of meta tensor"):  # what no other device's tensors raise
            on_device_of(model, elsewhere)
    assert on_device_of(network().to("meta"), batch) is batch  # offloaded: its hooks move what it reads
    assert on_device_of(lambda batch: batch, batch) is batch


@pytest.mark.parametrize("kind", ["classifier", "language model"])
def test_student_and_teacher_get_the_batch_each_on_its_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Also with bf16_full_eval, under which Trainer does not move the student before it trains."""
    student, teacher = (network(), network()) if kind == "classifier" else (llama(), llama())
    data = arrays(X, Y) if kind == "classifier" else [{"input_ids": [3, 4, 5], "labels": [-100, 4, 5]}] * N
    config = DistillConfig(output_dir=str(tmp_path), max_steps=1, bf16_full_eval=True, disable_tqdm=True)
    trainer = DistillTrainer(student, teacher, SOFT, config, train_dataset=data, eval_dataset=data)
    read: list[nn.Module] = []
    monkeypatch.setattr(plan, "on_device_of", lambda model, batch: read.append(model) or batch)
    trainer.check()
    assert trainer.plan.checked
    assert read == [trainer.model, trainer.teacher]
    monkeypatch.undo()
    trainer.train()
    if kind == "language model":  # whose inputs are not cast: Trainer casts the student to bfloat16 to evaluate it
        assert math.isfinite(trainer.evaluate()["eval_forward_kl"])


def test_names_that_agree_or_are_not_known(tmp_path: Path) -> None:
    data = arrays(X, Y, label_names=CATS)
    for teacher in (network(names=CATS), network(), LogisticRegression().fit(X.numpy(), np.array(CATS)[Y])):
        trainer_for(tmp_path, network(names=CATS), teacher, data=data).check()
    trainer_for(tmp_path, network(names=CATS), LogisticRegression().fit(X.numpy(), Y), data=data).check()
    check_label_names({})
    check_label_names({"the student": CATS})


def test_a_classifier_of_labels_that_do_not_start_at_0(tmp_path: Path) -> None:
    """Its first column would be taken for label 0."""
    classifier = LogisticRegression().fit(X.numpy(), Y + 1)
    said = re.escape(
        "The classifier's classes are [1, 2, 3], but those of a transfer set are the labels 0 to 2; fit it"
    )
    refused(tmp_path, ModelError, said, None, classifier)
    with pytest.raises(ModelError, match=said):
        Ensemble([network(), classifier])


# What teachers say


def test_probabilities_are_no_logits(tmp_path: Path) -> None:
    said = r"The teacher returns probabilities .* logits are needed: return probs.log\(\), or DenseTargets.from_probs"
    refused(tmp_path, TargetError, said, None, Softmax(network()))
    refused(tmp_path, TargetError, said, None, Ensemble([network(), Softmax(network())]))
    refused(tmp_path, TargetError, said, None, lambda batch: network()(batch["inputs"]).softmax(-1).half())
    refused(
        tmp_path,
        TargetError,
        "The student returns probabilities .* remove its softmax",
        Softmax(network()),
        network(),
    )
    trainer_for(tmp_path, None, lambda batch: network()(batch["inputs"]).log_softmax(-1)).train()  # these are logits


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_the_example_that_the_teacher_fails_on_is_named(tmp_path: Path, value: float) -> None:
    data = TransferSet({"inputs": X}, Y, row_ids=torch.arange(N) + 300)

    def teacher(batch: Any) -> Tensor:
        logits = batch["inputs"][:, :CLASSES].clone()
        logits[batch["row_id"] == 305] = value
        return logits

    said = r"nan, infinity or an impossible distribution for the example with row_id 305 \(1 of 8 positions"
    for asked in (teacher, Ensemble([network(), teacher])):
        refused(tmp_path, TargetError, said, None, asked, data=data)


def impossible(batch: Any) -> Tensor:
    """A probability of zero: legal where the divergence stays finite."""
    logits = batch["inputs"][:, :CLASSES].clone()
    logits[batch["row_id"] == 4, 1] = -torch.inf
    return logits


@pytest.mark.parametrize("divergence", [reverse_kl, logit_matching])
def test_a_probability_of_zero_names_a_divergence_that_takes_it(tmp_path: Path, divergence: Any) -> None:
    said = (
        f"probability of zero for the example with row_id 4, where {divergence.name} is infinite; use skewed_reverse_kl"
    )
    refused(tmp_path, TargetError, said, None, impossible, Objective(divergence))


@pytest.mark.parametrize("divergence", [forward_kl, skewed_reverse_kl(0.1)])
def test_a_probability_of_zero_is_legal_elsewhere(tmp_path: Path, divergence: Any) -> None:
    trainer = trainer_for(tmp_path, None, impossible, Objective(divergence))
    trainer.train()
    assert all(p.isfinite().all() for p in trainer.model.parameters())


def test_targets_that_the_objective_cannot_use(tmp_path: Path) -> None:
    def sparse(batch: Any) -> SparseTargets:
        return SparseTargets.from_logits(batch["inputs"][:, :CLASSES], 2)

    refused(tmp_path, ObjectiveError, "logit_matching needs every class", None, sparse, Objective(logit_matching))
    refused(tmp_path, ShapeError, "returned 4 rows, but the batch has 8", None, lambda b: b["inputs"][:4, :CLASSES])
    refused(tmp_path, TargetError, "must return logits .* but it returned str", None, lambda batch: "cat")


# Students


class Broken(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, CLASSES)
        with torch.no_grad():
            self.layer.bias[0] = math.nan

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layer(inputs)


def test_students_that_cannot_learn(tmp_path: Path) -> None:
    refused(tmp_path, ModelError, "student's logits are not finite for the first batch", Broken(), network())
    frozen = network().requires_grad_(False)
    refused(tmp_path, ModelError, r"requires a gradient.*requires_grad_\(\)", frozen, network())
    flat = nn.Sequential(nn.Linear(4, 3), nn.Flatten(0))  # 8 examples, 24 numbers
    refused(tmp_path, ShapeError, r"The teacher has 3 classes and the student 2", flat, network())


def test_one_network_cannot_be_both(tmp_path: Path) -> None:
    net = network()
    for teacher in (net, Ensemble([network(), net]), nn.Sequential(net)):
        said = r"share parameters, and a teacher is frozen; pass copy\.deepcopy"
        refused(tmp_path, ModelError, said, net.requires_grad_(), teacher)
    trainer_for(tmp_path, copy.deepcopy(net).requires_grad_(), net).train()


# Sets and labels


class Bare(Dataset):
    """A dataset that is no TransferSet."""

    def __init__(self, labels: Any = Y, size: int = N) -> None:
        self.classes, self.size = labels, size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, i: int) -> dict[str, Any]:
        return {"inputs": X[i]} | ({} if self.classes is None else {"labels": int(self.classes[i])})


class Stream(IterableDataset):
    def __iter__(self) -> Any:
        yield {"inputs": X[0]}


def test_sets_that_cannot_be_learned_from(tmp_path: Path) -> None:
    refused(
        tmp_path, DataError, "transfer set is empty; training needs at least one", None, network(), data=Bare(size=0)
    )
    refused(tmp_path, DataError, "length is known.*but got Stream", None, network(), data=Stream())
    config = DistillConfig(output_dir=str(tmp_path), disable_tqdm=True)
    with pytest.raises(DataError, match=r"needs a train_dataset.*but got NoneType"):
        DistillTrainer(network(), network(), args=config).train()


def test_labels_that_are_no_classes(tmp_path: Path) -> None:
    late = Y.clone()
    late[10] = 7  # not in the first batch
    said = "Label 7 of example 10 of the transfer set is outside the 3 classes of the student, 0 to 2"
    for objective in (SOFT, BOTH):
        refused(tmp_path, DataError, said, None, network(), objective, arrays(X, late))
    refused(
        tmp_path,
        DataError,
        "Label 7 of example 10 of the evaluation set",
        None,
        network(),
        eval_dataset=arrays(X, late),
    )
    bare = Y.clone()
    bare[5] = -1
    refused(tmp_path, DataError, "Label -1 of example 5 is outside", None, network(), BOTH, Bare(bare))


def test_a_hard_term_needs_labels(tmp_path: Path) -> None:
    none = arrays(X, torch.full((N,), NO_LABEL))
    refused(tmp_path, ConfigError, "no example has a label; pass labels, or hard_weight=0", None, network(), BOTH, none)
    for data in (arrays(X), Bare(None)):
        refused(
            tmp_path, ConfigError, "batches have no labels; pass labels, or hard_weight=0", None, network(), BOTH, data
        )
    first = torch.where(torch.arange(N) < 8, NO_LABEL, Y)  # labels after the first batch are labels
    for data in (arrays(X, first), Bare(first)):
        trainer_for(tmp_path, None, network(), BOTH, data).train()


def test_a_soft_term_needs_a_teacher(tmp_path: Path) -> None:
    refused(tmp_path, ConfigError, "soft_weight but there is no teacher; pass one, or soft_weight=0", None, None, SOFT)
    trainer_for(tmp_path, None, network(5), Objective(soft_weight=0, hard_weight=1)).train()  # a teacher nobody asks


def test_datasets_of_others_are_read_example_by_example(tmp_path: Path) -> None:
    weights = []
    for data in (Bare(), arrays(X, Y)):
        trainer = trainer_for(tmp_path, network(), network(), BOTH, data)
        trainer.train()
        weights.append(trainer.model.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


# A check changes nothing


def test_a_check_leaves_random_numbers_and_modes_alone(tmp_path: Path) -> None:
    def noisy(batch: Any) -> Tensor:
        return torch.randn(len(batch["inputs"]), CLASSES)

    student = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, CLASSES))
    trainer = trainer_for(tmp_path, student, noisy)
    student.train()
    student[1].eval()
    before = copy.deepcopy(student.state_dict())
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    trainer.check()
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()
    assert random.getstate() == states[2]
    assert [module.training for module in student] == [True, False, True, True]
    assert all(torch.equal(tensor, before[name]) for name, tensor in student.state_dict().items())

    student[3].register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        trainer.check()
    assert [module.training for module in student] == [True, False, True, True]  # also where it fails


def test_checking_more_often_trains_the_same(tmp_path: Path) -> None:
    weights = []
    for checks in (0, 2):
        torch.manual_seed(0)
        student = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, CLASSES))
        trainer = trainer_for(tmp_path, student, network(dropout=0.5))
        for _ in range(checks):
            trainer.check()
        trainer.train()
        weights.append(student.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_negative_weights_and_examples_that_are_no_dicts_are_refused(tmp_path: Path) -> None:
    heavy = limbeck.TransferSet({"inputs": torch.randn(6, 4), "weights": -torch.ones(6)}, torch.arange(6) % 3)
    config = limbeck.DistillConfig(str(tmp_path), max_steps=1, save_strategy="no")
    with pytest.raises(limbeck.DataError, match="weights of positions must be 0 or more"):
        limbeck.DistillTrainer(limbeck.mlp([4, 3]), args=config, train_dataset=heavy).train()
    pairs = torch.utils.data.TensorDataset(torch.randn(6, 4), torch.arange(6) % 3)
    with pytest.raises(limbeck.DataError, match="dicts of tensors, column by column, but the data set gives tuple"):
        limbeck.DistillTrainer(limbeck.mlp([4, 3]), args=config, train_dataset=pairs).train()


def test_an_attribute_of_a_users_own_module_constrains_nothing(tmp_path: Path) -> None:
    class Own(torch.nn.Linear):
        max_norm = 0.01

    student = torch.nn.Sequential(Own(4, 4), torch.nn.Linear(4, 3))
    student.max_norm = 0.01
    before = student[0].weight.detach().clone()
    config = limbeck.DistillConfig(str(tmp_path), max_steps=1, learning_rate=0.0, save_strategy="no")
    examples = limbeck.arrays(torch.randn(6, 4), torch.arange(6) % 3)
    limbeck.DistillTrainer(student, args=config, train_dataset=examples).train()
    assert torch.equal(student[0].weight, before)


def test_rows_that_a_language_model_cannot_read_are_refused() -> None:
    from datasets import Dataset

    from limbeck.networks.checks import check_rows
    from limbeck.teachers import as_teacher

    student, teacher = llama(max_position_embeddings=6), as_teacher(llama(max_position_embeddings=8))
    rows = [{"input_ids": [1] * n, "labels": [-100] + [5] * (n - 1), "teacher_input_ids": [1] * m} for n, m in SIZES]
    check_rows(student, teacher, Dataset.from_list(rows), classes=20)
    with pytest.raises(DataError, match=r"input_ids has 7 tokens, and the student reads 6; .* with max_length=6"):
        check_rows(student, teacher, Dataset.from_list([*rows, rows[0] | {"input_ids": [1] * 7}]), classes=20)
    long = Dataset.from_list([*rows, rows[0] | {"teacher_input_ids": [1] * 9}])
    with pytest.raises(DataError, match=r"teacher_input_ids has 9 tokens, and the teacher reads 8; .* teacher_max_len"):
        check_rows(student, teacher, long, classes=20)
    check_rows(student, teacher, long.select(range(len(rows))), classes=20)
    with pytest.raises(DataError, match="A row has the label 5, and the student's output layer has 5 tokens"):
        check_rows(student, teacher, Dataset.from_list(rows), classes=5)
    with pytest.raises(DataError, match="has 6 tokens, and the teacher reads 4"):
        check_rows(
            student, as_teacher(llama(max_position_embeddings=4)), long.select_columns(["input_ids", "labels"]), 20
        )
    packed = Dataset.from_list([{"input_ids": [1] * 9, "labels": [5] * 9, "position_ids": [*range(5), *range(4)]}])
    check_rows(student, None, packed, classes=20)
    with pytest.raises(DataError, match="has 5 tokens, and the student reads 4"):
        check_rows(llama(max_position_embeddings=4), None, packed, classes=20)


SIZES = [(3, 8), (6, 2)]
