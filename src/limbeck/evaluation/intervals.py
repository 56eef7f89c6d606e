"""A measured difference and how far chance could have moved it: intervals, words and shares from resampled values.

    low_to_high = interval(observed, draws)      # {"mean", "low", "high"}
    word_of(low_to_high)                         # "better", "worse" or "no difference shown"

Draws are values as they could have come out, had other examples been drawn or the models been trained again.

What this file does not know: models, what was measured.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.stats import norm, t

from limbeck.results import Json

LEVEL = 0.95
FEWEST_SEEDS = 3
"""Too little is known of another training from fewer."""
ROUNDING = 1e-9


def interval(value: float, draws: np.ndarray) -> dict[str, float]:
    """The value, and the quantiles between which LEVEL of the draws `[resamples]` lie."""
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(draws, [tail, 1 - tail], method="inverted_cdf")  # draws themselves: they may be infinite
    return {"mean": float(value), "low": float(low), "high": float(high)}


def word_of(difference: Mapping[str, float]) -> str:
    """The word for an interval of "how much better": "better", "worse" or "no difference shown"."""
    if difference["low"] > ROUNDING:
        return "better"
    return "worse" if difference["high"] < -ROUNDING else "no difference shown"


def with_seeds(draws: np.ndarray, by_seed: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draws `[resamples, R]` moved by what another training could have changed; as they are below FEWEST_SEEDS.

    by_seed `[S, R]`: what each training came to, R values that belong together. The deviations of S seeds are widened
    by sqrt(S / (S - 1)) * t(S - 1) / z, as Student's interval is against the naive one (the expanded percentile
    interval of Hesterberg, arXiv 1411.5279).
    """
    seeds = len(by_seed)
    if seeds < FEWEST_SEEDS:
        return draws
    upper = (1 + LEVEL) / 2
    widening = math.sqrt(seeds / (seeds - 1)) * t.ppf(upper, seeds - 1) / norm.ppf(upper)
    drawn = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=len(draws))
    moved: np.ndarray = draws + widening * (drawn / seeds @ by_seed - by_seed.mean(0))
    return moved


def gap_recovered(observed: np.ndarray, draws: np.ndarray) -> tuple[dict[str, float] | None, str | None]:
    """(student - baseline) / (teacher - baseline) with its interval; or None and why there is none.

    observed `[R]`, draws `[resamples, R]`: of student, baseline and, where there is one, teacher; higher is better.
    """
    if len(observed) < 3:
        return None, "There is no teacher."
    gained, whole = draws[:, 0] - draws[:, 1], draws[:, 2] - draws[:, 1]
    word = word_of(interval(observed[2] - observed[1], whole))
    if word != "better":
        shown = "is worse than" if word == "worse" else "is not shown to differ from"
        return None, f"The teacher {shown} the baseline, so there is no gap to recover."
    # a draw without a gap, at most one in forty, counts as beyond any share of it
    shares = np.where(whole > 0, gained / np.where(whole > 0, whole, 1.0), np.copysign(np.inf, gained))
    return interval((observed[0] - observed[1]) / (observed[2] - observed[1]), shares), None


def over_seeds(values: np.ndarray) -> Json:
    """The mean of `[seeds]`, and each."""
    return {"mean": values.mean(), "seeds": values}


def json_ready(value: Any) -> Any:
    """Plain Python values, with None for nan and infinity."""
    if isinstance(value, Mapping):
        return {str(name): json_ready(part) for name, part in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [json_ready(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
