"""What pages of classifiers and of language models have in common: table, headline, curves, settings.

What this file does not know: what only one of the two measures.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from limbeck.report.figures import Across, Figure, Series, Up, interval, lines
from limbeck.report.reading import ROLES, at, items, number, numbers, temperature_of, trained_with, weights_of
from limbeck.report.words import digits, percent, plain, short, size, times, whole
from limbeck.results import Json, JsonView

MOST_SETTING, MOST_CHANGED = 200, 60
"""How many characters of a setting, and of a value before or after a change, are shown."""

OF_EQ2 = ("forward_kl", "cross_entropy")
"""The divergences whose gradient is Eq. 2's."""

FORMS = {"torch": "torch", "onnx": "ONNX", "int8": "ONNX, 8 bits"}
"""Forms of a network in an export.json -> their names."""

IN_FORMS: list[tuple[str, tuple[str, ...], Callable[[float], str]]] = [
    ("size", ("bytes",), size),
    ("ms per example, one at a time", ("latency_ms", "batch_1"), digits),
    ("ms per example, batches of 32", ("latency_ms", "batch_32"), digits),
    ("right", ("accuracy",), lambda v: percent(v, 2)),
    ("predicts as torch does", ("same_prediction",), lambda v: percent(v, 2)),
    ("largest difference of a logit", ("largest_difference",), plain),
]
"""What is shown of each form: its name, where it stands, how it is written."""

Line = tuple[str, tuple[str, ...], Callable[[float], str], int]
"""What is measured, where it stands in a role's results, how it is written; 1 where more is better, -1 where less."""


def roles_of(results: JsonView) -> list[str]:
    """The roles that were measured, teacher first."""
    return [role for role in ROLES if at(results, "roles", role) is not None]


def role_table(results: JsonView, groups: Sequence[tuple[str, Sequence[Line]]]) -> Json:
    """A row per measure, a column per role; what no role has is left out. The better of student and baseline is marked.

    Of several seeds, their range stands beside their mean.
    """
    roles = roles_of(results)
    places: dict[str, tuple[str, ...]] = {role: ("roles", role) for role in roles}
    if at(results, "guessing") is not None:
        places["guessing"] = ("guessing",)
    drawn = []
    for group, measured in groups:
        rows = []
        for name, path, written, sense in measured:
            values = {role: number(results, *place, *path) for role, place in places.items()}
            if any(value is not None for value in values.values()):
                student, baseline = values.get("student"), values.get("baseline")
                best = None
                if sense and student is not None and baseline is not None and written(student) != written(baseline):
                    best = "student" if (student > baseline) == (sense > 0) else "baseline"
                cells = [
                    {
                        "text": "" if value is None else written(value),
                        "range": _between(results, (*places[role], *path), written),
                        "best": role == best,
                    }
                    for role, value in values.items()
                ]
                rows.append({"name": name, "cells": cells})
        if rows:
            drawn.append({"name": group, "rows": rows})
    guess = str(at(results, "guessing", "answer") or "the most frequent class of the test")
    return {
        "guess": guess,
        "roles": list(places),
        "groups": drawn,
        "seeds": number(results, "roles", "student", "seeds"),
    }


def judged_score(results: JsonView) -> Json:
    """What the verdict is about: name, title, share and better, as evaluation lists its scores; accuracy by default."""
    name = at(results, "verdict", "judged_by") or "accuracy"
    listed = [score for score in items(results, "scores") if at(score, "name") == name]
    return dict(listed[0]) if listed else {"name": "accuracy", "title": "accuracy", "share": True, "better": 1}


def score_of(results: JsonView, role: str, name: str) -> float | None:
    """The score of a role, where it was measured."""
    found = number(results, "roles", role, "scores", name)
    return number(results, "roles", role, name) if found is None else found


def was_distilled(results: JsonView) -> bool:
    """Whether the student learned from a teacher: False only where the results show that labels alone taught it."""
    settings = at(results, "settings")
    if isinstance(at(results, "objective"), Mapping):
        alone = weights_of(results)[0] == 0
    else:
        alone = isinstance(settings, Mapping) and settings.get("teacher") == [] and not settings.get("transfer_set")
    return not alone or at(results, "roles", "teacher") is not None


def difference_figure(
    results: JsonView, teacher: float | None, label: str, written: Callable[[float], str]
) -> Figure | None:
    """The difference between student and baseline, with its interval; teacher: how far it lies from the baseline."""
    low, mean, high = (number(results, "verdict", "difference", name) for name in ("low", "mean", "high"))
    if low is None or mean is None or high is None:
        return None
    return interval("Student against baseline", (low, mean, high), teacher, label, written)


def smaller(results: JsonView) -> list[tuple[str, str]]:
    """How much smaller and faster the student is than the teacher: (figure, what it is)."""
    tiles = []
    ours, theirs = (number(results, "roles", role, "parameters") for role in ("student", "teacher"))
    if ours and theirs:
        caption = f"fewer parameters than the teacher: {ours:,.0f} of {theirs:,.0f}"
        if ours >= theirs:
            caption = f"as many parameters as the teacher: {ours:,.0f} to {theirs:,.0f}"
        tiles.append((times(max(ours, theirs) / min(ours, theirs)), caption))
    ours, theirs = (number(results, "roles", role, "latency_ms", "batch_1") for role in ("student", "teacher"))
    if ours and theirs:
        tiles.append((times(theirs / ours), f"as fast as the teacher, one at a time: {plain(ours)} ms"))
    return tiles


