"""Metrics against scikit-learn, SciPy, and loops written out in NumPy (float64)."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax
from scipy.stats import entropy as scipy_entropy
from sklearn.metrics import brier_score_loss, log_loss

from limbeck.errors import DataError, ShapeError
from limbeck.losses.metrics import (
    STATISTICS,
    TEMPERATURES,
    calibration_bins,
    expected_calibration_error,
    fit_calibration_temperature,
    position_statistics,
)
from limbeck.losses.numbers import NO_LABEL

N, C = 200, 7


@pytest.fixture
def said() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Student logits, teacher log-probabilities and labels, float64."""
    rng = np.random.default_rng(0)
    return 2 * rng.normal(size=(N, C)), log_softmax(2 * rng.normal(size=(N, C)), -1), rng.integers(C, size=N)


def test_statistics_against_scikit_learn_and_scipy(said):
    logits, log_p, labels = said
    q, p = np.exp(log_softmax(logits, -1)), np.exp(log_p)
    got = position_statistics(torch.tensor(logits), torch.tensor(log_p), torch.tensor(labels))
    oracle = {
        "correct": q.argmax(1) == labels,
        "nll": [log_loss([y], [row], labels=range(C)) for y, row in zip(labels, q, strict=True)],
        "brier": [
            brier_score_loss([y], [row], labels=range(C), scale_by_half=False) for y, row in zip(labels, q, strict=True)
        ],
        "confidence": q.max(1),
        "entropy": scipy_entropy(q, axis=1),
        "agreement": q.argmax(1) == p.argmax(1),
        "acceptance": np.minimum(p, q).sum(1),
        "forward_kl": scipy_entropy(p, q, axis=1),
        "reverse_kl": scipy_entropy(q, p, axis=1),
    }
    assert tuple(got) == STATISTICS
    assert set(got) == set(oracle)
    for name, values in oracle.items():
        np.testing.assert_allclose(got[name].numpy(), np.asarray(values, float), rtol=1e-10, atol=1e-12, err_msg=name)


def test_what_is_not_there_is_nan_and_the_names_stay(said):
    logits, log_p, labels = (torch.tensor(x) for x in said)
    labels[::2] = NO_LABEL
    to_label, to_teacher = {"correct", "nll", "brier"}, {"agreement", "acceptance", "forward_kl", "reverse_kl"}
    half = position_statistics(logits, None, labels)
    bare = position_statistics(logits)
    for name in STATISTICS:
        assert half[name].shape == bare[name].shape == (N,)
        assert bare[name].isnan().all() == (name in to_label | to_teacher)
        assert half[name].isnan().tolist() == [
            name in to_teacher or (name in to_label and i % 2 == 0) for i in range(N)
        ]
    whole = position_statistics(logits, log_p, torch.tensor(said[2]))
    assert torch.equal(half["brier"][1::2], whole["brier"][1::2])


def test_a_perfect_student_is_at_zero_in_bfloat16_and_at_large_logits():
    logits = torch.tensor([[1e4, -1e4, 0.0], [5.0, 5.0, -5.0]], dtype=torch.bfloat16)
    got = position_statistics(logits, logits.float().log_softmax(-1), torch.tensor([0, 1]))
    assert got["forward_kl"].tolist() == got["reverse_kl"].tolist() == [0.0, 0.0]
    assert got["acceptance"].tolist() == [1.0, 1.0]
    assert got["agreement"].tolist() == [1.0, 1.0]
    assert got["nll"][0] == got["brier"][0] == got["entropy"][0] == 0
    assert all(values.dtype == torch.float32 and values.isfinite().all() for values in got.values())


def test_a_teacher_may_rule_a_class_out():
    log_p = torch.tensor([[0.5, 0.5, 0.0]]).log()
    got = position_statistics(torch.zeros(1, 3), log_p)
    assert got["forward_kl"].item() == pytest.approx(math.log(1.5))
    assert got["acceptance"].item() == pytest.approx(2 / 3)
    assert got["reverse_kl"].item() == math.inf


