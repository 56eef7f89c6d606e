"""DistillTrainer on tasks beyond one class an example: losses against hand-written ones, teachers of each kind."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.linear_model import BayesianRidge, LinearRegression, LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import MultiOutputClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.errors import ConfigError, ModelError, TargetError
from limbeck.losses.objective import Objective
from limbeck.losses.targets import GaussianTargets
from limbeck.losses.values import gaussian_cross_entropy, gaussian_kl, squared_error
from limbeck.networks.asking import logits_of
from limbeck.networks.mlp import mlp
from limbeck.networks.outputs import Task, with_task
from limbeck.store.label import label
from limbeck.teachers import Ensemble, as_teacher, record
from limbeck.training.config import DistillConfig
from limbeck.training.numbers import center_and_scale
from limbeck.training.trainer import DistillTrainer
from limbeck.transfer import TransferSet, arrays

G = torch.Generator().manual_seed(0)
X = torch.randn(48, 4, generator=G)
NUMBERS = 500 + 100 * X @ torch.randn(4, 2, generator=G) + torch.randn(48, 2, generator=G)
NOISY = NUMBERS[:, 0] + 60 * torch.randn(48, generator=G)
TAGS = (X @ torch.randn(4, 3, generator=G) + 0.5 * torch.randn(48, 3, generator=G) > 0).long()


def trainer_of(
    folder: Path, student: nn.Module, data: TransferSet, teacher: Any = None, objective: Any = None, **options: Any
) -> DistillTrainer:
    options = {"max_steps": 1, "disable_tqdm": True, "report_to": "none"} | options
    return DistillTrainer(
        student, teacher, objective, DistillConfig(str(folder), **options), train_dataset=data, eval_dataset=data
    )


def loss_of(trainer: DistillTrainer, data: TransferSet) -> Tensor:
    trainer.check()
    found = trainer.compute_loss(trainer.model, data.__getitems__(range(len(data))))
    assert isinstance(found, Tensor)
    return found


def test_numbers_are_compared_in_standard_units(tmp_path: Path) -> None:
    labels = NUMBERS.clone()
    labels[3, 1] = labels[7, 0] = torch.nan
    data = arrays(X, labels, task="regression")
    student, teacher = nn.Linear(4, 2), nn.Linear(4, 2)
    loss = loss_of(trainer_of(tmp_path, student, data, teacher, Objective(squared_error, hard_weight=0.5)), data)
    std = torch.from_numpy(np.nanstd(labels.numpy(), 0))
    soft = (((student(X) - teacher(X)) / std) ** 2).mean()
    hard = (((student(X) - labels) / std) ** 2).nanmean()
    assert torch.allclose(loss, soft + 0.5 * hard, rtol=1e-5)


def test_a_bernoulli_kl_per_label_at_a_temperature(tmp_path: Path) -> None:
    labels = TAGS.clone()
    labels[5, 2] = -100
    data = arrays(X, labels, task="multi_label")
    student, teacher = nn.Linear(4, 3), nn.Linear(4, 3)
    objective = Objective(temperature=2.5, hard_weight=0.5)
    loss = loss_of(trainer_of(tmp_path, student, data, teacher, objective), data)
    p, q = (torch.distributions.Bernoulli(logits=m(X) / 2.5) for m in (teacher, student))
    soft = 2.5**2 * torch.distributions.kl_divergence(p, q).mean()
    hard = F.binary_cross_entropy_with_logits(student(X), labels.float(), reduction="none")[labels >= 0].mean()
    assert torch.allclose(loss, soft + 0.5 * hard, rtol=1e-5)


def test_every_pixel_is_a_position(tmp_path: Path) -> None:
    images = torch.rand(6, 3, 8, 8, generator=G)
    masks = torch.randint(0, 4, (6, 8, 8), generator=G)
    masks[0, 0] = -100
    data = arrays(images, masks)
    student, teacher = nn.Conv2d(3, 4, 2, stride=2), nn.Conv2d(3, 4, 3, padding=1)
    objective = Objective(temperature=1.0, hard_weight=1.0)
    loss = loss_of(trainer_of(tmp_path, student, data, teacher, objective), data)
    z = F.interpolate(student(images), (8, 8), mode="bilinear", align_corners=False)
    soft = F.kl_div(z.log_softmax(1), teacher(images).softmax(1), reduction="none").sum(1).mean()
    assert torch.allclose(loss, soft + F.cross_entropy(z, masks), rtol=1e-5)


def test_accumulation_does_not_change_the_step_of_labels_that_are_missing(tmp_path: Path) -> None:
    labels = NUMBERS.clone()
    labels[:20] = torch.nan
    data, start = arrays(X, labels, task="regression"), nn.Linear(4, 2).state_dict()
    weights = []
    for batch, parts in ((48, 1), (12, 4)):
        student = nn.Linear(4, 2)
        student.load_state_dict(start)
        trainer_of(
            tmp_path / str(parts),
            student,
            data,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=parts,
            optim="sgd",
            learning_rate=0.1,
            save_strategy="no",
            max_grad_norm=0.0,
        ).train()
        weights.append(student.weight.detach().clone())
    assert torch.allclose(*weights, atol=1e-6)


FITTED: dict[str, tuple[Any, Tensor]] = {
    "a forest": (RandomForestClassifier(20, random_state=0), TAGS),
    "one against the rest": (OneVsRestClassifier(LogisticRegression()), TAGS),
    "one for each": (MultiOutputClassifier(LogisticRegression()), TAGS),
    "a forest of numbers": (RandomForestRegressor(20, random_state=0), NUMBERS),
    "one number": (LinearRegression(), NUMBERS[:, 0]),
    "a pipeline": (make_pipeline(StandardScaler(), LinearRegression()), NUMBERS),
    "a search": (GridSearchCV(Ridge(), {"alpha": [0.1, 1.0]}), NUMBERS[:, 0]),
    "a searched number and its variance": (GridSearchCV(BayesianRidge(), {"max_iter": [100, 300]}), NOISY),
    "a number and its variance": (BayesianRidge(), NOISY),
}


@pytest.mark.parametrize("kind", FITTED)
def test_estimators_teach_what_they_predict(kind: str, tmp_path: Path) -> None:
    estimator, labels = FITTED[kind]
    estimator.fit(X.numpy(), labels.numpy())
    task = "multi_label" if labels is TAGS else "regression"
    data = arrays(X, labels, task=task)
    width = labels.reshape(48, -1).shape[1]
    student: nn.Module = mlp([4, 64, width])
    if task == "regression":
        variance = kind.endswith("variance")
        center, scale = center_and_scale(labels)
        student = with_task(mlp([4, 64, width * (1 + variance)]), Task(task, width, variance, center, scale))
    trainer = trainer_of(tmp_path, student, data, estimator, max_steps=400, learning_rate=1e-2, save_strategy="no")
    trainer.train()
    found = logits_of(student, {"inputs": X}).detach()
    if task == "multi_label":
        probs = estimator.predict_proba(X.numpy())
        wanted = np.stack([p[:, 1] for p in probs], 1) if isinstance(probs, list) else probs
        assert np.abs(found.softmax(-1)[..., 1].numpy() - wanted).mean() < 0.1
    else:
        wanted = estimator.predict(X.numpy()).reshape(48, width)
        assert np.abs(found[..., 0].numpy() - wanted).mean() < 0.1 * wanted.std()
    if kind.endswith("variance"):
        std = getattr(estimator, "best_estimator_", estimator).predict(X.numpy(), return_std=True)[1]
        assert np.abs((found[:, 0, 1] / 2).exp().numpy() / std - 1).mean() < 0.15
        assert trainer.objective.divergence is gaussian_kl  # type: ignore[comparison-overlap]


def test_an_ensemble_of_numbers_has_the_spread_of_its_members() -> None:
    members = [LinearRegression().fit(X.numpy()[i::3], NUMBERS.numpy()[i::3]) for i in range(3)]
    targets = Ensemble(members)({"inputs": X})
    assert isinstance(targets, GaussianTargets)
    each = np.stack([member.predict(X.numpy()) for member in members])
    assert np.allclose(targets.mean.reshape(48, 2), each.mean(0), rtol=1e-4)
    assert targets.log_variance is not None
    assert np.allclose(targets.log_variance.exp().reshape(48, 2), each.var(0), rtol=1e-2)


def test_a_student_with_variance_learns_a_point_teachers_residuals(tmp_path: Path) -> None:
    data = arrays(X, NUMBERS[:, 0], task="regression")
    student = with_task(mlp([4, 8, 2]), Task("regression", 1, variance=True))
    trainer = trainer_of(tmp_path, student, data, LinearRegression().fit(X.numpy(), NUMBERS[:, 0].numpy()))
    assert trainer.objective.divergence is gaussian_cross_entropy  # type: ignore[comparison-overlap]


def test_an_evaluation_gives_the_errors_in_standard_units(tmp_path: Path) -> None:
    data = arrays(X, NUMBERS, task="regression")
    student, teacher = nn.Linear(4, 2), LinearRegression().fit(X.numpy(), NUMBERS.numpy())
    found = trainer_of(tmp_path, student, data, teacher).evaluate()
    std = NUMBERS.std(0, correction=0)
    error = (student(X) - NUMBERS).detach() / std
    to_teacher = (student(X).detach().numpy() - teacher.predict(X.numpy())) / std.numpy()
    assert found["eval_squared_error"] == pytest.approx((error**2).mean().item(), rel=1e-4)
    assert found["eval_absolute_error"] == pytest.approx(error.abs().mean().item(), rel=1e-4)
    assert found["eval_teacher_squared_error"] == pytest.approx((to_teacher**2).mean(), rel=1e-4)


def test_what_does_not_fit_is_refused_before_training(tmp_path: Path) -> None:
    numbers, tags = arrays(X, NUMBERS, task="regression"), arrays(X, TAGS, task="multi_label")
    with pytest.raises(ConfigError, match="The task is regression, whose numbers cannot be compared by forward_kl"):
        trainer_of(tmp_path, nn.Linear(4, 2), numbers, nn.Linear(4, 2), Objective())
    with pytest.raises(ConfigError, match=r"squared_error compares numbers .* but the task is multi_label"):
        trainer_of(tmp_path, nn.Linear(4, 3), tags, nn.Linear(4, 3), Objective(squared_error))
    with pytest.raises(ConfigError, match=r"gaussian_kl compares variances, and the student gives none.*--variance"):
        trainer_of(tmp_path, nn.Linear(4, 2), numbers, nn.Linear(4, 2), Objective(gaussian_kl))
    wide = with_task(nn.Linear(4, 4), Task("regression", 2, variance=True))
    with pytest.raises(ConfigError, match="squared_error teaches no variance, and the student gives one"):
        trainer_of(tmp_path, wide, numbers, nn.Linear(4, 2), Objective(squared_error))
    with pytest.raises(ConfigError, match="gaussian_kl needs the teacher's variance, and this teacher gives none"):
        trainer_of(tmp_path, wide, numbers, nn.Linear(4, 2), Objective(gaussian_kl))
    classifier = LogisticRegression().fit(X.numpy(), TAGS[:, 0].numpy())
    with pytest.raises(ConfigError, match="The teacher is for classification, and the data has labels of regression"):
        trainer_of(tmp_path, nn.Linear(4, 2), numbers, classifier)
    with pytest.raises(TargetError, match="remove its sigmoid"):
        trainer_of(tmp_path, nn.Linear(4, 3), tags, nn.Sequential(nn.Linear(4, 3), nn.Sigmoid())).train()
    with pytest.raises(ModelError, match="LinearRegression has not been fitted"):
        as_teacher(LinearRegression())


def test_several_labels_of_each_example_are_recorded() -> None:
    tags = arrays(X, TAGS, task="multi_label")
    teacher = with_task(nn.Linear(4, 3), Task("multi_label", outputs=3))
    batch = tags.__getitems__([7, 2, 30])
    found = record(teacher, tags, batch_size=10)(batch)
    assert torch.equal(found.all_log_probs(1.0), as_teacher(teacher)(batch).all_log_probs(1.0))


@pytest.mark.parametrize("kind", ["multi_label", "regression", "segmentation"])
def test_stored_sets_hold_classes_of_examples(kind: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"Targets of {kind} cannot be stored"):
        label(
            with_task(nn.Linear(4, 3), Task(kind, None if kind == "segmentation" else 3)), arrays(X), tmp_path / "set"
        )
    assert not (tmp_path / "set").exists()
