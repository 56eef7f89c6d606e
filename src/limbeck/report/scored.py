"""What the page of other tasks shows: several labels, segmentation, regression; their scores, and each label or class.

What this file does not know: how it is laid out.
"""

from functools import partial
from typing import Any

from limbeck.report.figures import Across, Figure, Series, Up, lines
from limbeck.report.reading import ROLES, at, items, number, numbers
from limbeck.report.shared import Line, difference_figure, judged_score, role_table, roles_of, score_of, smaller
from limbeck.report.words import digits, percent, plain, points, size, whole
from limbeck.results import Json, JsonView

MULTI_LABEL, SEGMENTATION, REGRESSION = "multi_label", "segmentation", "regression"
KINDS = (MULTI_LABEL, SEGMENTATION, REGRESSION)
"""The tasks that are drawn here."""

COST: list[Line] = [
    ("parameters", ("parameters",), whole, 0),
    ("size", ("bytes",), size, 0),
    ("ms per example, one at a time", ("latency_ms", "batch_1"), digits, 0),
    ("ms per example, batches of 256", ("latency_ms", "batch_256"), digits, 0),
]

EACH: dict[str, list[tuple[str, str, bool]]] = {
    MULTI_LABEL: [("F1", "f1_per_label", True), ("ROC-AUC", "auc_per_label", False)],
    SEGMENTATION: [("IoU", "iou_per_class", True)],
    REGRESSION: [("R²", "r2_per_number", False), ("mean absolute error", "mae_per_number", False)],
}
"""The scores of each label, class or number: their title, their name, and whether they are shares."""

ONE = {MULTI_LABEL: "label", SEGMENTATION: "class", REGRESSION: "number"}

MOST_MARKED = 400


def sections(results: JsonView) -> Json:
    """All that the template draws of such a task; what the results do not hold is empty or None."""
    judged, task = judged_score(results), str(at(results, "task"))
    better = -1 if judged.get("better") == -1 else 1
    teacher, baseline = (score_of(results, role, judged["name"]) for role in ("teacher", "baseline"))
    gap = None if teacher is None or baseline is None else better * (teacher - baseline)
    examples = number(results, "test", "examples") or 0
    written = points if judged["share"] else plain
    side = "below" if better < 0 else "above"
    return {
        "subject": f"{examples:,.0f} test examples, {_of_what(results, task)}",
        "interval": difference_figure(results, gap, f"{judged['title']}, {side} the baseline", written),
        "tiles": _tiles(results, judged) + smaller(results),
        "table": role_table(results, [("Quality", _quality(results)), *_likeness(task), ("Cost", COST)]),
        "each": _each(results, task),
        "points": [drawn for one in items(results, "points") for drawn in _numbers(results, one)],
        "one": ONE[task],
    }


def _of_what(results: JsonView, task: str) -> str:
    outputs, classes = number(results, "test", "outputs"), number(results, "test", "classes")
    if task == SEGMENTATION:
        return f"{classes or 0:,.0f} classes of pixels"
    return f"{outputs or 0:,.0f} {ONE[task]}{'' if outputs == 1 else 's'} each"


def _quality(results: JsonView) -> list[Line]:
    found: list[Line] = []
    for score in items(results, "scores"):
        name, title, better = at(score, "name"), at(score, "title"), number(score, "better")
        if isinstance(name, str) and isinstance(title, str):
            written = partial(percent, decimals=2) if at(score, "share") is True else digits
            found.append((title, ("scores", name), written, int(better or 0)))
    return found


def _likeness(task: str) -> list[tuple[str, list[Line]]]:
    one = {MULTI_LABEL: " per label", SEGMENTATION: " per pixel", REGRESSION: ""}[task]
    return [
        (
            "Likeness to the teacher",
            [
                ("same answer", ("to_teacher", "agreement"), lambda v: percent(v, 2), 1),
                ("R² of the teacher's numbers", ("to_teacher", "r2"), digits, 1),
                ("distance to the teacher (RMSE)", ("to_teacher", "rmse"), digits, -1),
                (f"KL(teacher‖\u200bmodel){one}, nats", ("to_teacher", "forward_kl"), digits, -1),
            ],
        )
    ]


def _tiles(results: JsonView, judged: Json) -> list[tuple[str, str]]:
    student, teacher = (score_of(results, role, judged["name"]) for role in ("student", "teacher"))
    written: Any = percent if judged["share"] else digits
    tiles = []
    if student is not None:
        tiles.append((written(student), f"{judged['title']} of the student"))
    if teacher is not None:
        tiles.append((written(teacher), f"{judged['title']} of the teacher"))
    return tiles


def _each(results: JsonView, task: str) -> Json | None:
    """A row for each label, class or number: the scores of every role, and how many examples have it."""
    columns = []
    for title, name, share in EACH[task]:
        for role in roles_of(results):
            values = numbers(results, "roles", role, "scores", name, "mean")
            if any(value is not None for value in values):
                columns.append((f"{title}, {role}", [_written(value, share) for value in values], values))
    counts = numbers(results, "test", "labels")
    if not columns or len(columns[0][1]) < 2:
        return None
    names = [str(name) for name in items(results, "test", "label_names")]
    rows = []
    for place in range(len(columns[0][1])):
        cells = [(texts[place], values[place]) for _, texts, values in columns if place < len(texts)]
        count = counts[place] if place < len(counts) else None
        rows.append({"name": names[place] if place < len(names) else str(place), "cells": cells, "count": count})
    counted = {MULTI_LABEL: "examples", SEGMENTATION: "pixels", REGRESSION: "labels"}[task]
    return {"columns": [title for title, _, _ in columns], "rows": rows, "counted": counted}


def _written(value: float | None, share: bool) -> str:
    if value is None:
        return ""
    return percent(value) if share else digits(value)


def _numbers(results: JsonView, drawn: Any) -> list[Figure]:
    """Of one number, each role's prediction over the label; a perfect one lies on the diagonal."""
    labels, place = numbers(drawn, "label"), int(number(drawn, "number") or 0)
    names = [str(name) for name in items(results, "test", "label_names")]
    name = names[place] if place < len(names) else ONE[REGRESSION]
    figures: list[Figure] = []
    each = {role: numbers(drawn, role) for role in ROLES}
    known = [v for values in (labels, *each.values()) for v in values if v is not None]
    if not known:
        return []
    low, high = min(known), max(known)
    for role, values in each.items():
        pairs = [(a, b) for a, b in zip(labels, values, strict=False) if a is not None and b is not None]
        pairs = pairs[:MOST_MARKED]
        halves = numbers(drawn, f"{role}_half_interval")
        spans = []
        if len(halves) == len(values):
            spans = [
                (a, max(low, b - h), min(high, b + h))
                for a, b, h in zip(labels, values, halves, strict=False)
                if a is not None and b is not None and h is not None
            ]
        series = [Series(role, role, pairs, False, [2.2] * len(pairs), spans=spans[:MOST_MARKED])] if pairs else []
        found = lines(
            f"{name}: {role}",
            series,
            Across("label", bounds=(low, high)),
            Up("prediction", (low, high)),
            diagonal=True,
            note="with 95 % intervals" if spans else "",
        )
        figures += [found] if found else []
    return figures
