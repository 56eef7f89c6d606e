"""What the page of a classifier shows: calibration, classes, disagreements, dark knowledge, the temperature explorer.

What this file does not know: how it is laid out.
"""

import base64
import binascii
import io
import math
from collections.abc import Mapping
from typing import Any

from limbeck.report.figures import Across, Figure, Series, Up, lines
from limbeck.report.heat import heat_map
from limbeck.report.held_out import seen
from limbeck.report.reading import at, class_name, items, matrix, number, numbers, temperature_of, weights_of
from limbeck.report.shared import (
    OF_EQ2,
    Line,
    chosen_temperature,
    difference_figure,
    divergence_of,
    judged_score,
    role_table,
    roles_of,
    score_of,
    smaller,
)
from limbeck.report.words import digits, percent, plain, points, short, size, whole
from limbeck.results import Json, JsonView

MOST_TEXT, MOST_PAIRS, LIKELIEST, SHORT_NAME = 400, 10, 3, 8
MOST_SIDE = 160
"""Pixels of an image's longer side; a larger one is made smaller, so that sixteen of them leave the page light."""

MEASURES: list[tuple[str, list[Line]]] = [
    (
        "Quality",
        [
            ("right", ("accuracy",), lambda v: percent(v, 2), 1),
            ("errors", ("errors",), whole, -1),
            ("balanced accuracy", ("scores", "balanced_accuracy"), lambda v: percent(v, 2), 1),
            ("F1, macro", ("scores", "f1_macro"), lambda v: percent(v, 2), 1),
            ("ROC-AUC", ("scores", "roc_auc"), digits, 1),
            ("NLL, nats", ("nll",), digits, -1),
            ("Brier score", ("brier",), digits, -1),
        ],
    ),
    (
        "Calibration",
        [
            ("confidence", ("confidence",), lambda v: percent(v, 2), 0),
            ("calibration error (ECE)", ("ece",), digits, -1),
            ("ECE after temperature scaling", ("scaled", "ece"), digits, -1),
            ("its calibration temperature", ("scaled", "temperature"), digits, 0),
        ],
    ),
    (
        "Likeness to the teacher",
        [
            ("same answer", ("to_teacher", "agreement"), lambda v: percent(v, 2), 1),
            ("where the teacher is right", ("to_teacher", "agreement_where_teacher_right"), lambda v: percent(v, 2), 1),
            ("where the teacher is wrong", ("to_teacher", "agreement_where_teacher_wrong"), lambda v: percent(v, 2), 0),
            ("KL(teacher‖\u200bmodel), nats", ("to_teacher", "forward_kl"), digits, -1),
            ("KL(model‖\u200bteacher), nats", ("to_teacher", "reverse_kl"), digits, -1),
        ],
    ),
    (
        "Cost",
        [
            ("parameters", ("parameters",), whole, 0),
            ("size", ("bytes",), size, 0),
            ("ms per example, one at a time", ("latency_ms", "batch_1"), digits, 0),
            ("ms per example, batches of 256", ("latency_ms", "batch_256"), digits, 0),
        ],
    ),
]


def sections(results: JsonView) -> Json:
    """All that the template draws of a classifier; what the results do not hold is empty or None."""
    test = at(results, "test")
    examples, classes = number(test, "examples") or 0, number(test, "classes") or 0
    accuracy = {role: number(results, "roles", role, "accuracy") for role in roles_of(results)}
    judged = judged_score(results)
    teacher, baseline = (score_of(results, role, judged["name"]) for role in ("teacher", "baseline"))
    gap = None if teacher is None or baseline is None else teacher - baseline
    of_what = "points of accuracy over" if judged["name"] == "accuracy" else f"{judged['title']}, above"
    return {
        "subject": f"{examples:,.0f} test examples, {classes:,.0f} classes",
        "interval": difference_figure(results, gap, f"{of_what} the baseline", points if judged["share"] else plain),
        "tiles": _tiles(results, accuracy),
        "table": role_table(results, MEASURES),
        "reliability": [drawn for role in roles_of(results) if (drawn := _reliability(results, role))],
        "seen": seen(results),
        "unscaled": at(results, "roles", "student", "scaled_reason"),
        "classes": _classes(results),
        "disagreements": _disagreements(results),
        "cards": [_card(results, example) for example in items(results, "examples") if _distributions(example)],
        "dark": _dark(results),
        "explorer": _explorer(results),
    }


def _tiles(results: JsonView, accuracy: Mapping[str, float | None]) -> list[tuple[str, str]]:
    tiles = []
    student, teacher = accuracy.get("student"), accuracy.get("teacher")
    if student is not None and teacher is not None:
        tiles.append((points(student - teacher), f"points from the teacher, which gets {percent(teacher)} right"))
    agreement = number(results, "roles", "student", "to_teacher", "agreement")
    if agreement is not None:
        tiles.append((percent(agreement), "of its answers are the teacher's"))
    return tiles + smaller(results)


