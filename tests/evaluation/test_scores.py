"""Scores under weights are scikit-learn's with sample_weight; their intervals, the verdict on one, and guessing."""

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, f1_score, roc_auc_score
from torch import nn

import limbeck
from limbeck.errors import ConfigError
from limbeck.evaluation.resampling import drawn_weights, resampled
from limbeck.evaluation.scores import class_scores, roc_auc

N, CLASSES = 300, 4


def drawn(classes: int = CLASSES, seed: int = 0, decimals: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Labels `[N]`, unbalanced, and probabilities `[N, C]` with ties."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(classes, size=N, p=np.arange(1, classes + 1) / np.arange(1, classes + 1).sum())
    logits = rng.normal(size=(N, classes))
    logits[np.arange(N), labels] += 1
    probs = np.exp(logits.round(decimals))
    return labels, probs / probs.sum(1, keepdims=True)


@pytest.mark.parametrize("classes", [2, CLASSES])
def test_scores_are_scikit_learns_under_any_weights(classes: int) -> None:
    labels, probs = drawn(classes)
    predicted = probs.argmax(1)
    weights = np.vstack([np.ones(N), drawn_weights(np.random.default_rng(1), 4, N)])
    got = class_scores(labels, predicted, classes, weights, probs)
    for row, w in enumerate(weights):
        assert got["accuracy"][row] == pytest.approx(np.average(predicted == labels, weights=w))
        assert got["balanced_accuracy"][row] == pytest.approx(
            balanced_accuracy_score(labels, predicted, sample_weight=w)
        )
        each = f1_score(labels, predicted, average=None, sample_weight=w)
        assert got["f1_per_class"][row] == pytest.approx(each)
        assert got["f1_macro"][row] == pytest.approx(each.mean())
        ranked = probs[:, 1] if classes == 2 else probs
        expected = roc_auc_score(labels, ranked, multi_class="ovr", average="macro", sample_weight=w)
        assert got["roc_auc"][row] == pytest.approx(expected)


def test_a_class_without_an_example_or_prediction_is_left_out_as_by_scikit_learn() -> None:
    labels, predicted = np.array([0, 0, 1, 1]), np.array([0, 2, 1, 1])
    got = class_scores(labels, predicted, 4, np.ones((1, 4)))
    assert got["f1_macro"][0] == pytest.approx(f1_score(labels, predicted, average="macro"))
    assert got["balanced_accuracy"][0] == pytest.approx(0.75)
    assert np.isnan(got["f1_per_class"][0, 3])


def test_ranks_without_ties_and_a_resample_of_one_class() -> None:
    scores, positive = np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True])
    weights = np.array([[1.0, 1, 1, 1], [2, 0, 0, 2], [1, 1, 0, 0]])
    assert roc_auc(scores, positive, weights)[:2].tolist() == [0.75, 1.0]
    assert np.isnan(roc_auc(scores, positive, weights)[2])


def test_intervals_of_a_mean_are_those_of_the_normal_approximation() -> None:
    values = np.random.default_rng(0).normal(size=2000)
    measured = resampled({"student": [lambda w: {"mean": w @ values / w.sum(1)}]}, len(values))
    found = measured.summary("student", "mean")
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert found["mean"] == pytest.approx(values.mean())
    assert found["low"] == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert found["high"] == pytest.approx(values.mean() + half, abs=0.1 * half)


def unbalanced() -> tuple[limbeck.TransferSet, nn.Module, nn.Module]:
    """95 % of class 0; a student that tells the classes apart at the cost of some errors, a baseline that says 0."""
    rng = np.random.default_rng(0)
    labels = (rng.random(2000) < 0.05).astype(np.int64)
    wrong = rng.random(2000) < np.where(labels == 1, 0.1, 0.045)
    said = np.where(wrong, 1 - labels, labels)
    logits = 3.0 * np.eye(2, dtype=np.float32)[said]
    test = limbeck.arrays(torch.tensor(logits), torch.tensor(labels))
    always = nn.Linear(2, 2)
    with torch.no_grad():
        always.weight.zero_()
        always.bias.copy_(torch.tensor([2.0, 0.0]))
    return test, nn.Identity(), always


def test_the_verdict_may_be_about_another_score_than_accuracy() -> None:
    test, student, baseline = unbalanced()
    by_accuracy = limbeck.evaluate(student, test, baseline=baseline, latency=False)
    assert by_accuracy["verdict"]["judged_by"] == "accuracy"
    assert by_accuracy["verdict"]["word"] != "better"
    found = limbeck.evaluate(student, test, baseline=baseline, judge_by="f1_macro", latency=False)
    verdict = found["verdict"]
    assert (verdict["word"], verdict["judged_by"]) == ("better", "f1_macro")
    labels, said = test.labels.numpy(), test.__getitems__(range(len(test)))["inputs"].argmax(1).numpy()
    ours = f1_score(labels, said, average="macro")
    theirs = f1_score(labels, np.zeros_like(labels), average="macro")
    assert verdict["difference"]["mean"] == pytest.approx(ours - theirs)
    assert 0 < verdict["difference"]["low"] < ours - theirs < verdict["difference"]["high"]
    assert f"F1, macro {100 * ours:.1f} % against {100 * theirs:.1f} %" in verdict["sentence"]
    score = found["roles"]["student"]["scores"]["f1_macro"]
    assert score["mean"] == pytest.approx(ours)
    assert score["low"] < ours < score["high"]


def test_guessing_is_the_most_frequent_class() -> None:
    test, student, baseline = unbalanced()
    found = limbeck.evaluate(student, test, baseline=baseline, latency=False)
    guessing, always = found["guessing"], found["roles"]["baseline"]  # which says class 0
    assert guessing["class"] == 0
    assert guessing["accuracy"] == pytest.approx(always["accuracy"]["mean"])
    for name in ("balanced_accuracy", "f1_macro", "roc_auc"):
        assert guessing["scores"][name] == pytest.approx(always["scores"][name]["mean"]), name


def test_a_score_that_does_not_exist_is_refused_before_any_model_runs() -> None:
    test, _, _ = unbalanced()

    def model(batch: object) -> None:
        raise AssertionError

    with pytest.raises(
        ConfigError, match=r"judge_by \(--judge_by\) must be one of accuracy, balanced_accuracy, f1_macro, roc_auc"
    ):
        limbeck.evaluate(model, test, judge_by="f1")