def test_shapes_that_do_not_fit_are_named():
    with pytest.raises(ShapeError, match=r"teacher_log_probs must be \[4, 3\], but are \[4, 5\]"):
        position_statistics(torch.zeros(4, 3), torch.zeros(4, 5))
    with pytest.raises(ShapeError, match=r"labels must be \[4\], but are \[3\]"):
        position_statistics(torch.zeros(4, 3), labels=torch.zeros(3, dtype=torch.long))


def _ece_by_loop(sure, right, bins):
    total, edges = 0.0, np.arange(bins + 1) / bins
    for low, high in itertools.pairwise(edges):
        here = (sure > low) & (sure <= high)
        if here.any():
            total += here.mean() * abs(right[here].mean() - sure[here].mean())
    return total


@given(
    st.lists(st.tuples(st.integers(1, 996), st.booleans()), min_size=1, max_size=60), st.sampled_from([1, 2, 10, 15])
)
def test_calibration_error_against_a_loop(pairs, bins):
    sure = np.array([k for k, _ in pairs]) / 997  # a prime: never on an edge, where a float's last bit would decide
    right = np.array([float(r) for _, r in pairs])
    got = expected_calibration_error(torch.tensor(sure), torch.tensor(right), bins)
    assert got == pytest.approx(_ece_by_loop(sure, right, bins), abs=1e-12)


def test_calibration_bins_by_hand():
    confidence = torch.tensor([0.5, 0.9, 1.0, 0.95, 0.7])
    correct = torch.tensor([0.0, 1.0, 1.0, 0.0, math.nan])  # the last has no label
    found = calibration_bins(confidence, correct, bins=2)
    assert found.count.tolist() == [1, 3]  # 0.5 lies in (0, 0.5]
    torch.testing.assert_close(found.confidence, torch.tensor([0.5, 0.95], dtype=torch.float64), atol=1e-7, rtol=0)
    torch.testing.assert_close(found.accuracy, torch.tensor([0, 2 / 3], dtype=torch.float64))
    assert expected_calibration_error(confidence, correct, 2) == pytest.approx((0.5 + 3 * (0.95 - 2 / 3)) / 4, abs=1e-6)
    assert math.isnan(expected_calibration_error(confidence[:1], torch.tensor([math.nan])))


@pytest.mark.parametrize("true_temperature", [0.5, 1.0, 3.0])
def test_fitted_temperature_against_a_grid(true_temperature):
    rng = np.random.default_rng(1)
    honest = 2 * rng.normal(size=(600, C))
    labels = np.array([rng.choice(C, p=np.exp(row)) for row in log_softmax(honest, -1)])
    logits = honest * true_temperature
    grid = np.exp(np.linspace(np.log(0.2), np.log(8), 2001))
    losses = [-log_softmax(logits / t, -1)[np.arange(600), labels].mean() for t in grid]
    labels_with_gaps = torch.tensor(np.append(labels, NO_LABEL))
    got = fit_calibration_temperature(torch.tensor(np.vstack([logits, np.full(C, 99.0)])), labels_with_gaps)
    assert got == pytest.approx(grid[np.argmin(losses)], rel=3e-3)
    assert got == pytest.approx(true_temperature, rel=0.15)


def test_a_temperature_stays_within_bounds_and_needs_labels():
    separable = torch.eye(3)
    assert fit_calibration_temperature(separable, torch.arange(3)) == pytest.approx(TEMPERATURES[0], rel=1e-3)
    assert fit_calibration_temperature(separable, torch.tensor([1, 2, 0])) == pytest.approx(TEMPERATURES[1], rel=1e-3)
    with pytest.raises(DataError, match="none of these has a label"):
        fit_calibration_temperature(separable, torch.full((3,), NO_LABEL))
