"""The obvious: each finding on both sides of its threshold, the order in which they come, and the flag of each."""

from typing import Any

import numpy as np
import pytest
import torch

import limbeck
from limbeck.report.advice import advise
from limbeck.report.obvious import obvious

from .samples import language, results_of
from .test_advice import sound


def inputs(**more: Any) -> dict[str, Any]:
    """What is recorded of a table of three columns that vary alike."""
    end = {"name": "age", "range": 4.0, "std": 1.0}
    return {
        "kind": "table",
        "scaled": True,
        "examples": 100,
        "columns": 3,
        "constant": 0,
        "constant_names": [],
        "all_alike": False,
        "std_min": 1.0,
        "std_max": 1.0,
        "narrowest": end,
        "widest": end,
    } | more


UNSCALED = {
    "narrowest": {"name": "rate", "range": 0.9, "std": 0.21},
    "widest": {"name": "price", "range": 90.0, "std": 20.5},
}


def titles(results: dict[str, Any]) -> list[str]:
    return [advice.title for advice in obvious(results)]


def at_guessing(results: dict[str, Any], role: str) -> None:
    for name, score in results["guessing"]["scores"].items():
        if name != "f1_macro":  # which a model that guesses at random has more of
            results["roles"][role]["scores"][name] = {"mean": score + 0.01, "low": score, "high": score + 0.02}
    results["roles"][role]["accuracy"] = {"mean": results["guessing"]["accuracy"] + 0.01}


@pytest.mark.parametrize(
    ("recorded", "title"),
    [
        (inputs(), None),
        (None, None),
        (inputs(**UNSCALED), "The inputs are not scaled"),
        (inputs(**UNSCALED, kind="numbers"), "The inputs are not scaled"),
        (inputs(**UNSCALED, kind="images"), None),
        (inputs(**UNSCALED | {"widest": {"name": "price", "range": 89.0, "std": 20.0}}), None),  # 98.9 times
        (
            inputs(**UNSCALED | {"narrowest": {"name": "3", "range": 0.001, "std": 0.0002}}, kind="numbers"),
            "The inputs are not scaled",
        ),
        (
            inputs(
                kind="numbers",  # pixels in [0, 1], of which some are rarely lit
                narrowest={"name": "3", "range": 0.001, "std": 0.0002},
                widest={"name": "4", "range": 1.0, "std": 0.4},
            ),
            None,
        ),
        (inputs(constant=3, constant_names=["a", "b", "c"]), "The inputs do not vary"),
        (inputs(constant=2, constant_names=["a", "b"]), "Most columns do not vary"),
        (inputs(constant=1, constant_names=["a"]), None),
        (inputs(all_alike=True), "The columns are all alike"),
    ],
)
def test_inputs(recorded, title):
    assert titles(sound() | {"inputs": recorded}) == ([] if title is None else [title])


def test_unscaled_inputs_are_named_with_the_flag_that_helps():
    (advice,) = obvious(sound() | {"inputs": inputs(**UNSCALED)})
    assert "differ from 0.21 (rate) to 20.5 (price)" in advice.text
    assert "--scale standard" in advice.text


def test_a_teacher_within_the_interval_of_guessing():
    results = sound()
    at_guessing(results, "teacher")
    assert titles(results) == ["The teacher is no better than guessing"]
    share = 100 * results["guessing"]["accuracy"]
    sentence = f"It gets {share + 1:.1f} % right; always to answer the most frequent class gets {share:.1f} %."
    assert sentence in obvious(results)[0].text.replace("\u00a0", " ")
    results["roles"]["teacher"]["scores"]["roc_auc"]["low"] = 0.51  # it ranks the examples, though it answers badly
    assert titles(results) == []


def test_models_that_guess_are_found_by_a_real_evaluation():
    results = results_of(4, {"teacher": 0.0, "student": 3.0, "baseline": 0.0})
    results["settings"] = {"temperature": 4.0}
    assert titles(results) == ["The teacher is no better than guessing", "The baseline has not learned"]


def test_text_that_is_guessed():
    results = language()
    results["roles"]["teacher"]["nll"] = {"mean": 2.49}  # log(12) = 2.4849
    assert "The teacher is no better than guessing" in titles(results)
    results["roles"]["teacher"]["nll"] = {"mean": 2.48}
    assert "The teacher is no better than guessing" not in titles(results)


