"""What the page of a language model shows: where KL and acceptance are, the tokens they part on, what they write.

What this file does not know: how it is laid out.
"""

import math
from typing import Any

from limbeck.report.figures import Across, Figure, Series, Up, lines
from limbeck.report.reading import at, items, number
from limbeck.report.shared import Line, difference_figure, role_table, roles_of, smaller
from limbeck.report.words import digits, percent, plain, short, size, times, whole
from limbeck.results import Json, JsonView

MOST_TEXT, MOST_TOKEN = 1500, 24

MEASURES: list[tuple[str, list[Line]]] = [
    (
        "Quality",
        [
            ("perplexity", ("perplexity",), lambda v: f"{v:,.2f}", -1),
            ("NLL, nats per token", ("nll",), digits, -1),
            ("next token right", ("accuracy",), lambda v: percent(v, 2), 1),
        ],
    ),
    (
        "Certainty",
        [
            ("confidence", ("confidence",), lambda v: percent(v, 2), 0),
            ("entropy, nats", ("entropy",), digits, 0),
        ],
    ),
    (
        "Likeness to the teacher",
        [
            ("KL(teacher‖\u200bmodel), nats", ("to_teacher", "forward_kl"), digits, -1),
            ("KL(model‖\u200bteacher), nats", ("to_teacher", "reverse_kl"), digits, -1),
            ("same likeliest token", ("to_teacher", "agreement"), lambda v: percent(v, 2), 1),
            ("accepted as a draft", ("to_teacher", "acceptance"), lambda v: percent(v, 2), 1),
        ],
    ),
    ("Cost", [("parameters", ("parameters",), whole, 0), ("size", ("bytes",), size, 0)]),
]


def sections(results: JsonView) -> Json:
    """All that the template draws of a language model; what the results do not hold is empty or None."""
    test = at(results, "test")
    tokens, examples = number(test, "tokens") or 0, number(test, "examples") or 0
    teacher, baseline = (number(results, "roles", role, "nll") for role in ("teacher", "baseline"))
    gap = None if teacher is None or baseline is None else baseline - teacher
    return {
        "subject": f"{tokens:,.0f} tokens of {examples:,.0f} test examples, "
        f"{number(test, 'classes') or 0:,.0f} token ids",
        "interval": difference_figure(results, gap, "nats per token saved against the baseline", plain),
        "tiles": _tiles(results),
        "table": role_table(results, MEASURES),
        "places": _over(results, "by_position", "place in the answer, tokens"),
        "frequencies": _over(results, "by_frequency", "rank of the token in the test"),
        "draft": _draft(at(results, "draft")),
        "tokens": [_token(token) for token in items(results, "tokens")],
        "completions": _completions(results),
        "training_examples": _training_examples(results),
        "failed": _failed(results),
    }


def _tiles(results: JsonView) -> list[tuple[str, str]]:
    tiles = []
    student, teacher = (number(results, "roles", role, "perplexity") for role in ("student", "teacher"))
    if student is not None and teacher is not None:
        tiles.append((f"{student:,.2f}", f"perplexity, where the teacher has {teacher:,.2f}"))
    kl = number(results, "roles", "student", "to_teacher", "forward_kl")
    if kl is not None:
        tiles.append((plain(kl), "nats from the teacher, KL per token"))
    speed = number(results, "draft", "speed_up")
    if speed is not None:
        tiles.append((times(speed), "the teacher's speed with this student as its draft"))
    return tiles + smaller(results)


