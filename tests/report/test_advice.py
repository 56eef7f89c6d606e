"""Advice: each finding from results in which one thing was made wrong, and none where nothing is."""

from collections.abc import Callable
from typing import Any

import pytest

from limbeck.report.advice import advise
from limbeck.report.headline import headline
from limbeck.report.tuning import sections

from .samples import classifier, language, search

Change = Callable[[dict[str, Any]], Any]


def titles(results: dict[str, Any]) -> list[str]:
    return [advice.title for advice in advise(results)]


def sound() -> dict[str, Any]:
    """Results that nothing speaks against."""
    results = classifier()
    results["verdict"] |= {"word": "better", "gap_recovered": {"mean": 0.8}, "seeds_resampled": True}
    for role in results["roles"].values():
        role["ece"] = role["scaled"]["ece"] = {"mean": 0.01, "seeds": [0.01]}
    results["roles"]["teacher"]["parameters"] = 10 * results["roles"]["student"]["parameters"]
    results["roles"]["teacher"]["bytes"] = 10 * results["roles"]["student"]["bytes"]
    flat = [{"step": s, "soft_loss": 0.5, "hard_loss": 0.4} for s in range(20)]
    results["curves"] = {"student": flat + [{"step": s, "eval_soft_loss": 0.6} for s in range(6)]}
    results["dark_knowledge"] |= {"off_top": [0.03, *[0.2] * 8], "evenness": [0.5, *[0.8] * 8]}
    results["test"]["per_class"] = [20] * 6
    for role in ("teacher", "student", "baseline"):
        results["roles"][role]["correct_per_class"] = [18] * 6
    return results


def test_nothing_is_found_where_nothing_is():
    (advice,) = advise(sound())
    assert (advice.kind, advice.title) == ("good", "No objection")


def accuracy(of: dict[str, Any], role: str, value: float) -> None:
    of["roles"][role]["accuracy"] = of["roles"][role]["scores"]["accuracy"] = {"mean": value, "seeds": [value]}


CASES: dict[str, Change] = {
    "There is no baseline": lambda r: r["verdict"].update(word=None),
    "The student is no better than its baseline": lambda r: r["verdict"].update(word="no difference shown"),
    "Distillation made the student worse": lambda r: r["verdict"].update(word="worse"),
    "The teacher is no better than the baseline": lambda r: (
        r["verdict"].update(word="worse"),
        accuracy(r, "teacher", 0.01),
    ),
    "Most of the gap to the teacher is left": lambda r: r["verdict"].update(gap_recovered={"mean": 0.3}),
    "The student is hardly better than its baseline": lambda r: r["verdict"].update(
        gap_recovered=None, difference={"mean": 1e-6}
    ),
    "Classes that the student has not learned": lambda r: r["roles"]["student"].update(
        correct_per_class=[18, 18, 1, 18, 18, 18]
    ),
    "Classes are missing from the transfer set": lambda r: (
        r.update(transfer_set={"examples": 50, "per_class": [10, 10, 0, 10, 10, 10]}),
        r["roles"]["student"].update(correct_per_class=[18, 18, 1, 18, 18, 18]),
    ),
    "The teacher is saturated": lambda r: r["dark_knowledge"].update(off_top=[1e-4] * 6 + [0.05, 0.12, 0.4]),
    "The teacher treats all other classes alike": lambda r: r["dark_knowledge"].update(evenness=[0.97] * 9),
    "The teacher's confidence misleads": lambda r: r["roles"]["teacher"].update(ece={"mean": 0.08}),
    "The student's confidence misleads": lambda r: r["roles"]["student"].update(ece={"mean": 0.2}),
    "The labels outweigh the teacher": lambda r: r["settings"].update(hard_weight=50.0),
    "The student was trained too long": lambda r: r["curves"].update(
        student=[{"step": s, "eval_soft_loss": v} for s, v in enumerate((0.9, 0.5, 0.4, 0.45, 0.5))]
    ),
    "The student had not finished": lambda r: r["curves"].update(
        student=[{"step": s, "soft_loss": 1 / (s + 1)} for s in range(20)]
    ),
    "The student is no smaller than the teacher": lambda r: r["roles"]["teacher"].update(parameters=10),
    "The student is slower than the teacher": lambda r: [
        r["roles"][role].update(latency_ms={"batch_1": ms}) for role, ms in (("student", 2.0), ("teacher", 1.0))
    ],
    "Eight bits change what it predicts": lambda r: r["export"]["int8"].update(same_prediction=0.97),
    "Few seeds": lambda r: r["verdict"].update(seeds_resampled=False),
}


@pytest.mark.parametrize("title", CASES)
def test_one_thing_that_is_wrong_is_the_one_that_is_said(title):
    results = sound()
    CASES[title](results)
    assert titles(results) == [title]


def test_the_numbers_are_the_results():
    results = sound()
    results["dark_knowledge"]["off_top"] = [1e-4, 5e-4, 0.001, 0.002, 0.004, 0.01, 0.05, 0.12, 0.4]
    (advice,) = advise(results)
    assert "At T = 4 its targets give 0.4\u00a0%" in advice.text
    assert "at T = 10 it would be more than a tenth" in advice.text
    results = sound()
    results["roles"]["student"]["correct_per_class"] = [1, 18, 18, 18, 18, 1]
    assert "It gets hardly any of class 0, class 5 right" in advise(results)[0].text
    assert "match_prior" in advise(results)[0].text
    results["transfer_set"] = {"examples": 60, "per_class": [10] * 6}
    assert "match_prior" not in advise(results)[0].text, "they were there"


