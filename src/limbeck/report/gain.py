"""Whether the gain of a better student is large enough to matter: that chance does not explain it is not all.

What this file does not know: how the difference was measured, what a page looks like.
"""

import math

from limbeck.report.reading import at, number
from limbeck.report.shared import judged_score, score_of
from limbeck.report.words import percent, plain, points, short
from limbeck.results import JsonView

LEAST_OF_GAP = 0.005
"""The share of the gap to the teacher from which a gain matters. Less is written as 0 %: distillation changed next to
nothing of what it could have changed, even where a large test shows that the difference is no accident."""

LEAST_OF_REST = 0.01
"""Where no gap is known, the share of the baseline's errors (of its perplexity, for text) from which a gain matters.
Below 1 % nobody notices the difference in use, and training again with another seed usually moves the score by more."""


def negligible(results: JsonView) -> str | None:
    """How little a better student is better, in words, where that does not matter; None for all other results."""
    if at(results, "verdict", "word") != "better":
        return None
    gap = number(results, "verdict", "gap_recovered")
    if gap is not None:
        return f"{percent(max(gap, 0.0), 0)} of the gap to the teacher" if gap < LEAST_OF_GAP else None
    difference = number(results, "verdict", "difference")
    if difference is None:
        return None
    if at(results, "task") == "language":
        # a difference in nats is the logarithm of a ratio of perplexities
        ours, theirs = (number(results, "roles", role, "perplexity") for role in ("student", "baseline"))
        if difference >= math.log1p(LEAST_OF_REST) or ours is None or theirs is None:
            return None
        return f"perplexity {ours:.2f} against {theirs:.2f}"
    judged = judged_score(results)
    baseline = score_of(results, "baseline", judged["name"])
    if baseline is None:
        return None
    rest = abs(baseline) if judged["better"] < 0 else 1.0 - baseline  # a perfect model has 0, or 1
    if rest <= 0 or difference >= LEAST_OF_REST * rest:
        return None
    return (
        f"{points(difference, 2)} points"
        if judged["share"]
        else f"{short(str(judged['title']), 40)} {plain(difference)} better"
    )
