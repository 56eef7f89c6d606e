"""What is shown of a search for the temperature and the weight of the labels: what was chosen, and why.

What this file does not know: how it is laid out.
"""

import re
from typing import Any

from limbeck.report.figures import KINDS, Across, Figure, Series, Up, lines
from limbeck.report.obvious import Advice
from limbeck.report.reading import at, items, number, numbers
from limbeck.report.words import listed, percent, plain, short, whole
from limbeck.results import Json, JsonView

MEASURES = {
    "nll": ("NLL", "NLL of held-out labels, nats", "{:.4f}".format, -1),
    "accuracy": ("right", "Held-out labels that are right", percent, 1),
    "forward_kl": ("KL", "KL(teacher‖student), held out, nats", "{:.4f}".format, -1),
}
"""What a student may be chosen by -> its name in short and at length, how it is written; 1 where more is better."""

AXES = ("temperature", "hard_weight")
MOST_WORDS = 60
EXAMPLES = re.compile(r"([\d,]+) examples, ")
"""How a search describes its held-out examples: "1,234 examples, " and a hash."""

MARGIN = 0.08
"""The margin above and below what is drawn, as a share of the height."""


def sections(found: JsonView) -> Json:
    """What the template tune.html shows: the page of a search."""
    return {"trainings": len(items(found, "trials")), "chosen": choice(found), "advice": _advise(found)}


def choice(found: Any, settings: Any = None) -> Json | None:
    """What was chosen and why, for the page of a search and that of a run; None of what is no search.

    settings: of the run that was trained after it.
    """
    rows, measure, best = _tried(found), at(found, "measure"), at(found, "best")
    if not rows or measure not in tuple(MEASURES) or (settings is not None and best is None):
        return None
    shown = [name for name in MEASURES if any(number(row, name) is not None for row in rows)]
    chosen, used = _pair(best), _pair(settings)
    return {
        "title": _named(best) or "Not chosen yet",
        "sentence": str(at(found, "sentence") or ""),
        "how": _how(found),
        "other": _named(settings) if None not in (*chosen, *used) and chosen != used else "",
        "differs": listed([short(str(what), MOST_WORDS) for what in items(found, "differs")]),
        "measure": MEASURES[measure][1],
        "figures": [one for name in shown if (one := _over_temperature(name, rows, best)) is not None],
        "columns": [MEASURES[name][0] for name in shown],
        "rows": [_row(row, shown, best) for row in ranked(rows, measure, best)],
    }


def ranked(rows: list[Any], measure: str, best: Any) -> list[Any]:
    """The first of them first, among those that were trained as often; `best` before its equals, no value last."""
    sense = MEASURES[measure][3]

    def place(row: Any) -> tuple[float, bool, float, bool]:
        value = number(row, measure)
        return -(number(row, "seeds") or 0), value is None, -sense * (value or 0), _pair(row) != _pair(best)

    return sorted(rows, key=place)


def _advise(found: JsonView) -> list[Advice]:
    """Returns the warnings about the choice, or one line that there are none."""
    best, rows, measure = at(found, "best"), _tried(found), at(found, "measure")
    if best is None or not rows or measure not in tuple(MEASURES):
        text = "The same command resumes it; finished trainings are not repeated."
        return [Advice("warning", "The search has not finished", text)]
    if len(rows) == 1:
        text = "Pass more values to --temperatures and --hard_weights."
        return [Advice("warning", "Nothing else was tried", text)]
    advice = []
    temperature, tried = number(best, "temperature") or 0.0, [number(row, "temperature") or 0.0 for row in rows]
    for end, edge, beyond in (("highest", max(tried), 2 * temperature), ("lowest", min(tried), temperature / 2)):
        if temperature == edge and min(tried) < max(tried) and beyond >= 1:
            text = f"A better one may lie beyond it: try {plain(beyond)} too, with the same command."
            advice.append(Advice("warning", f"The best temperature is the {end} that was tried", text))
    often = [row for row in rows if number(row, "seeds") == number(best, "seeds")]
    known = [name for name in MEASURES if name != measure and number(best, name) is not None]
    firsts = {name: row for name in known for row in ranked(often, name, best)[:1]}
    others = {name: row for name, row in firsts.items() if _pair(row) != _pair(best)}
    if others:
        choices = "; ".join(f"{MEASURES[name][0]}: {_named(row)}" for name, row in others.items())
        text = (
            f"Of those that were trained as often, another measure would have chosen otherwise ({choices}). Which one "
            "counts is yours to say: --measure."
        )
        advice.append(Advice("warning", "The measures disagree", text))
    words = [at(row, "against_best", "word") for row in often if _pair(row) != _pair(best)]
    if words and None in words:
        text = "With fewer than three seeds the effect of chance on the choice is unknown: use --seeds 3."
        advice.append(Advice("warning", "Chance was not measured", text))
    elif alike := sum(word != "worse" for word in words):
        text = (
            f"{alike} more, of those that were trained as often, may be as good. Any of them will do; to tell them "
            "apart takes more seeds (--seeds) or more held-out examples (--validation)."
        )
        advice.append(Advice("warning", "Other candidates may be as good", text))
    text = "It lies within what was tried, every measure chooses it, and the others are shown to be worse."
    return advice or [Advice("good", "The choice is clear", text)]


