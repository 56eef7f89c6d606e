"""Scores of several labels, pixels and numbers against scikit-learn's with sample weights; whole evaluations."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import norm
from sklearn import metrics
from sklearn.ensemble import RandomForestClassifier
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, WhiteKernel
from torch import nn

from limbeck.errors import ConfigError, DataError, ModelError
from limbeck.evaluation.classes import evaluate, predict
from limbeck.evaluation.task_scores import label_scores, number_scores, pixel_scores
from limbeck.networks.mlp import mlp
from limbeck.networks.outputs import Task, with_task
from limbeck.transfer import arrays

RNG = np.random.default_rng(0)
WEIGHTS = np.stack([np.ones(60), RNG.integers(0, 4, 60)]).astype(float)
G = torch.Generator().manual_seed(0)


def test_several_labels_against_scikit_learn() -> None:
    labels, probs = RNG.integers(0, 2, (60, 4)), RNG.random((60, 4))
    found = label_scores(labels, probs, WEIGHTS)
    for r, w in enumerate(WEIGHTS):
        said = (probs >= 0.5).astype(int)
        for name in ("macro", "micro"):
            expected = metrics.f1_score(labels, said, average=name, sample_weight=w)
            assert found[f"f1_{name}"][r] == pytest.approx(expected)
        assert found["roc_auc"][r] == pytest.approx(metrics.roc_auc_score(labels, probs, sample_weight=w))
        assert found["exact_match"][r] == pytest.approx(metrics.accuracy_score(labels, said, sample_weight=w))
        each = [metrics.log_loss(labels[:, i], probs[:, i], sample_weight=w) for i in range(4)]
        assert found["nll"][r] == pytest.approx(np.mean(each), rel=1e-6)
        assert found["f1_per_label"][r] == pytest.approx(metrics.f1_score(labels, said, average=None, sample_weight=w))
        briers = [metrics.brier_score_loss(labels[:, i], probs[:, i], sample_weight=w) for i in range(4)]
        assert found["brier"][r] == pytest.approx(2 * np.mean(briers))


def test_labels_that_are_not_known_are_left_out() -> None:
    labels, probs = RNG.integers(0, 2, (60, 2)), RNG.random((60, 2))
    hidden = labels.copy()
    hidden[:20, 0] = -100
    found, alone = label_scores(hidden, probs, WEIGHTS), label_scores(labels[20:, :1], probs[20:, :1], WEIGHTS[:, 20:])
    assert found["f1_per_label"][:, 0] == pytest.approx(alone["f1_macro"])
    assert found["auc_per_label"][:, 0] == pytest.approx(alone["roc_auc"])


def test_pixels_against_scikit_learn() -> None:
    labels, predicted = RNG.integers(0, 3, (60, 8, 8)), RNG.integers(0, 3, (60, 8, 8))
    confusion = np.stack(
        [
            metrics.confusion_matrix(a.ravel(), b.ravel(), labels=range(3))
            for a, b in zip(labels, predicted, strict=True)
        ]
    )
    found = pixel_scores(confusion, np.full(60, 64 * 0.5), WEIGHTS)
    for r, w in enumerate(WEIGHTS):
        each = np.repeat(w, 64)
        iou = metrics.jaccard_score(labels.ravel(), predicted.ravel(), average=None, sample_weight=each)
        assert found["iou_per_class"][r] == pytest.approx(iou)
        assert found["miou"][r] == pytest.approx(iou.mean())
        expected = metrics.accuracy_score(labels.ravel(), predicted.ravel(), sample_weight=each)
        assert found["accuracy"][r] == pytest.approx(expected)
        assert found["nll"][r] == pytest.approx(0.5)


def test_numbers_against_scikit_learn_and_scipy() -> None:
    labels = 1e6 + RNG.normal(size=(60, 2)) * [1.0, 50.0]  # a large mean must not cost the R2 its digits
    mean, log_variance = labels + RNG.normal(size=(60, 2)), RNG.normal(size=(60, 2)) * 0.3
    found = number_scores(labels, mean, log_variance, WEIGHTS)
    std = np.exp(log_variance / 2)
    for r, w in enumerate(WEIGHTS):
        r2 = metrics.r2_score(labels, mean, multioutput="raw_values", sample_weight=w)
        assert found["r2_per_number"][r] == pytest.approx(r2)
        assert found["mae"][r] == pytest.approx(metrics.mean_absolute_error(labels, mean, sample_weight=w))
        assert found["rmse"][r] == pytest.approx(metrics.root_mean_squared_error(labels, mean, sample_weight=w))
        nll = -norm.logpdf(labels, mean, std)
        assert found["nll"][r] == pytest.approx(np.average(nll, axis=0, weights=w).mean())
        low, high = norm.interval(0.95, mean, std)
        inside = (low <= labels) & (labels <= high)
        assert found["coverage"][r] == pytest.approx(np.average(inside, axis=0, weights=w).mean())
        z = ((labels - mean) / std) ** 2
        assert found["z_variance"][r] == pytest.approx(np.average(z, axis=0, weights=w).mean())


def test_numbers_without_a_variance_or_a_label() -> None:
    labels = RNG.normal(size=(60, 1))
    labels[:30] = math.nan
    found = number_scores(labels, np.zeros((60, 1)), np.full((60, 1), math.nan), WEIGHTS)
    assert np.isnan(found["nll"]).all()
    assert np.isnan(found["coverage"]).all()
    assert found["mae"][0] == pytest.approx(np.abs(labels[30:]).mean())


def test_an_evaluation_of_numbers_with_a_verdict() -> None:
    """The better student wins, guessing reaches R2 = 0, the distance to the teacher is that of the numbers."""
    x = torch.randn(300, 3, generator=G)
    y = x @ torch.tensor([50.0, -20.0, 10.0]) + 1000 + 5 * torch.randn(300, generator=G)
    test = arrays(x, y, task="regression")
    teacher = GaussianProcessRegressor(RBF(3.0) + WhiteKernel(), normalize_y=True).fit(x[:100], y[:100])
    linear = {"weight": torch.tensor([[50.0, -20.0, 10.0]]), "bias": torch.tensor([1000.0])}
    student, baseline = nn.Linear(3, 1), nn.Linear(3, 1)
    student.load_state_dict(linear)
    baseline.load_state_dict({name: value * 0.9 for name, value in linear.items()})
    found = evaluate(student, test, baseline=baseline, teacher=teacher, latency=False)
    assert found["task"] == "regression"
    assert found["verdict"]["word"] == "better"
    assert found["verdict"]["sentence"].startswith("The student is better than the baseline: R² 0.99")
    expected = metrics.r2_score(y, student(x)[:, 0].detach())
    scores = found["roles"]["student"]["scores"]
    assert scores["r2"]["mean"] == pytest.approx(expected, abs=1e-6)
    assert scores["r2"]["low"] < expected < scores["r2"]["high"]
    assert scores["nll"] is None
    assert found["roles"]["teacher"]["scores"]["coverage"]["mean"] == pytest.approx(0.95, abs=0.06)
    assert found["guessing"]["scores"]["r2"] == pytest.approx(0.0, abs=1e-9)
    distance = student(x)[:, 0].detach().numpy() - teacher.predict(x.numpy())
    assert found["roles"]["student"]["to_teacher"]["rmse"]["mean"] == pytest.approx(
        np.sqrt((distance**2).mean()), rel=1e-3
    )
    assert len(found["points"][0]["label"]) == 300
    worse = evaluate(baseline, test, baseline=student, judge_by="mae", latency=False)
    assert worse["verdict"]["word"] == "worse"
    assert "positive where the student's is lower" in worse["verdict"]["sentence"]


def test_an_evaluation_of_several_labels() -> None:
    x = torch.randn(300, 4, generator=G)
    y = (x @ torch.randn(4, 3, generator=G) > 0).long()
    test = arrays(x, y, task="multi_label", label_names=["red", "green", "blue"])
    teacher = RandomForestClassifier(30, random_state=0).fit(x[:150], y[:150])
    student = mlp([4, 3])
    found = evaluate(student, test, teacher=teacher, latency=False, judge_by="roc_auc")
    assert found["test"]["labels"] == y.sum(0).tolist()
    probs = student(x).sigmoid().detach().numpy()
    scores = found["roles"]["student"]["scores"]
    assert scores["roc_auc"]["mean"] == pytest.approx(metrics.roc_auc_score(y, probs))
    assert scores["f1_per_label"]["mean"] == pytest.approx(
        metrics.f1_score(y, probs >= 0.5, average=None, zero_division=np.nan), nan_ok=True
    )
    p = np.stack([each[:, 1] for each in teacher.predict_proba(x.numpy())], 1)
    bernoulli = torch.distributions.kl_divergence(
        torch.distributions.Bernoulli(torch.from_numpy(p)), torch.distributions.Bernoulli(torch.from_numpy(probs))
    )
    kl = found["roles"]["student"]["to_teacher"]["forward_kl"]["mean"]
    assert kl == pytest.approx(bernoulli.mean().item(), rel=1e-4)
    assert found["guessing"]["scores"]["roc_auc"] == pytest.approx(0.5)
    assert found["verdict"]["judged_by"] == "roc_auc"


def test_an_evaluation_of_pixels() -> None:
    images = torch.rand(40, 1, 6, 6, generator=G)
    masks = (images[:, 0] * 3).long()
    masks[0, 0] = -100

    class Threshold(nn.Module):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return -30 * (inputs - torch.tensor([1 / 6, 3 / 6, 5 / 6])[None, :, None, None]) ** 2

    found = evaluate(Threshold(), arrays(images, masks), baseline=nn.Conv2d(1, 3, 1), latency=False)
    known = masks != -100
    predicted = Threshold()(images).argmax(1)
    expected = metrics.jaccard_score(masks[known], predicted[known], average="macro")
    assert found["roles"]["student"]["scores"]["miou"]["mean"] == pytest.approx(expected)
    assert found["verdict"]["word"] == "better"
    most = torch.bincount(masks[known]).max() / known.sum()
    assert found["guessing"]["scores"]["miou"] == pytest.approx(most.item() / 3)
    assert found["test"]["classes"] == 3


def test_one_logit_is_evaluated_as_two_classes() -> None:
    x = torch.randn(50, 3, generator=G)
    y = (x[:, 0] > 0).long()
    student = mlp([3, 1])
    found = evaluate(student, arrays(x, y), latency=False)
    expected = ((student(x)[:, 0] > 0).long() == y).float().mean().item()
    assert found["roles"]["student"]["accuracy"]["mean"] == pytest.approx(expected)
    assert found["test"]["classes"] == 2


def test_what_cannot_be_evaluated_is_refused() -> None:
    x = torch.randn(8, 3)
    numbers: Any = arrays(x, torch.randn(8), task="regression")
    with pytest.raises(ConfigError, match="must be one of r2, mae, rmse, nll for this data, but is 'coverage'"):
        evaluate(nn.Linear(3, 1), numbers, judge_by="coverage")
    with pytest.raises(DataError, match="needs a test with labels"):
        evaluate(with_task(nn.Linear(3, 1), Task("regression", 1)), arrays(x))
    with pytest.raises(ConfigError, match=r"the task is regression; use limbeck\.evaluate"):
        predict(nn.Linear(3, 1), numbers)
    broken = nn.Linear(3, 1)
    nn.init.constant_(broken.weight, math.nan)
    with pytest.raises(ModelError, match="The student gave nan or infinity for the example with row_id 0"):
        evaluate(broken, numbers, latency=False)