def line(weights: list[float]) -> torch.nn.Module:
    """A linear model with these weights."""
    found = torch.nn.Linear(len(weights), 1)
    found.load_state_dict({"weight": torch.tensor([weights]), "bias": torch.zeros(1)})
    return found


def test_numbers_that_are_guessed():
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(100, 2)).astype(np.float32)
    numbers = inputs @ np.array([1.0, 2.0], dtype=np.float32)
    test = limbeck.arrays(inputs, numbers, task="regression")
    given = {"latency": False, "resamples": 100}
    for teacher, title in ((line([0.0, 0.0]), ["The teacher is no better than guessing"]), (line([1.0, 1.9]), [])):
        results = limbeck.evaluate(line([1.0, 1.5]), test, baseline=line([1.0, 1.0]), teacher=teacher, **given)
        assert titles(results) == title
    assert "(0." in next(advice.text for advice in advise(results) if advice.title == "Few seeds"), "R², not points"
    results["verdict"]["judged_by"] = "rmse"  # of which less is better
    assert titles(results) == []
    results["roles"]["teacher"]["scores"]["rmse"]["high"] = results["guessing"]["scores"]["rmse"] + 0.01
    assert titles(results) == ["The teacher is no better than guessing"]


def losses(*values: float) -> list[dict[str, float]]:
    """Four logged steps of each value."""
    return [{"step": s, "hard_loss": v, "soft_loss": v} for s, v in enumerate(v for v in values for _ in range(4))]


@pytest.mark.parametrize(
    ("curve", "unfinished"),
    [
        ((1.0, 0.6, 0.4, 0.30, 0.23), True),  # 0.77 of the fifth before
        ((1.0, 0.6, 0.4, 0.28, 0.25), False),
        ((6.0, 5.0, 4.2, 3.6, 3.1), True),  # 0.86 of it, but 17 % of the whole fall
        ((6.0, 3.5, 3.0, 2.8, 2.7), False),  # 3 %
        ((1.0, 0.5, 0.5, 0.9, 0.5), False),  # noise
        ((1.0, 1.0, 1.0, 1.0, 1.0), False),
    ],
)
def test_a_student_that_was_still_improving(curve, unfinished):
    results = sound()
    results["curves"]["student"] = losses(*curve)
    assert titles(results) == (["The student had not finished"] if unfinished else [])
    if unfinished:
        assert "--num_train_epochs" in obvious(results)[0].text
        results["settings"]["max_steps"] = 500
        assert "--max_steps" in obvious(results)[0].text


@pytest.mark.parametrize(
    ("curve", "learned"),
    [((1.9, 1.9, 1.9, 1.9, 1.9), False), ((1.9, 1.8, 1.6, 1.4, 1.2), True), ((0.1, 0.1, 0.1, 0.1, 0.1), True)],
)
def test_a_baseline_whose_loss_did_not_fall(curve, learned):
    """Guessing one of six classes has log(6) = 1.79 nats; a loss far below it that stays was learned before."""
    results = sound()
    results["curves"]["baseline"] = losses(*curve)
    assert titles(results) == ([] if learned else ["The baseline has not learned"])
    if not learned:
        assert "from 1.9 to 1.9" in obvious(results)[0].text
        assert "--learning_rate" in obvious(results)[0].text


def test_a_baseline_that_learned_its_few_examples_by_heart():
    results = sound()
    results["curves"]["baseline"] = losses(1.8, 0.5, 0.1, 0.01, 0.001)
    at_guessing(results, "baseline")
    (advice,) = obvious(results)
    assert "--labelled" in advice.text


def test_the_obvious_comes_first_and_in_order():
    results = sound() | {"inputs": inputs(**UNSCALED)}
    at_guessing(results, "teacher"), at_guessing(results, "baseline")
    results["curves"]["student"] = losses(1.0, 0.6, 0.4, 0.30, 0.23)
    results["verdict"]["word"] = "worse"
    results["roles"]["teacher"]["parameters"] = 10
    del results["tuned"]
    found = advise(results)
    assert [advice.title for advice in found] == [
        "The inputs are not scaled",
        "The teacher is no better than guessing",
        "The student had not finished",
        "The baseline has not learned",
        "The teacher is no better than the baseline",
        "The student is no smaller than the teacher",
    ]
    results["roles"]["baseline"]["scores"]["accuracy"] = {"mean": 0.0, "low": 0.0}
    worse = advise(results)[4]
    assert worse.title == "Distillation made the student worse"
    assert "Start with the first advice on this page" in worse.text
    assert "limbeck tune" not in worse.text
