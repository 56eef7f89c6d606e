"""Held-out rows that the teacher was trained on, by a forest that was and one that was not, and at each threshold."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.ensemble import RandomForestClassifier

import limbeck
from limbeck.losses.metrics import fit_calibration_temperature
from limbeck.report.advice import advise
from limbeck.report.held_out import LOWEST, seen
from limbeck.report.page import html

from .test_advice import sound

TITLE = "The teacher has seen the held-out examples"


def results_of(temperature: float, before: float, after: float, right: float, examples: int | None = 100) -> Any:
    results = sound()
    results["roles"]["teacher"] |= {"ece": {"mean": before}, "accuracy": {"mean": right}}
    results["roles"]["teacher"]["scaled"] |= {"ece": {"mean": after}, "temperature": {"mean": temperature}}
    results["roles"]["teacher"]["nll"], results["roles"]["teacher"]["scaled"]["nll"] = {"mean": 0.3}, {"mean": 0.4}
    return results | {"held_out": None if examples is None else {"examples": examples}}


@pytest.mark.parametrize(
    ("measured", "sign"),
    [
        ((0.3, 0.044, 0.158, 0.9), "its calibration error grows from 0.044 to 0.158"),
        ((0.3, 0.044, 0.063, 0.9), None),  # by 0.019
        ((0.3, 0.100, 0.140, 0.9), None),  # by 1.4 times
        ((1.3, 0.044, 0.158, 0.9), None),  # less sure on what was held out than on the test
        ((0.05, 0.010, 0.011, 0.95), "right on all of the 100 held-out examples, but on 95.0 %"),  # 0.95^100 = 0.006
        ((0.05, 0.010, 0.011, 0.96), None),  # 0.96^100 = 0.017
        ((0.05, 0.010, 0.011, 1.0), None),  # and of the test
        ((0.05, 0.010, 0.011, 0.5, None), None),  # how many is not known
        ((0.06, 0.010, 0.011, 0.5), None),
    ],
)
def test_the_signs(measured, sign):
    results = results_of(*measured)
    found = seen(results)
    assert (found is None) if sign is None else (found is not None and sign in found.replace("\u00a0", " "))
    assert [a.title for a in advise(results) if "held-out" in a.title] == ([TITLE] if sign else [])
    assert ("Do not trust the teacher's temperature scaling" in html(results)) is (sign is not None)


def test_a_lower_nll_says_that_the_bins_are_noise():
    results = results_of(0.3, 0.044, 0.158, 0.9)
    results["roles"]["teacher"]["scaled"]["nll"] = {"mean": 0.29}
    assert seen(results) is None


def test_its_temperature_is_not_advised():
    advice = {a.title: a.text for a in advise(results_of(0.3, 0.08, 0.2, 0.9))}
    assert "--validation 0" in advice[TITLE]
    assert "T = " not in advice["The teacher's confidence misleads"]


def test_the_lower_end_is_what_a_perfect_teacher_gets():
    logits = torch.eye(3).repeat(50, 1)
    assert fit_calibration_temperature(logits, torch.arange(3).repeat(50)) <= LOWEST


@pytest.mark.parametrize("trained_on_held_out", [True, False])
def test_a_forest(trained_on_held_out):
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(1200, 6)).astype(np.float32)
    labels = (inputs[:, 0] + inputs[:, 1] + rng.normal(size=1200) > 0).astype(np.int64)  # about 80 % can be right
    train, held_out, test = (limbeck.arrays(inputs[a:b], labels[a:b]) for a, b in ((0, 600), (600, 800), (800, 1200)))
    rows = slice(0, 800 if trained_on_held_out else 600)
    forest = RandomForestClassifier(100, min_samples_leaf=2, random_state=0).fit(inputs[rows], labels[rows])
    student = limbeck.mlp([6, 2])
    results = limbeck.evaluate(student, test, teacher=forest, held_out=held_out, latency=False, resamples=100)
    assert (seen(results) is not None) is trained_on_held_out
    assert len(train) == 600