def _tried(found: Any) -> list[Any]:
    """The candidates that were trained."""
    return [row for row in items(found, "candidates") if (number(row, "temperature") or 0) > 0 and number(row, "seeds")]


def _pair(of: Any) -> tuple[float | None, ...]:
    return tuple(number(of, name) for name in AXES)


def _named(of: Any) -> str:
    temperature, weight = _pair(of)
    return "" if temperature is None or weight is None else f"T = {plain(temperature)}, hard_weight {plain(weight)}"


def _how(found: Any) -> str:
    """What was tried, and how it was compared."""
    temperatures, weights = ([plain(v) for v in numbers(found, "asked", f"{name}s") if v is not None] for name in AXES)
    seeds, keep = number(found, "asked", "seeds"), number(found, "asked", "keep")
    held_out = EXAMPLES.match(str(at(found, "settings", "validation")))
    tried = ""
    if temperatures and weights:
        tried = f"Tried: T = {listed(temperatures)}, each with hard_weight {listed(weights)}. "
    if seeds and seeds > 1 and keep:
        further = "all of them" if keep >= 1 else f"the best {percent(keep, 0)} of them"
        tried += f"All were trained once, and {further} again with each further seed, up to {whole(seeds)}. "
    apart = f" of {held_out[1]} examples held out of training" if held_out else ""
    return f"{tried}Students are compared by what they predict at T = 1{apart}; no test was read."


def _row(row: Any, shown: list[str], best: Any) -> Json:
    low, high = (number(row, "against_best", end) for end in ("low", "high"))
    word, is_best = at(row, "against_best", "word"), _pair(row) == _pair(best)
    against = "" if low is None or high is None else f"{_signed(low)} to {_signed(high)}"
    return {
        "axes": ["" if value is None else plain(value) for value in _pair(row)],
        "seeds": whole(number(row, "seeds") or 0),
        "measured": ["" if (v := number(row, name)) is None else MEASURES[name][2](v) for name in shown],
        "against": against,
        "mean": 0.0 if is_best else number(row, "against_best", "mean"),
        "word": "the best" if is_best else word if isinstance(word, str) else "",
        "best": is_best,
    }


def _signed(value: float) -> str:
    return f"+{plain(value)}" if value > 0 else plain(value)


def _over_temperature(measure: str, rows: list[Any], best: Any) -> Figure | None:
    """A line per weight of the labels, with the intervals over seeds."""
    series = []
    for i, weight in enumerate(sorted({number(row, "hard_weight") or 0.0 for row in rows})):
        points, spans = [], []
        for row in sorted(rows, key=lambda row: number(row, "temperature") or 0.0):
            value, low, high = (number(row, measure, end) for end in ("mean", "low", "high"))
            t = number(row, "temperature")
            if (number(row, "hard_weight") or 0.0) == weight and t is not None and value is not None:
                points.append((t, value))
                spans += [] if low is None or high is None else [(t, low, high)]
        series.append(Series(f"hard_weight {plain(weight)}", KINDS[i % len(KINDS)], points, marked=True, spans=spans))
    ys = [v for one in series for v in (*(y for _, y in one.points), *(v for _, *ends in one.spans for v in ends))]
    if not ys:
        return None
    room, chosen = MARGIN * (max(ys) - min(ys)), number(best, "temperature")
    return lines(
        MEASURES[measure][1],
        series,
        Across("temperature", log=True, ticks=sorted({x for one in series for x, _ in one.points})),
        Up("", (min(ys) - room, max(ys) + room), percent if measure == "accuracy" else plain),
        mark=None if chosen is None else (chosen, f"T = {plain(chosen)}"),
    )
