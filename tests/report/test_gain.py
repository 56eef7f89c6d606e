"""Gains that do not matter: held against shares worked out by hand, on either side of each threshold."""

from typing import Any

import pytest

from limbeck.commands import console
from limbeck.report.gain import negligible
from limbeck.report.headline import headline
from limbeck.report.page import html

from .samples import classifier, language

PERCENT = "\u00a0%"


def better(difference: float, gap: float | None = None, results: dict[str, Any] | None = None) -> dict[str, Any]:
    """Results of a better student: by how much, and the share of the gap that it recovers."""
    results = results or classifier()
    results["verdict"] |= {"word": "better", "difference": {"mean": difference}}
    results["verdict"]["gap_recovered"] = None if gap is None else {"mean": gap}
    return results


def with_baseline(results: dict[str, Any], name: str, value: float) -> dict[str, Any]:
    results["roles"]["baseline"]["scores"][name] = {"mean": value}
    return results


@pytest.mark.parametrize(
    ("gap", "said"), [(0.0049, f"0{PERCENT} of the gap to the teacher"), (0.0051, None), (0.9, None), (1.2, None)]
)
def test_a_share_of_the_gap_that_is_written_as_none_does_not_matter(gap, said):
    assert negligible(better(0.2, gap)) == said, "however large the difference is"


@pytest.mark.parametrize(
    ("baseline", "difference", "said"),
    [
        (0.70, 0.0029, "+0.29 points"),  # of 30 % errors, 1 % is 0.30 points
        (0.70, 0.0031, None),
        (0.995, 0.00006, None),  # 1.2 % of the errors that are left
        (1.0, 0.0, None),
    ],
)
def test_without_a_gap_the_errors_of_the_baseline_are_the_measure(baseline, difference, said):
    assert negligible(with_baseline(better(difference), "accuracy", baseline)) == said


def test_a_score_of_which_less_is_better_is_held_against_the_baselines():
    results = better(0.019)
    results["scores"] = [{"name": "rmse", "title": "RMSE", "share": False, "better": -1}]
    results["verdict"]["judged_by"] = "rmse"
    assert negligible(with_baseline(results, "rmse", 2.0)) == "RMSE 0.019 better"
    assert negligible(with_baseline(results, "rmse", 1.8)) is None


def test_of_text_it_is_one_percent_of_the_perplexity():
    results = language()
    for role, perplexity in (("student", 2.33), ("baseline", 2.34)):
        results["roles"][role]["perplexity"] = {"mean": perplexity}
    assert negligible(better(0.0043, results=results)) == "perplexity 2.33 against 2.34"  # log(2.34 / 2.33)
    assert negligible(better(0.0100, results=results)) is None  # log(1.01) = 0.00995
    assert negligible(better(0.0099, results=results)) is not None


@pytest.mark.parametrize("word", ["worse", "no difference shown", None])
def test_only_of_a_gain_it_is_said(word):
    results = better(0.0, 0.0)
    results["verdict"]["word"] = word
    assert negligible(results) is None
    assert not headline(results)["hardly"]


def test_page_and_terminal_say_it_and_the_page_is_not_green(capsys):
    results = better(0.004, 0.001)
    title = f"Better, but hardly: 0{PERCENT} of the gap to the teacher"
    assert f'<h1 class="open">{title}</h1>' in html(results)
    console.print_results(results)
    assert f"\n{title}. {results['verdict']['sentence']}" in capsys.readouterr().out
    results = better(0.2, 0.8)
    assert '<h1 class="good">Better than its baseline</h1>' in html(results)
    console.print_results(results)
    assert "hardly" not in capsys.readouterr().out
