"""DistillTrainer: gradients and logs against a plain torch computation of the global loss, in float64."""

import copy
import gc
import math
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from transformers import (
    BertConfig,
    BertForTokenClassification,
    EarlyStoppingCallback,
    TrainerCallback,
    TrainingArguments,
)

from limbeck.errors import ConfigError, DivergedError, TargetError
from limbeck.losses.numbers import NO_LABEL
from limbeck.losses.objective import Objective
from limbeck.losses.targets import SparseTargets
from limbeck.networks.mlp import mlp
from limbeck.teachers import Ensemble, as_teacher, record
from limbeck.training.config import DistillConfig
from limbeck.training.trainer import DistillTrainer
from limbeck.transfer import TransferSet, arrays

gc.freeze()  # Trainer collects garbage whenever it starts, and the libraries above are none
CLASSES, FEATURES = 4, 6
BOTH = Objective(temperature=3.0, soft_weight=0.7, hard_weight=0.4)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network(*, seed: int = 0, sizes: tuple[int, ...] = (FEATURES, 5, CLASSES), **settings: Any) -> nn.Module:
    torch.manual_seed(seed)
    return mlp(list(sizes), **settings).double()


def settings(folder: Path, **changes: Any) -> DistillConfig:
    plain = {"optim": "sgd", "learning_rate": 0.1, "lr_scheduler_type": "constant", "max_grad_norm": 0.0}
    quiet = {"output_dir": str(folder), "save_strategy": "no", "disable_tqdm": True, "logging_steps": 1}
    return DistillConfig(**({"num_train_epochs": 1} | plain | quiet | changes))


class Steps(TrainerCallback):
    """The parameters before each optimizer step, the gradients they got, and the rows that they came from."""

    def __init__(self) -> None:
        self.parameters: list[dict[str, Tensor]] = []
        self.gradients: list[dict[str, Tensor]] = []
        self.rows: list[Tensor] = []
        self._seen: list[Tensor] = []

    def watch(self, batch: Any, epoch: int) -> Any:
        """An augmentation that changes nothing."""
        self._seen.append(batch["row_id"])
        return batch

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._seen = []  # of the check

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.parameters.append({n: p.detach().clone() for n, p in model.named_parameters()})
        self.gradients.append({n: p.grad.clone() for n, p in model.named_parameters()})
        self.rows.append(torch.cat(self._seen))
        self._seen = []


def trained(
    folder: Path, student: nn.Module, teacher: Any, objective: Objective, data: Any, **changes: Any
) -> tuple[Steps, list[dict[str, float]]]:
    steps = Steps()
    trainer = DistillTrainer(
        copy.deepcopy(student),
        copy.deepcopy(teacher),
        objective,
        settings(folder, **changes),
        train_dataset=data,
        augment=steps.watch,
        callbacks=[steps],
    )
    trainer.train()
    return steps, [line for line in trainer.state.log_history if "loss" in line]


def plain_terms(z: Tensor, v: Tensor, temperature: float, labels: Tensor | None) -> tuple[Tensor, Tensor]:
    """KL(teacher‖student) at T and the cross-entropy at 1, `[n]`, straight from their definitions."""
    log_q, log_p = (z / temperature).log_softmax(-1), (v / temperature).log_softmax(-1)
    soft = (log_p.exp() * (log_p - log_q)).sum(-1)
    if labels is None:
        return soft, torch.zeros_like(soft)
    hard = -z.log_softmax(-1).gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return soft, hard