def files(results: JsonView) -> Json | None:
    """The student as a file: what each form weighs, how long it takes and what it predicts (limbeck export)."""
    export = at(results, "export")
    forms = {form: name for form, name in FORMS.items() if at(export, form) is not None}
    if "onnx" not in forms:
        return None
    rows = [
        (name, cells)
        for name, path, written in IN_FORMS
        if any(cells := ["" if (v := number(export, form, *path)) is None else written(v) for form in forms])
    ]
    examples, threads = number(export, "examples"), number(export, "threads")
    inputs = "inputs drawn at random" if at(export, "drawn") else "examples of the test"
    note = "" if examples is None else f"Measured on {whole(examples)} {inputs}"
    note += "" if threads is None else f", on the CPU with {whole(threads)} thread{'s' if threads > 1 else ''}"
    named = [short(str(name), MOST_SETTING) for form in forms if (name := at(export, form, "file")) is not None]
    note = ". ".join(part for part in (", ".join(named), note) if part)
    return {"forms": list(forms.values()), "rows": rows, "note": f"{note}."}


def curves(results: JsonView) -> list[Figure]:
    """Loss over steps: each term apart, in training and in validation; the whole loss where no term was recorded."""
    titles = {"soft_loss": "Soft term: from the teacher", "hard_loss": "Hard term: from the labels"}
    logged = {str(name) for line in items(results, "curves", "student") if isinstance(line, Mapping) for name in line}
    of_terms = {name for name in logged if name.endswith("_loss") and not name.startswith("eval_")}
    further = sorted(of_terms - titles.keys() - {"train_loss"})  # which Trainer logs at the end, for the whole
    titles |= {name: f"Term: {short(name.removesuffix('_loss'), 40)}" for name in further}
    found: list[Figure] = []
    for part, title in (titles | {"loss": "Loss"}).items():
        series = []
        for role in ("student", "baseline"):
            for name, split, dashed in ((part, "training", False), (f"eval_{part}", "validation", True)):
                points_ = _points(items(results, "curves", role), name)
                if part == "soft_loss" and role == "baseline":
                    continue  # it has no teacher to learn from
                series.append(Series(f"{role}, {split}", role, points_, dashed))
        if any(one.points for one in series) and not (part == "loss" and found):
            unit = "loss" if part == "loss" else "nats, before its weight"
            drawn = lines(title, series, Across("step"), Up(unit))
            found += [drawn] if drawn else []
    return found


def settings(results: JsonView) -> list[tuple[str, str]]:
    """What the run was made with; what was left unsaid, and secrets such as hub_token, left out."""
    given = at(results, "settings") or at(results, "objective")
    if not isinstance(given, Mapping):
        return []
    texts = {str(k): v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for k, v in given.items()}
    shown = {k: v for k, v in texts.items() if v not in ("null", "[]", "{}", "") and not k.endswith("_token")}
    return [(k, short(v, MOST_SETTING)) for k, v in shown.items()] + _changed(results)


def _changed(results: JsonView) -> list[tuple[str, str]]:
    """A line for each option that was changed when the run was resumed; a long value is shortened."""
    lines = []
    for change in items(results, "changed"):
        values = [at(change, name) for name in ("before", "after", "at_step", "date")]
        before, after, step, date = (short(str(value), MOST_CHANGED) for value in values)
        lines.append(
            (
                f"changed: {short(str(at(change, 'option')), MOST_CHANGED)}",
                f"{before} until step {step}, then {after} ({date})",
            )
        )
    return lines


def chosen_temperature(results: JsonView, temperatures: Sequence[float]) -> float:
    """That of `temperatures` which is nearest to the run's, by ratio; 1 where the run does not say."""
    wanted = temperature_of(results) or 1.0
    return min(temperatures, key=lambda t: max(t / wanted, wanted / t))


def divergence_of(results: JsonView) -> str:
    """The name of the divergence that the student was trained with; forward_kl where the results do not say."""
    return str(trained_with(results, "divergence") or "forward_kl")


def _points(history: Sequence[Any], name: str) -> list[tuple[float, float]]:
    found = [(number(line, "step"), number(line, name)) for line in history]
    return [(step, value) for step, value in found if step is not None and value is not None]


def _between(results: JsonView, path: tuple[str, ...], written: Callable[[float], str]) -> str:
    """The interval of a score, or else the range of the seeds; empty where neither is known."""
    ends = [number(results, *path, end) for end in ("low", "high")]
    if ends[0] is not None and ends[1] is not None:
        return f"{written(ends[0])} to {written(ends[1])}"
    return _range(numbers(results, *path, "seeds"), written)


def _range(seeds: Sequence[float | None], written: Callable[[float], str]) -> str:
    known = [value for value in seeds if value is not None]
    if len(known) < 2 or written(min(known)) == written(max(known)):
        return ""
    return f"{written(min(known))} to {written(max(known))}"