def _reliability(results: JsonView, role: str) -> Figure | None:
    """Accuracy over confidence, a dot per bin, its area the share of examples; before and after scaling."""
    series = []
    for name, path, dashed in (("as it is", (), True), ("after temperature scaling", ("scaled",), False)):
        bins = at(results, "roles", role, *path, "calibration")
        count, sure, right = (numbers(bins, part) for part in ("count", "confidence", "accuracy"))
        known = [
            (c, (a, b))
            for c, a, b in zip(count, sure, right, strict=False)
            if c is not None and a is not None and b is not None and c > 0
        ]
        total = sum(c for c, _ in known)
        radii = [1.5 + 9 * math.sqrt(c / total) for c, _ in known]
        series.append(Series(name, role, [point for _, point in known], dashed, radii))
    series = [one for one in series if one.points]
    ece = [number(results, "roles", role, *path, "ece") for path in ((), ("scaled",))]
    note = "ECE " + " → ".join(plain(value) for value in ece if value is not None) if ece[0] is not None else ""
    if len(series) == 1:
        series = [Series(series[0].name, role, series[0].points, False, series[0].radii)]
    return lines(
        role.capitalize(),
        series,
        Across("confidence", bounds=(0.0, 1.0)),
        Up("share right", (0.0, 1.0)),
        diagonal=True,
        note=note,
    )


def _classes(results: JsonView) -> Json | None:
    """A row per class, the largest loss first: shares that each role gets right, and the change."""
    counts = numbers(results, "test", "per_class")
    right = {role: numbers(results, "roles", role, "correct_per_class") for role in roles_of(results)}
    right = {role: found for role, found in right.items() if len(found) == len(counts)}
    if "student" not in right or not any(counts):
        return None
    against = next((role for role in ("baseline", "teacher") if role in right), None)
    f1 = {end: numbers(results, "roles", "student", "scores", "f1_per_class", end) for end in ("mean", "low", "high")}
    rows: list[Json] = []
    for c, count in enumerate(counts):
        if count:
            shares = {role: found[c] for role, found in right.items()}
            known = {role: None if value is None else value / count for role, value in shares.items()}
            ours, other = known["student"], known.get(against or "")
            change = None if ours is None or other is None else ours - other
            ends = [f1[end][c] if c < len(f1[end]) else None for end in ("mean", "low", "high")]
            rows.append({"name": class_name(results, c), "count": count, "shares": known, "change": change, "f1": ends})
    rows.sort(key=lambda row: row["change"] or 0.0)
    most = max((abs(row["change"]) for row in rows if row["change"] is not None), default=0.0) or 1.0
    return {"roles": list(right), "against": against, "rows": rows, "most": most, "f1": bool(f1["mean"])}


def _disagreements(results: JsonView) -> Json | None:
    """Teacher against student, without what they agree on; and the pairs that they part on most."""
    counts = matrix(results, "confusion")
    if not counts:
        return None
    names = [class_name(results, c) for c in range(len(counts))]
    pairs = [(v, names[i], names[j]) for i, row in enumerate(counts) for j, v in enumerate(row) if i != j and v]
    pairs.sort(key=lambda pair: -pair[0])
    total, apart = sum(v or 0 for row in counts for v in row), sum(v for v, _, _ in pairs)
    return {
        "map": heat_map("Where they part", counts, names, "teacher says", "student says", whole, whole),
        "pairs": pairs[:MOST_PAIRS],
        "apart": apart,
        "share": apart / total if total else 0.0,
    }


def _distributions(example: Any) -> dict[str, list[float]]:
    """Role -> probabilities of the example's listed classes, where it says them of teacher and student."""
    listed = items(example, "classes")
    found = {role: numbers(example, "log_probs", role) for role in ("teacher", "student", "baseline")}
    probs = {
        role: [0.0 if v is None else math.exp(min(v, 0.0)) for v in log_probs]  # null is the log of 0
        for role, log_probs in found.items()
        if log_probs and len(log_probs) == len(listed)
    }
    return probs if {"teacher", "student"} <= probs.keys() and all(isinstance(c, int) for c in listed) else {}


def _card(results: JsonView, example: JsonView) -> Json:
    """An example, and the likeliest classes of each role."""
    probs, listed = _distributions(example), items(example, "classes")
    predictions = []
    for role, ps in probs.items():
        best = sorted(range(len(ps)), key=lambda i: -ps[i])[:LIKELIEST]
        predictions.append((role, [(class_name(results, listed[i]), ps[i]) for i in best]))
    label = at(example, "label")
    return {
        "row_id": _row_id(example),
        "label": class_name(results, label) if isinstance(label, int) else None,
        "kl": number(example, "forward_kl"),
        "image": _image(at(example, "image")),
        "text": short(str(at(example, "text")), MOST_TEXT) if at(example, "text") else None,
        "predictions": predictions,
        "long": any(len(name) > SHORT_NAME for _, likeliest in predictions for name, _ in likeliest),
    }


def _row_id(example: JsonView) -> str:
    found = at(example, "row_id")
    return str(found) if isinstance(found, int | str) else "?"