def plain_loss(
    objective: Objective, z: Tensor, v: Tensor, labels: Tensor | None, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The loss of a whole global batch, and its two terms; `weight` is 0 where a position is masked."""
    soft, hard = plain_terms(z, v, objective.temperature, labels)
    soft = (soft * weight).sum() / weight.sum()
    labelled = weight * (labels != NO_LABEL) if labels is not None else torch.zeros_like(weight)
    hard = (hard * labelled).sum() / labelled.sum().clamp(min=1e-300)
    return objective.soft_weight * objective.temperature**2 * soft + objective.hard_weight * hard, soft, hard


def accumulations(global_batch: int) -> list[dict[str, int]]:
    return [{"per_device_train_batch_size": global_batch // n, "gradient_accumulation_steps": n} for n in (1, 2, 4)]


# The gradient of the global batch

N = 21  # in global batches of 8: the last window is short, and so is its last micro-batch
LABELS = torch.randint(CLASSES, (N,), generator=torch.Generator().manual_seed(9))
FEW = torch.where(torch.arange(N) % 5 == 0, LABELS, NO_LABEL)  # whole micro-batches have no label
ONE = torch.where(torch.arange(N) == 3, LABELS, NO_LABEL)  # whole global batches have none
MASK = torch.arange(N) % 3 != 1
WEIGHTS = torch.rand(N, generator=torch.Generator().manual_seed(8), dtype=torch.float64) + 0.1


@pytest.mark.parametrize(
    ("labels", "extra"),
    [
        (LABELS, {}),
        (FEW, {}),
        (ONE, {}),
        (LABELS, {"mask": MASK}),
        (FEW, {"mask": MASK, "weights": WEIGHTS}),
        (None, {}),
        (None, {"mask": MASK, "weights": WEIGHTS}),
    ],
    ids=["labels", "few labels", "one label", "mask", "few labels, mask, weights", "no labels", "no labels, weights"],
)
def test_gradients_are_those_of_the_global_batch_however_it_is_accumulated(
    tmp_path: Path, labels: Tensor | None, extra: dict[str, Tensor]
) -> None:
    x = random(N, FEATURES, seed=1)
    data = TransferSet({"inputs": x, **extra}, labels)
    student, teacher = network(seed=2), network(seed=3)
    objective = BOTH if labels is not None else Objective(temperature=3.0, soft_weight=0.7)
    weight = extra.get("weights", torch.ones(N, dtype=torch.float64)) * extra.get("mask", torch.ones(N))
    runs = [trained(tmp_path, student, teacher, objective, data, **how) for how in accumulations(8)]

    for steps, logs in runs:
        assert [len(rows) for rows in steps.rows] == [8, 8, 5]
        assert sorted(torch.cat(steps.rows).tolist()) == list(range(N))
        for parameters, gradients, rows, line in zip(steps.parameters, steps.gradients, steps.rows, logs, strict=True):
            inputs = {name: p.requires_grad_() for name, p in parameters.items()}
            z, v = functional_call(student, inputs, (x[rows],)), teacher(x[rows])
            loss, soft, hard = plain_loss(objective, z, v, labels[rows] if labels is not None else None, weight[rows])
            expected = torch.autograd.grad(loss, list(inputs.values()))
            for name, gradient in zip(inputs, expected, strict=True):
                torch.testing.assert_close(gradients[name], gradient, rtol=2e-6, atol=1e-9)
            assert line["loss"] == pytest.approx(float(loss.detach()), rel=2e-6)
            assert line["soft_loss"] == pytest.approx(float(soft.detach()), rel=2e-6)
            if labels is None:
                assert "hard_loss" not in line
            elif ((labels[rows] != NO_LABEL) & (weight[rows] > 0)).any():
                assert line["hard_loss"] == pytest.approx(float(hard.detach()), rel=2e-6)
            else:
                assert math.isnan(line["hard_loss"])
    first = runs[0][0]
    for other, _ in runs[1:]:
        for a, b in zip(first.gradients, other.gradients, strict=True):
            for name in a:
                torch.testing.assert_close(a[name], b[name], rtol=1e-9, atol=1e-12)


def test_without_a_teacher_the_gradient_is_that_of_cross_entropy(tmp_path: Path) -> None:
    x = random(N, FEATURES, seed=1)
    student = network(seed=2)
    for how in accumulations(8):
        steps = Steps()
        trainer = DistillTrainer(
            copy.deepcopy(student),
            args=settings(tmp_path, **how),
            train_dataset=arrays(x, FEW),
            augment=steps.watch,
            callbacks=[steps],
        )
        trainer.train()
        rows = steps.rows[0]
        loss = F.cross_entropy(student(x[rows]), FEW[rows], ignore_index=NO_LABEL)
        for (name, _), gradient in zip(
            student.named_parameters(), torch.autograd.grad(loss, list(student.parameters())), strict=True
        ):
            torch.testing.assert_close(steps.gradients[0][name], gradient, rtol=1e-6, atol=1e-12)


def test_augmentation_is_told_the_epoch_and_leaves_evaluation_alone(tmp_path: Path) -> None:
    """Every example once in each epoch, also where accumulation and batches do not divide them."""
    seen: list[tuple[int, int]] = []

    def watch(batch: Any, epoch: int) -> Any:
        seen.extend((epoch, int(row)) for row in batch["row_id"])
        return batch

    data = arrays(random(N, FEATURES, seed=1))
    each = {"eval_strategy": "steps", "eval_steps": 1, "num_train_epochs": 3}
    for how in accumulations(8):
        seen.clear()
        config = settings(tmp_path, **each, **how)
        trainer = DistillTrainer(
            network(), network(seed=1), args=config, train_dataset=data, eval_dataset=data, augment=watch
        )
        trainer.train()
        checked = how["per_device_train_batch_size"]
        assert seen[:checked] == [(0, row) for row in range(checked)]
        assert sorted(seen[checked:]) == [(epoch, row) for epoch in range(3) for row in range(N)]


# Positions that are tokens

LENGTHS = torch.tensor([3, 7, 5, 2, 7, 4, 6, 3, 5, 1, 4])


def bert(labels: int = 3, seed: int = 0) -> BertForTokenClassification:
    torch.manual_seed(seed)
    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    none = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = BertConfig(
        vocab_size=20, num_labels=labels, max_position_embeddings=12, attn_implementation="eager", **small, **none
    )
    return BertForTokenClassification(config).double().eval()


def token_set(padding: int = 0, *, attention: bool = True) -> TransferSet:
    """Sentences of different lengths; the first token of each has no label."""
    width = int(LENGTHS.max()) + padding
    generator = torch.Generator().manual_seed(4)
    ids = torch.randint(1, 20, (len(LENGTHS), int(LENGTHS.max())), generator=generator)
    labels = torch.randint(3, ids.shape, generator=generator)
    ids, labels = (F.pad(values, (0, padding)) for values in (ids, labels))
    there = torch.arange(width) < LENGTHS[:, None]
    labels = torch.where(there & (torch.arange(width) > 0), labels, NO_LABEL)
    padded = torch.where(there, ids, 0)
    mask = {"attention_mask": there.long()} if attention else {"mask": there}
    return TransferSet({"input_ids": padded, **mask}, labels)


def one_by_one(objective: Objective, student: Any, teacher: Any, data: TransferSet, rows: Tensor) -> Tensor:
    """The loss of a global batch, each sentence read alone and without padding."""
    z, v, labels = [], [], []
    for row in rows.tolist():
        sentence = slice(0, int(LENGTHS[row]))
        example = data[row]
        ids = example["input_ids"][None, sentence]
        z.append(student(ids)[0])
        v.append(teacher(input_ids=ids).logits[0])
        labels.append(example["labels"][sentence])
    weight = torch.ones(len(torch.cat(labels)), dtype=torch.float64)
    return plain_loss(objective, torch.cat(z), torch.cat(v), torch.cat(labels), weight)[0]


@pytest.mark.parametrize("padding", [0, 3])
def test_tokens_are_positions_and_padding_is_none(tmp_path: Path, padding: int) -> None:
    data, student, teacher = token_set(padding), bert(seed=1), bert(seed=2)
    unpadded = token_set(0)
    runs = [trained(tmp_path, student, teacher, BOTH, data, **how) for how in accumulations(4)]
    for steps, logs in runs:
        assert [len(rows) for rows in steps.rows] == [4, 4, 3]
        for parameters, gradients, rows, line in zip(steps.parameters, steps.gradients, steps.rows, logs, strict=True):
            inputs = {name: p.requires_grad_() for name, p in parameters.items()}

            def ask(ids: Tensor, inputs: dict[str, Tensor] = inputs) -> Tensor:
                return functional_call(student, inputs, (), {"input_ids": ids}).logits

            loss = one_by_one(BOTH, ask, teacher, unpadded, rows)
            expected = torch.autograd.grad(loss, list(inputs.values()))
            for name, gradient in zip(inputs, expected, strict=True):
                torch.testing.assert_close(gradients[name], gradient, rtol=2e-6, atol=1e-9)
            assert line["loss"] == pytest.approx(float(loss.detach()), rel=2e-6)
    for other, _ in runs[1:]:
        for a, b in zip(runs[0][0].gradients, other.gradients, strict=True):
            for name in a:
                torch.testing.assert_close(a[name], b[name], rtol=1e-9, atol=1e-12)


class Tagger(nn.Module):
    """A user's own token classifier: logits [n, L, C] of ids [n, L]."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embedding, self.head = nn.Embedding(20, 5), nn.Linear(5, 3)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.head(self.embedding(input_ids).tanh())


@pytest.mark.parametrize("attention", [True, False], ids=["attention_mask", "mask"])
def test_a_users_own_token_classifier_counts_tokens_too(tmp_path: Path, attention: bool) -> None:
    data, student, teacher = token_set(2, attention=attention), Tagger(1).double(), Tagger(2).double()
    unlabelled = Objective(temperature=2.0)
    for objective, examples in ((BOTH, data), (unlabelled, data.without_labels())):
        for how in accumulations(4):
            steps, logs = trained(tmp_path, student, teacher, objective, examples, **how)
            rows = steps.rows[0]
            batch = data.__getitems__(rows.tolist())
            there = torch.arange(batch["input_ids"].shape[1]) < LENGTHS[rows][:, None]
            z, v, labels = student(batch["input_ids"]), teacher(batch["input_ids"]), batch["labels"]
            loss, *_ = plain_loss(objective, z[there], v[there], labels[there], torch.ones(int(there.sum())))
            expected = torch.autograd.grad(loss, list(student.parameters()))
            for (name, _), gradient in zip(student.named_parameters(), expected, strict=True):
                torch.testing.assert_close(steps.gradients[0][name], gradient, rtol=2e-6, atol=1e-12)
            assert logs[0]["loss"] == pytest.approx(float(loss.detach()), rel=2e-6)


# What is measured


def evaluated(folder: Path, student: nn.Module, teacher: Any, objective: Objective, data: Any, size: int) -> Any:
    trainer = DistillTrainer(
        student, teacher, objective, settings(folder, per_device_eval_batch_size=size), train_dataset=data
    )
    return trainer.evaluate(data)


def by_hand(z: Tensor, v: Tensor, labels: Tensor, weight: Tensor, objective: Objective) -> dict[str, float]:
    labelled = weight * (labels != NO_LABEL)

    def mean(values: Tensor, share: Tensor = weight) -> float:
        return float((values * share).sum().detach() / share.sum())

    log_q, log_p = z.log_softmax(-1), v.log_softmax(-1)
    soft, hard = plain_terms(z, v, objective.temperature, labels)
    scale = objective.soft_weight * objective.temperature**2
    return {
        "eval_accuracy": mean((z.argmax(-1) == labels).double(), labelled),
        "eval_nll": mean(hard, labelled),
        "eval_hard_loss": mean(hard, labelled),
        "eval_soft_loss": mean(soft),
        "eval_loss": scale * mean(soft) + objective.hard_weight * mean(hard, labelled),
        "eval_agreement": mean((z.argmax(-1) == v.argmax(-1)).double()),
        "eval_forward_kl": mean((log_p.exp() * (log_p - log_q)).sum(-1)),
        "eval_reverse_kl": mean((log_q.exp() * (log_q - log_p)).sum(-1)),
    }


@pytest.mark.parametrize("size", [4, 8, 64])
def test_an_evaluation_is_the_mean_over_positions_that_count(tmp_path: Path, size: int) -> None:
    """21 examples: the last batch is short; some have no label, some are masked, all have a weight."""
    x = random(N, FEATURES, seed=1)
    student, teacher = network(seed=2), network(seed=3)
    data = TransferSet({"inputs": x, "mask": MASK, "weights": WEIGHTS}, FEW)
    said = evaluated(tmp_path, student, teacher, BOTH, data, size)
    for name, value in by_hand(student(x), teacher(x), FEW, WEIGHTS * MASK, BOTH).items():
        assert said[name] == pytest.approx(value, rel=1e-5), name


@pytest.mark.parametrize("size", [4, 64])
def test_an_evaluation_of_tokens_leaves_padding_out(tmp_path: Path, size: int) -> None:
    data, student, teacher = token_set(2), bert(seed=1), bert(seed=2)
    said = evaluated(tmp_path, student, teacher, BOTH, data, size)
    batch = data.__getitems__(range(len(data)))
    there = batch["attention_mask"].bool()
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    with torch.no_grad():
        z, v = (model(**inputs).logits[there] for model in (student, teacher))
    for name, value in by_hand(z, v, batch["labels"][there], torch.ones(len(z)), BOTH).items():
        assert said[name] == pytest.approx(value, rel=1e-5), name


def test_an_evaluation_says_nothing_of_what_is_not_there(tmp_path: Path) -> None:
    x, student, teacher = random(N, FEATURES, seed=1), network(seed=2), network(seed=3)
    soft = Objective(temperature=2.0)
    unlabelled = evaluated(tmp_path, student, teacher, soft, arrays(x), 8)
    assert unlabelled["eval_loss"] == pytest.approx(4 * unlabelled["eval_soft_loss"])
    assert not {"eval_accuracy", "eval_nll", "eval_brier", "eval_hard_loss"} & unlabelled.keys()
    alone = evaluated(tmp_path, student, None, None, arrays(x, FEW), 8)
    assert alone["eval_loss"] == alone["eval_hard_loss"] == pytest.approx(alone["eval_nll"])
    assert not {"eval_agreement", "eval_forward_kl", "eval_soft_loss", "eval_labelled"} & alone.keys()

    def top(batch: Any) -> SparseTargets:
        return SparseTargets.from_logits(teacher(batch["inputs"]), 2)

    sparse = evaluated(tmp_path, student, top, Objective(temperature=1.0), arrays(x, FEW), 8)
    assert 0 < sparse["eval_soft_loss"] < unlabelled["eval_forward_kl"]  # the lower bound
    assert "eval_forward_kl" not in sparse


def test_what_is_infinite_or_nan_is_not_smoothed_over(tmp_path: Path) -> None:
    x, student = random(N, FEATURES, seed=1), network(seed=2)

    def zero(batch: Any) -> Tensor:  # a class of probability 0 for a single example
        z = batch["inputs"][:, :CLASSES].clone()
        z[batch["row_id"] == 5, 0] = -torch.inf
        return z

    said = evaluated(tmp_path, student, zero, Objective(temperature=1.0), arrays(x, FEW), 8)
    assert said["eval_reverse_kl"] == math.inf
    assert math.isfinite(said["eval_forward_kl"])
    with torch.no_grad():
        student.layers[0].weight[0, 0] = math.nan
    said = evaluated(tmp_path, student, zero, Objective(temperature=1.0), arrays(x, FEW), 8)
    assert math.isnan(said["eval_loss"])
    assert math.isnan(said["eval_nll"])


def test_logits_of_many_classes_are_not_kept(tmp_path: Path) -> None:
    classes = 5000
    student, teacher = network(seed=2, sizes=(FEATURES, classes)), network(seed=3, sizes=(FEATURES, classes))
    data = arrays(random(N, FEATURES, seed=1), torch.arange(N))
    trainer = DistillTrainer(student, teacher, BOTH, settings(tmp_path), train_dataset=data)
    loss, kept, labels = trainer.prediction_step(student, data.__getitems__(range(N)), False)
    assert loss is None
    assert kept.shape[:2] == (N, 1)
    assert kept.shape[2] < 20
    assert labels.numel() == 0
    assert trainer.predict(data).predictions.size < 20 * N


def test_the_best_student_is_kept(tmp_path: Path) -> None:
    """A learning rate that makes things worse after the first epochs: the weights of the best one come back."""
    x = random(40, FEATURES, seed=1)
    student, teacher = network(seed=2), network(seed=3)
    best = {"load_best_model_at_end": True, "metric_for_best_model": "loss", "greater_is_better": False}
    each = {"eval_strategy": "epoch", "save_strategy": "epoch", "save_total_limit": 1, "num_train_epochs": 30}
    config = settings(tmp_path, learning_rate=20.0, per_device_train_batch_size=20, **best, **each)
    trainer = DistillTrainer(
        student,
        teacher,
        Objective(temperature=2.0),
        config,
        train_dataset=arrays(x),
        eval_dataset=arrays(x),
        callbacks=[EarlyStoppingCallback(early_stopping_patience=3)],
    )
    trainer.train()
    losses = [line["eval_loss"] for line in trainer.state.log_history if "eval_loss" in line]
    first = losses.index(min(losses))
    assert len(losses) == first + 4 < 30
    assert trainer.evaluate()["eval_loss"] == pytest.approx(min(losses), rel=1e-6)
    assert losses[-1] > min(losses)


# The teacher


def test_the_teacher_stays_as_it_is(tmp_path: Path) -> None:
    """Dropout off, though somebody turns it on at each step; no gradient, no change, no part of the optimizer."""
    x = random(N, FEATURES, seed=1)
    teacher = network(seed=3, dropout=0.5).train()
    before = copy.deepcopy(teacher.state_dict())
    said: list[Tensor] = []

    class Disturb(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            teacher.train()

    trainer = DistillTrainer(
        network(seed=2),
        teacher,
        Objective(temperature=2.0),
        settings(tmp_path, num_train_epochs=3, per_device_train_batch_size=7, optim="adamw_torch"),
        train_dataset=arrays(x),
        callbacks=[Disturb()],
    )
    ask = trainer.teacher

    class Listening:
        model = teacher

        def __call__(self, batch: Any) -> Any:
            targets = ask(batch)
            said.append(torch.stack([targets.logits, teacher.eval()(batch["inputs"])]))
            return targets

        def fingerprint(self) -> str:
            return ask.fingerprint()

    trainer.teacher = as_teacher(Listening())
    trainer.train()
    assert len(said) == 10  # three epochs of three, and one for the check
    for given, expected in said:
        assert torch.equal(given, expected)
    for name, tensor in teacher.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())
    optimized = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    assert optimized == {id(p) for p in trainer.model.parameters()}


class Late(nn.Module):
    """A teacher that fails for one example, far from the first batch."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.where(inputs[:, :1] > 100, self.value, inputs[:, :CLASSES])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("how", ["log", "save", "end"])
def test_a_teacher_that_fails_later_stops_the_run(tmp_path: Path, value: float, how: str) -> None:
    x = random(64, FEATURES, seed=1)
    x[50, 0] = 1000
    data = TransferSet({"inputs": x}, row_ids=torch.arange(64) + 700)
    never = {"logging_strategy": "no", "save_strategy": "no"}
    often = {"log": {"logging_strategy": "steps", "logging_steps": 3}, "save": {"save_strategy": "steps"}, "end": {}}
    config = settings(tmp_path, per_device_train_batch_size=4, **(never | often[how]), save_steps=1)
    steps_before: list[int] = []

    def watch(batch: Any, epoch: int) -> Any:
        if 750 in batch["row_id"]:
            steps_before.append(trainer.state.global_step)
        return batch

    trainer = DistillTrainer(
        network(seed=2), Late(value), Objective(temperature=2.0), config, train_dataset=data, augment=watch
    )
    with pytest.raises(TargetError, match=r"nan, infinity or an impossible distribution.*row_id 750; look at"):
        trainer.train()
    weights = {int(path.parent.name[11:]): load_file(path) for path in tmp_path.glob("checkpoint-*/model.safetensors")}
    assert steps_before[0] >= 1, "no checkpoint is expected: choose another seed"
    assert sorted(weights) == (list(range(1, steps_before[0] + 1)) if how == "save" else [])
    assert all(tensor.isfinite().all() for state in weights.values() for tensor in state.values())
    with pytest.raises(TargetError, match="row_id 750"):
        trainer.evaluate(data)
    trainer.train_dataset = data.select(range(40))
    trainer.model.load_state_dict(network(seed=2).state_dict())
    trainer.train()  # nothing is left of the bad example
    assert trainer.state.global_step == 10


def test_masked_rows_are_not_held_against_the_teacher(tmp_path: Path) -> None:
    x = random(8, FEATURES, seed=1)
    x[3, 0] = 1000
    data = TransferSet({"inputs": x, "mask": torch.arange(8) != 3})
    steps, logs = trained(
        tmp_path, network(seed=2), Late(math.nan), Objective(temperature=2.0), data, per_device_train_batch_size=8
    )
    assert math.isfinite(logs[0]["loss"])
    assert all(gradient.isfinite().all() for gradient in steps.gradients[0].values())


def test_a_recorded_teacher_is_refused_with_augmentation(tmp_path: Path) -> None:
    data = arrays(random(N, FEATURES, seed=1))
    recorded = record(network(seed=3), data)
    for teacher in (recorded, Ensemble([network(seed=4), recorded]), Ensemble([Ensemble([recorded])])):
        with pytest.raises(
            ConfigError, match=r"recorded or stored teacher.*augmented view; remove augment \(--jitter\)"
        ):
            DistillTrainer(network(), teacher, train_dataset=data, augment=Steps().watch, args=settings(tmp_path))


def test_a_recorded_teacher_teaches_as_the_live_one(tmp_path: Path) -> None:
    data, student = arrays(random(N, FEATURES, seed=1), FEW), network(seed=2)
    weights = []
    for teacher in (network(seed=3), record(network(seed=3), data)):
        learner = copy.deepcopy(student)
        DistillTrainer(learner, teacher, BOTH, settings(tmp_path, num_train_epochs=3), train_dataset=data).train()
        weights.append(learner.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


# Arguments


def test_max_norm_bounds_every_layer_but_the_last(tmp_path: Path) -> None:
    x = random(N, FEATURES, seed=1)
    norms: dict[float | None, list[list[float]]] = {}
    for bound in (0.4, None):
        seen = norms[bound] = []

        class Measure(TrainerCallback):
            def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, seen: Any = seen, **k: Any):
                seen.append(
                    [float(m.weight.detach().norm(dim=1).max()) for m in model.layers if isinstance(m, nn.Linear)]
                )

        student = network(seed=2, sizes=(FEATURES, 5, 5, CLASSES), max_norm=bound)
        DistillTrainer(
            student,
            network(seed=3),
            args=settings(tmp_path, num_train_epochs=3),
            train_dataset=arrays(x),
            callbacks=[Measure()],
        ).train()
    assert len(norms[0.4]) == 9
    assert all(layer <= 0.4 * (1 + 1e-6) for step in norms[0.4] for layer in step[:-1])
    assert all(step[-1] > 0.4 for step in norms[0.4])
    assert all(layer > 0.4 for step in norms[None] for layer in step)


def test_bf16_is_close_to_fp32(tmp_path: Path) -> None:
    data = arrays(random(64, FEATURES, seed=1).float(), torch.arange(64) % CLASSES)
    logs = {}
    for bf16 in (True, False):
        student, teacher = network(seed=2).float(), network(seed=3).float()
        _, logs[bf16] = trained(tmp_path, student, teacher, BOTH, data, bf16=bf16)
    for rough, exact in zip(logs[True], logs[False], strict=True):
        assert rough["loss"] == pytest.approx(exact["loss"], rel=0.02)
        assert rough["soft_loss"] == pytest.approx(exact["soft_loss"], rel=0.05)
    assert any(rough["loss"] != exact["loss"] for rough, exact in zip(logs[True], logs[False], strict=True))


def test_a_loss_of_nan_is_logged_as_nan(tmp_path: Path) -> None:
    data = arrays(random(N, FEATURES, seed=1), LABELS)
    student = network(seed=2)

    class Break(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            with torch.no_grad():
                model.layers[0].weight.fill_(math.nan)

    trainer = DistillTrainer(
        student, network(seed=3), BOTH, settings(tmp_path), train_dataset=data, callbacks=[Break()]
    )
    with pytest.raises(DivergedError, match=r"nan or infinity in layers\.0\.weight.*first logged .* at step 2\."):
        trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert math.isfinite(losses[0])
    assert all(math.isnan(loss) for loss in losses[1:])


@pytest.mark.parametrize(
    ("changes", "optimizer"),
    [
        ({"learning_rate": 1e30}, "adamw_torch"),
        ({"learning_rate": 1e30, "max_steps": 1}, "adamw_torch"),  # finite, but their products are not
        ({"learning_rate": math.inf, "max_steps": 1}, "sgd"),
    ],
)
def test_training_that_ends_in_weights_of_no_use_fails(tmp_path: Path, changes: Any, optimizer: str) -> None:
    data, student = arrays(random(N, FEATURES, seed=1).float(), LABELS), network(seed=2).float()
    config = settings(tmp_path, optim=optimizer, **changes)
    with pytest.raises(
        DivergedError, match=r"layers\.0\.weight.*so it is of no use and is not saved.*Lower the learning"
    ):
        DistillTrainer(student, network(seed=3).float(), BOTH, config, train_dataset=data).train()


def test_weights_of_nan_push_no_checkpoint_out(tmp_path: Path) -> None:
    """They break after the second step, before its checkpoint is written: that of the first one stays."""
    data, student = arrays(random(N, FEATURES, seed=1), LABELS), network(seed=2)

    class Break(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            if state.global_step == 2:
                model.layers[-1].bias.data[1] = -math.inf

    often = {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 1, "per_device_train_batch_size": 2}
    config = settings(tmp_path, **often)
    trainer = DistillTrainer(student, network(seed=3), BOTH, config, train_dataset=data, callbacks=[Break()])
    with pytest.raises(DivergedError, match=r"After 2 steps .* infinity in layers\.\d\.bias \(1 tensors in all\)"):
        trainer.train()
    assert trainer.last_checkpoint().name == "checkpoint-1"
    weights = load_file(tmp_path / "checkpoint-1" / "model.safetensors")
    assert all(weight.isfinite().all() for weight in weights.values())


def test_a_second_trainer_in_the_same_output_dir_is_refused(tmp_path: Path) -> None:
    """While the first one trains; one that writes no checkpoints is not in its way, and after it the folder is free."""
    data, tried = arrays(random(N, FEATURES, seed=1), LABELS), []

    def trainer(callbacks: Any = (), **changes: Any) -> DistillTrainer:
        config = settings(tmp_path, **({"save_strategy": "epoch"} | changes))
        return DistillTrainer(network(seed=2), network(seed=3), BOTH, config, train_dataset=data, callbacks=callbacks)

    class Another(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            trainer(save_strategy="no").train()
            with pytest.raises(ConfigError, match="is in use by another process"):
                trainer().train()
            tried.append(state.global_step)

    trainer([Another()]).train()
    assert tried == [0]
    trainer().train()


def test_buffers_may_hold_infinity_but_no_nan(tmp_path: Path) -> None:
    """A causal mask is made of minus infinity; running statistics of nan are a broken student."""
    data = arrays(random(N, FEATURES, seed=1), LABELS)

    class Masked(nn.Module):
        def __init__(self, value: float) -> None:
            super().__init__()
            self.inner = network(seed=2)
            self.register_buffer("mask", torch.full((3,), value, dtype=torch.float64))

        def forward(self, inputs: Tensor) -> Tensor:
            return self.inner(inputs)

    for value in (-math.inf, math.nan):
        trainer = DistillTrainer(Masked(value), network(seed=3), BOTH, settings(tmp_path), train_dataset=data)
        with nullcontext() if math.isinf(value) else pytest.raises(DivergedError, match="nan or infinity in mask"):
            trainer.train()


def test_terms_are_averaged_since_the_last_log(tmp_path: Path) -> None:
    """Each over its own positions: a step with many labels counts for more of hard_loss."""
    x, student, teacher = random(N, FEATURES, seed=1), network(seed=2), network(seed=3)
    still = {"learning_rate": 0.0, "logging_steps": 100, "logging_strategy": "epoch"}
    _, logs = trained(tmp_path, student, teacher, BOTH, arrays(x, FEW), num_train_epochs=2, **still)
    _, soft, hard = plain_loss(BOTH, student(x), teacher(x), FEW, torch.ones(N))
    for line in logs:
        assert line["soft_loss"] == pytest.approx(float(soft.detach()), rel=1e-5)
        assert line["hard_loss"] == pytest.approx(float(hard.detach()), rel=1e-5)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"logging_nan_inf_filter": True}, "hides a loss of nan"),
        ({"remove_unused_columns": True}, "throws away what teachers read"),
        ({"label_smoothing_factor": 0.1}, "not part of an Objective"),
        ({"per_device_train_batch_size": 0}, "per_device_train_batch_size must be 1 or more, but is 0"),
        ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps must be 1 or more, but is 0"),
        ({"batch_eval_metrics": True}, "user-defined metrics"),
        ({"eval_do_concat_batches": False}, "user-defined metrics"),
    ],
)
def test_arguments_that_would_be_ignored_are_refused(tmp_path: Path, wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        settings(tmp_path, **wrong)
    fine = {"logging_nan_inf_filter": False, "remove_unused_columns": False, "report_to": "none"}
    with pytest.raises(ConfigError, match=said):
        DistillTrainer(network(), network(), args=TrainingArguments(str(tmp_path), **(fine | wrong)))


def test_training_arguments_do_as_well(tmp_path: Path) -> None:
    data = arrays(random(N, FEATURES, seed=1), LABELS)
    weights = []
    for kind in (TrainingArguments, DistillConfig):
        args = kind(
            output_dir=str(tmp_path),
            logging_nan_inf_filter=False,
            remove_unused_columns=False,
            report_to="none",
            dataloader_pin_memory=False,
            disable_tqdm=True,
        )
        student = network(seed=2)
        trainer = DistillTrainer(student, network(seed=3), args=args, train_dataset=data)
        trainer.train()
        weights.append(student.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert settings(tmp_path).report_to == []