def test_what_must_not_ship_comes_first():
    results = sound()
    results["verdict"] |= {"word": "worse", "seeds_resampled": False}
    results["roles"]["student"]["ece"] = {"mean": 0.2}
    assert [advice.kind for advice in advise(results)] == ["bad", "warning", "warning"]


def test_a_draft_that_slows_the_teacher_down():
    results = language()
    results["draft"] |= {"speed_up": 0.4, "same": 0.75}
    found = titles(results)
    assert "As a draft the student slows the teacher down" in found
    assert "With the draft the teacher wrote different text" in found
    results["draft"] |= {"speed_up": 1.6, "same": 1.0}
    assert not [title for title in titles(results) if "draft" in title]


def test_a_run_that_was_tuned_is_not_told_to_tune():
    results = sound()
    results["verdict"]["word"] = "worse"
    assert "limbeck tune" not in advise(results)[0].text
    del results["tuned"]
    assert "limbeck tune" in advise(results)[0].text


def test_a_temperature_is_advised_where_it_mends_something():
    results = sound()
    student = results["roles"]["student"]
    student |= {"ece": {"mean": 0.2}, "confidence": {"mean": 0.95}, "accuracy": {"mean": 0.75}}
    student["scaled"] |= {"ece": {"mean": 0.02}, "temperature": {"mean": 1.8}}
    assert "Divide its logits by T = 1.8" in advise(results)[0].text
    for after, temperature in ((0.19, 1.8), (0.02, 0.4)):  # hardly better; and sharper, of one that is too sure
        student["scaled"] |= {"ece": {"mean": after}, "temperature": {"mean": temperature}}
        assert "No temperature corrects it" in advise(results)[0].text
    student["scaled"] = None
    assert "Divide its logits by a fitted calibration temperature" in advise(results)[0].text


def test_what_the_run_did_is_not_advised_to_it():
    results = sound()
    results["curves"]["student"] = [{"step": s, "eval_soft_loss": v} for s, v in enumerate((0.9, 0.5, 0.4, 0.45, 0.5))]
    results["dark_knowledge"]["off_top"] = [1e-4] * 8 + [0.08]
    assert "at T = 20 it would be 8.0\u00a0%" in advise(results)[0].text
    results["settings"] |= {"early_stopping": 3, "divergence": "logit_matching", "hard_weight": 50.0}
    assert titles(results) == ["No objection"]


def test_a_teacher_that_has_not_learned_is_no_smoothed_one():
    results = sound()
    results["dark_knowledge"] |= {"off_top": [0.88] * 9, "evenness": [0.97] * 9}
    assert titles(results) == ["No objection"]


def test_what_had_no_teacher_is_not_told_of_baselines():
    results = sound()
    results["verdict"]["word"] = None
    del results["roles"]["teacher"], results["roles"]["baseline"]
    results["settings"]["teacher"] = []
    assert titles(results) == ["No objection"]
    assert headline(results)["kind"] == "A classifier that had no teacher"
    results["settings"]["transfer_set"] = "runs/labelled"
    assert titles(results) == ["There is no baseline"]
    assert headline(results)["kind"] == "A distilled classifier"


def clear() -> dict[str, Any]:
    """A search whose best is in the middle, first by each measure, and shown to be better than the others."""
    found = search()
    measured = {"nll": (0.3, 0.2, 0.4), "accuracy": (0.8, 0.9, 0.7), "forward_kl": (0.3, 0.2, 0.4)}
    found["candidates"] = [
        {"temperature": t, "hard_weight": 0.1, "seeds": 3, "against_best": {"low": -0.2, "high": -0.1, "word": "worse"}}
        | {name: {"mean": values[i], "low": None, "high": None} for name, values in measured.items()}
        for i, t in enumerate((1.0, 4.0, 20.0))
    ]
    found["best"] = found["candidates"][1]
    return found


def at_the_end(found: dict[str, Any], place: int) -> None:
    found["best"]["temperature"], found["candidates"][place]["temperature"] = 20.0 if place else 2.0, 4.0


SEARCHES: dict[str, Change] = {
    "The choice is clear": lambda f: None,
    "The search has not finished": lambda f: f.update(best=None),
    "The best temperature is the highest that was tried": lambda f: at_the_end(f, 2),
    "The measures disagree": lambda f: f["candidates"][2]["accuracy"].update(mean=0.95),
    "Chance was not measured": lambda f: f["candidates"][0]["against_best"].update(word=None),
    "Other candidates may be as good": lambda f: f["candidates"][0]["against_best"].update(word="no difference shown"),
}


@pytest.mark.parametrize("title", SEARCHES)
def test_what_speaks_against_a_choice_is_said(title):
    found = clear()
    SEARCHES[title](found)
    assert [advice.title for advice in sections(found)["advice"]] == [title]


def test_below_a_temperature_of_one_nothing_is_proposed():
    found = clear()
    found["candidates"][0]["temperature"], found["best"]["temperature"] = 4.0, 1.0
    assert [advice.title for advice in sections(found)["advice"]] == ["The choice is clear"]
    found["best"]["temperature"] = 2.0
    (advice,) = sections(found)["advice"]
    assert advice.title == "The best temperature is the lowest that was tried"
    assert "try 1 too" in advice.text
