"""What the page of an experiment of the 2015 paper shows: what the paper found beside what was measured here.

What this file does not know: how it is laid out.
"""

from collections.abc import Mapping
from typing import Any

from limbeck.report.figures import KINDS, Across, Figure, Series, Up, lines
from limbeck.report.reading import at, items, number
from limbeck.report.words import percent, plain, short, whole
from limbeck.results import Json, JsonView

REPORTED = {
    "mnist": (
        "A small net learns from a big one",
        "section 3",
        "two hidden layers of 1,200 units, strongly regularised, made 67 errors on MNIST's test; 800 units without "
        "regularisation made 146, and 74 with the soft targets of the big net at T = 20.",
    ),
    "temperature": (
        "The best temperature by width of the student",
        "section 3",
        "with 300 units or more in each hidden layer all temperatures above 8 gave much the same; with 30 units, 2.5 "
        "to 4 worked significantly better than higher or lower ones.",
    ),
    "omitted": (
        "Classes that the student never sees",
        "section 3",
        "a student that never saw a 3 made 206 errors, and 109 after the bias of the 3s was raised; one that saw 7s "
        "and 8s alone was wrong about 47.3 %, and about 13.2 % after their biases were lowered.",
    ),
    "ensemble": (
        "Ten nets distilled into one",
        "section 4",
        "on speech, more than 80 % of what ten nets gain over one passed to the distilled net.",
    ),
    "specialists": (
        "A generalist and its specialists",
        "section 5",
        "on photographs, 61 specialists raised the generalist's accuracy from 25.0 % to 26.1 %. Sections 6.1 and 8 "
        "propose specialists over all classes, and distilling all of it back into one net.",
    ),
    "regulariser": (
        "Soft targets against overfitting",
        "section 6",
        "on speech with 3 % of the data, hard labels reached 44.5 % on the test and soft targets 57.0 %; all of the "
        "data 58.9 %.",
    ),
    "limit": (
        "At high temperatures distillation is logit matching",
        "section 2.1",
        "where T is high compared to the logits, and these have zero mean, the gradient of the soft term (Eq. 2) "
        "becomes (z − v)/(NT²) (Eq. 4).",
    ),
}
"""experiment -> its title, where the paper has it, and what it says there."""

OWN = {"schema", "version", "limbeck", "experiment", "settings", "test_examples", "rows", "verdict", "curve"}
"""What has a place of its own on the page; whatever else was measured is listed."""

SHARES = ("threes_right", "train_right", "test_right")
MOST_NAME, MOST_TEXT = 120, 300


def sections(results: JsonView) -> Json:
    """What the template paper.html shows."""
    experiment = str(at(results, "experiment"))
    title, section, text = REPORTED.get(experiment, (experiment, "", ""))
    rows = items(results, "rows")
    shares = [name for name in SHARES if any(number(row, name) is not None for row in rows)]
    return {
        "experiment": experiment,
        "title": short(title, MOST_NAME),
        "reference": f"{section.capitalize()}: {text}" if text else "",
        "sentence": str(at(results, "verdict", "sentence") or ""),
        "examples": number(results, "test_examples"),
        "shares": [_words(name) for name in shares],
        "rows": [_row(row, shares) for row in rows],
        "of_paper": any(at(row, "paper") is not None for row in rows),
        "drawings": [one for one in (_by_temperature(rows), _limit(results)) if one is not None],
        "more": [line for name, value in results.items() if name not in OWN for line in _listed(_words(name), value)],
    }


def _row(row: Any, shares: list[str]) -> Json:
    mean, low, high = (number(row, "errors", name) for name in ("mean", "low", "high"))
    seeds = [number({"": value}, "") for value in items(row, "errors", "seeds")]
    paper = at(row, "paper")
    return {
        "name": short(str(at(row, "name") or ""), MOST_NAME),
        "errors": "" if mean is None else whole(mean),
        "interval": "" if low is None or high is None else f"{low:,.0f} to {high:,.0f}",
        "seeds": ", ".join(whole(value) for value in seeds if value is not None) if len(seeds) > 1 else "",
        "shares": ["" if (share := number(row, name)) is None else percent(share) for name in shares],
        "paper": "" if paper is None else short(_text(paper), MOST_NAME),
    }


def _by_temperature(rows: list[Any]) -> Figure | None:
    """Errors over the temperature, a line per width of the student."""
    widths: dict[float, list[tuple[float, float]]] = {}
    for row in rows:
        width, temperature, mean = number(row, "width"), number(row, "temperature"), number(row, "errors", "mean")
        if width is not None and temperature is not None and temperature > 0 and mean is not None:
            widths.setdefault(width, []).append((temperature, mean))
    series = [
        Series(f"{plain(width)} units", KINDS[i % len(KINDS)], points)
        for i, (width, points) in enumerate(widths.items())
    ]
    return lines("Errors by temperature", series, Across("temperature", log=True), Up("errors"))


def _limit(results: JsonView) -> Figure | None:
    """The relative error of Eq. 4 over the temperature."""
    both = [(number(point, "temperature"), number(point, "relative_error")) for point in items(results, "curve")]
    points = [(t, error) for t, error in both if t is not None and t > 0 and error is not None]
    series = [Series("Eq. 4 for Eq. 2", "eq4", points)]
    return lines("Relative error of Eq. 4", series, Across("temperature", log=True), Up("relative error"))


def _listed(name: str, value: Any) -> list[tuple[str, str]]:
    """A line per figure; what is named within has a line of its own."""
    if isinstance(value, Mapping):
        return [line for inner, part in value.items() for line in _listed(f"{name}, {_words(str(inner))}", part)]
    text = _text(value)
    return [(short(name, MOST_NAME), short(text, MOST_TEXT))] if text else []


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        nested = any(isinstance(part, list | tuple) for part in value)
        return ("; " if nested else ", ").join(_text(part) for part in value)
    known = number({"": value}, "")
    return plain(known) if known is not None else value if isinstance(value, str) else ""


def _words(name: str) -> str:
    return name.replace("_", " ")