def _over(results: JsonView, name: str, label: str) -> list[Figure]:
    """KL and acceptance, or NLL where there is no teacher, over the groups of tokens."""
    found: list[Figure] = []
    measures = {"forward_kl": "KL(teacher‖model)", "acceptance": "Acceptance", "nll": "NLL"}
    for part, title in measures.items():
        series, names = [], list[str]()
        for role in roles_of(results):
            groups = items(results, "roles", role, name)
            names = max(names, [_span(group) for group in groups], key=len)
            values = [(float(i), number(group, part)) for i, group in enumerate(groups)]
            series.append(Series(role, role, [(i, v) for i, v in values if v is not None]))
        if any(one.points for one in series) and not (part == "nll" and found):
            share = part == "acceptance"
            up = Up("probability", (0.0, 1.0), lambda v: percent(v, 0))
            if not share:
                up = Up("nats", (0.0, 1.1 * max(v for one in series for _, v in one.points) or 1.0))
            drawn = lines(title, series, Across(label, names), up)
            found += [drawn] if drawn else []
    return found


def _span(group: Any) -> str:
    """2 to 3 is 2–3."""
    first, last = number(group, "from"), number(group, "to")
    if first is None or last is None:
        return ""
    return f"{first:.0f}" if first == last else f"{_compact(first)}–{_compact(last)}"


def _compact(value: float) -> str:
    return f"{value / 1000:.3g}k" if value >= 1000 else f"{value:.0f}"


def _draft(draft: Any) -> Json | None:
    if draft is None:
        return None
    alone, assisted = (number(draft, f"{who}_tokens_per_second") for who in ("teacher", "assisted"))
    same, reason = number(draft, "same"), at(draft, "reason")
    if alone is None or assisted is None:
        return {"reason": str(reason or "It was not timed."), "rows": []}
    most = max(alone, assisted)
    rows = [("teacher alone", alone, alone / most, "teacher"), ("with the draft", assisted, assisted / most, "student")]
    return {"reason": None, "rows": rows, "same": same, "prompts": number(draft, "prompts")}


def _token(token: Any) -> Json:
    """One on which teacher and student part: what stands before it, and what each expects there."""
    expected = []
    for role in ("teacher", "student", "baseline"):
        likeliest = [
            (_visible(at(one, "token"), at(one, "id")), math.exp(min(log_prob, 0.0)), at(one, "id") == at(token, "id"))
            for one in items(token, "expected", role)
            if (log_prob := number(one, "log_prob")) is not None
        ]
        expected += [(role, likeliest)] if likeliest else []
    return {
        "before": at(token, "before"),
        "token": _visible(at(token, "token"), at(token, "id")),
        "row_id": at(token, "row_id"),
        "place": at(token, "place"),
        "kl": number(token, "forward_kl"),
        "expected": expected,
    }


def _visible(token: Any, number_of: Any) -> str:
    """A token that can be seen: blanks as signs, and its id where there was no tokenizer."""
    if token is None:
        return f"#{number_of}"
    seen = str(token).replace("\n", "⏎").replace("\t", "⇥")
    return short(seen if seen.strip() else seen.replace(" ", "␣") or "∅", MOST_TOKEN)


def _training_examples(results: JsonView) -> list[Json]:
    """The first training examples, as each side reads them: parts of text, and whether they are learned."""
    found = []
    for one in items(results, "training_examples"):
        sides = []
        for role in ("student", "teacher"):
            parts = [(str(at(part, "text") or ""), at(part, "learned") is True) for part in items(one, role)]
            sides += [(role, parts)] if parts else []
        found += [{"row_id": at(one, "row_id"), "sides": sides}] if sides else []
    return found


def _failed(results: JsonView) -> list[tuple[str, str]]:
    """(role, why its model wrote no completions)."""
    failed = at(results, "completions_failed")
    return [(role, str(reason)) for role, reason in failed.items()] if isinstance(failed, dict) else []


def _completions(results: JsonView) -> list[Json]:
    found = []
    for one in items(results, "completions"):
        wrote = [(role, at(one, role)) for role in ("reference", "teacher", "student", "baseline")]
        found.append(
            {
                "row_id": at(one, "row_id"),
                "prompt": short(str(at(one, "prompt") or ""), MOST_TEXT),
                "teacher_prompt": short(str(at(one, "teacher_prompt") or ""), MOST_TEXT),
                "wrote": [(role, short(str(text), MOST_TEXT)) for role, text in wrote if text is not None],
            }
        )
    return found