def _image(encoded: Any) -> str | None:
    """A PNG in base64, made smaller where it is large; None for anything else."""
    from PIL import Image

    try:
        picture = Image.open(io.BytesIO(base64.b64decode(encoded, validate=True)), formats=["PNG"])
        if max(picture.size) > MOST_SIDE:
            picture.thumbnail((MOST_SIDE, MOST_SIDE))
            file = io.BytesIO()
            picture.save(file, "PNG", optimize=True)
            return base64.b64encode(file.getvalue()).decode("ascii")
    except (TypeError, ValueError, binascii.Error, OSError, Image.DecompressionBombError):
        return None
    return str(encoded)


def _dark(results: JsonView) -> Json | None:
    """The teacher's targets over T: entropy, mass off the top class, gradients; and the map of the chosen T."""
    known = at(results, "dark_knowledge")
    temperatures = [t for t in numbers(known, "temperatures") if t is not None and t > 0]
    if not temperatures:
        return None
    mark = None if (wanted := temperature_of(results)) is None else (wanted, f"T = {plain(wanted)}")
    classes = number(results, "test", "classes") or 0

    def curve(name: str, kind: str, *path: str) -> Series:
        values = zip(temperatures, numbers(known, *path), strict=False)
        return Series(name, kind, [(t, v) for t, v in values if v is not None])

    entropy = [curve("targets", "teacher", "entropy")]
    if classes > 1:
        entropy.append(Series("all classes alike", "baseline", [(t, math.log(classes)) for t in temperatures], True))
    across = Across("temperature", log=True)

    def of_all(label: str) -> Up:
        return Up(label, (0.0, 1.0), lambda v: percent(v, 0))

    shares = _shares(results, known, temperatures)
    drawn = [
        lines("Entropy of the targets", entropy, across, Up("nats"), mark=mark),
        lines(
            "Mass off the top class",
            [curve("targets", "teacher", "off_top")],
            across,
            of_all("probability"),
            mark=mark,
        ),
        lines("Share of the gradient that is soft", shares, across, of_all("soft term's share"), mark=mark),
    ]
    chosen = chosen_temperature(results, temperatures)
    targets = _targets(known, temperatures.index(chosen), int(classes))
    names = [class_name(results, c) for c in range(len(targets))]
    return {
        "figures": [one for one in drawn if one],
        "map": heat_map(
            f"Mean target at T = {plain(chosen)}",
            *(targets, names, "teacher says", "and means also"),
            plain,
            _hundredths,
            "The classes are in the order of a clustering: alike ones stand together." if len(names) > 40 else "",
        ),
        "chosen": chosen,
    }


def _hundredths(share: float) -> str:
    """0.4631 is .46, as short as a cell is narrow."""
    return f"{share:.2f}".removeprefix("0") if share >= 0.005 else "0"


def _shares(results: JsonView, known: Any, temperatures: list[float]) -> list[Series]:
    """The soft term's share of the gradient, at the run's weights; nothing without a hard term."""
    soft_weight, hard_weight = weights_of(results)
    soft_weight = 1.0 if soft_weight is None else soft_weight
    if not hard_weight or divergence_of(results) not in OF_EQ2:
        return []
    series = []
    for who, name, kind, dashed in (
        ("untrained", "at the start", "baseline", True),
        ("student", "at the end", "student", False),
    ):
        soft, hard = numbers(known, "gradient", who, "soft"), number(known, "gradient", who, "hard")
        if hard is not None:
            weighed = [(t, soft_weight * s, hard_weight * hard) for t, s in zip(temperatures, soft, strict=False) if s]
            series.append(Series(name, kind, [(t, s / (s + h)) for t, s, h in weighed], dashed))
    return series


def _targets(known: Any, place: int, classes: int) -> list[list[float | None]]:
    """The mean targets at that place, of all classes; where only the likeliest are kept, the others are 0."""
    full = items(known, "mean_targets")
    if place < len(full):
        return matrix({"": full[place]}, "")
    listed, means = (items(known, "likeliest", name) for name in ("classes", "mean"))
    if place >= min(len(listed), len(means)) or not 0 < classes <= 1000:
        return []
    targets: list[list[float | None]] = [[0.0] * classes for _ in range(classes)]
    for row, (ids, values) in enumerate(zip(listed[place], means[place], strict=False)):
        for c, value in zip(ids, values, strict=False):
            if row < classes and isinstance(c, int) and 0 <= c < classes:
                targets[row][c] = number({"": value}, "")
    return targets


def _explorer(results: JsonView) -> Json | None:
    """What the script needs: the examples whose log-probabilities are of all classes; null is -inf."""
    classes = number(results, "test", "classes")
    examples = []
    drawn = [example for example in items(results, "examples") if _distributions(example)]
    for card, example in enumerate(drawn):
        listed = items(example, "classes")
        if classes == len(listed) and listed == list(range(len(listed))):
            label = at(example, "label")
            examples.append(
                {
                    "card": card,
                    "row_id": _row_id(example),
                    "label": class_name(results, label) if isinstance(label, int) else None,
                    "teacher": numbers(example, "log_probs", "teacher"),
                    "student": numbers(example, "log_probs", "student"),
                }
            )
    if not examples:
        return None
    names = [class_name(results, c) for c in range(int(classes or 0))]
    return {"names": names, "temperature": temperature_of(results) or 1.0, "examples": examples}
