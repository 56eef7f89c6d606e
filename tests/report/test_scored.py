"""The page of several labels, segmentation and regression: its numbers are those of the results."""

import copy
from html import unescape

import pytest

from limbeck.report.page import html

from .samples import scored
from .test_page import Page

KINDS = ["multi_label", "segmentation", "regression"]


@pytest.mark.parametrize("kind", KINDS)
def test_scores_of_every_role_and_guessing_stand_in_the_table(kind: str) -> None:
    results = scored(kind)
    page = Page(html(results))
    rows = [text.split() for _, text in page.all("tr")]
    for score in results["scores"]:
        row = next(words for words in rows if " ".join(words).startswith(score["title"]))
        for role in results["roles"].values():
            mean = role["scores"][score["name"]]["mean"]
            assert (f"{100 * mean:.2f}" if score["share"] else f"{mean:.3g}".lstrip("-")[:4]) in " ".join(row)
    assert results["guessing"]["answer"] in unescape(html(results))


@pytest.mark.parametrize(
    ("kind", "name"), [("multi_label", "label 2"), ("segmentation", "sea"), ("regression", "weight")]
)
def test_each_label_class_or_number_has_a_row(kind: str, name: str) -> None:
    page = Page(html(scored(kind)))
    assert [text for _, text in page.all("tr") if text.startswith(name)]


def test_a_dot_lies_where_label_and_prediction_are() -> None:
    results = scored("regression")
    figures = html(results).count("95 % intervals")
    assert figures == 6  # three roles, two numbers
    results["points"] = results["points"][:1]
    results["points"][0] |= {"label": [0.0, 10.0], "student": [10.0, 0.0], "teacher": [], "baseline": []}
    results["points"][0]["student_half_interval"] = []
    dots = [attributes for attributes, _ in Page(html(results)).all("circle", class_="dot student")]
    at = [(float(dot["cx"] or 0), float(dot["cy"] or 0)) for dot in dots if dot["r"] == "2.2"]
    assert at == [(56.0, 18.0), (346.0, 192.0)]  # the corners of the plot


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("gone", ["scores", "points", "guessing", "curves", "test", "settings"])
def test_what_is_missing_is_left_out(kind: str, gone: str) -> None:
    results = scored(kind)
    del results[gone]
    title = results["verdict"]["word"].capitalize()
    assert Page(html(results)).all("h1")[0][1].startswith(title)
    results = copy.deepcopy(scored(kind)) | {gone: "nonsense"}
    assert Page(html(results)).all("h1")[0][1].startswith(title)
