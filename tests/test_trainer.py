"""DistillTrainer: gradients and logs against a plain torch computation of the global loss, in float64."""

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
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

from limbeck.divergences import forward_kl, reverse_kl
from limbeck.errors import ConfigError, TargetError
from limbeck.objective import NO_LABEL, Objective
from limbeck.students import mlp
from limbeck.targets import SparseTargets
from limbeck.teachers import Ensemble, record
from limbeck.trainer import DistillConfig, DistillTrainer
from limbeck.transfer import TransferSet, arrays

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

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._seen = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.parameters.append({n: p.detach().clone() for n, p in model.named_parameters()})
        self.gradients.append({n: p.grad.clone() for n, p in model.named_parameters()})
        self.rows.append(torch.cat(self._seen))


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
    return [
        {"per_device_train_batch_size": global_batch // n, "gradient_accumulation_steps": n} for n in (1, 2, 4)
    ]


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
        for parameters, gradients, rows, line in zip(
            steps.parameters, steps.gradients, steps.rows, logs, strict=True
        ):
            inputs = {name: p.requires_grad_() for name, p in parameters.items()}
            z, v = functional_call(student, inputs, (x[rows],)), teacher(x[rows])
            loss, soft, hard = plain_loss(
                objective, z, v, labels[rows] if labels is not None else None, weight[rows]
            )
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
        for parameters, gradients, rows, line in zip(
            steps.parameters, steps.gradients, steps.rows, logs, strict=True
        ):
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
