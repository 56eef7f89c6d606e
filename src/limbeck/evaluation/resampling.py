"""Scores of all models on the same resampled test sets: intervals of each, and the differences that verdicts rest on.

    measured = resampled({"student": [score_of_seed_0, ...], "baseline": [...]}, examples=n)
    measured.summary("student", "f1_macro")            # {"mean", "seeds", "low", "high"}
    measured.judged("f1_macro", better=1)              # observed [R], draws [resamples, R], for a verdict

A score function takes the weights of the examples, `[resamples, n]`, and returns named scores `[resamples]`, or
`[resamples, parts]` of several parts, such as classes.

What this file does not know: what a score is.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from limbeck.evaluation.intervals import interval, over_seeds, with_seeds
from limbeck.results import Json

ScoreFunction = Callable[[np.ndarray], Mapping[str, np.ndarray]]

WEIGHTS_AT_A_TIME = 500_000
"""Examples of all resamples of a chunk."""
MOST_WEIGHTS = 5_000_000
FEWEST_RESAMPLES = 200
"""With many examples there are fewer resamples, down to this number, so that they take seconds."""


@dataclass(frozen=True)
class Resampled:
    """Scores by role and name: `observed` `[S, ...]` of each seed, `draws` `[resamples, ...]`, the means over seeds."""

    observed: dict[str, dict[str, np.ndarray]]
    draws: dict[str, dict[str, np.ndarray]]
    resamples: int
    seed: int

    def summary(self, role: str, name: str) -> Json | None:
        """The mean over seeds, each seed, and the ends of the interval over examples and seeds; None where unknown."""
        each = self.observed[role][name]
        if np.isnan(each).all():
            return None
        parts = each.reshape(len(each), -1)
        moved = with_seeds(self.draws[role][name].reshape(self.resamples, -1), parts, np.random.default_rng(self.seed))
        ends = np.array([_ends(column) for column in moved.T])  # [parts, 2]
        if each.ndim == 1:
            return over_seeds(each) | {"low": ends[0, 0], "high": ends[0, 1]}
        return {"mean": each.mean(0), "low": ends[:, 0], "high": ends[:, 1]}

    def judged(self, name: str, better: int) -> tuple[np.ndarray, np.ndarray]:
        """`better` times the score of student, baseline and teacher, where these have it: `[R]`, `[resamples, R]`."""
        roles = ["student"] + [
            role
            for role in ("baseline", "teacher")
            if role in self.observed and not np.isnan(self.observed[role][name]).all()
        ]
        observed = np.array([self.observed[role][name].mean() for role in roles])
        draws = np.stack([self.draws[role][name] for role in roles], 1)
        seeds = len(self.observed["student"][name])
        by_seed = np.stack([np.broadcast_to(self.observed[role][name], seeds) for role in roles], 1)
        return better * observed, better * with_seeds(draws, by_seed, np.random.default_rng(self.seed))


def resampled(
    functions: Mapping[str, Sequence[ScoreFunction]], examples: int, resamples: int = 2000, seed: int = 0
) -> Resampled:
    """Scores of each role's models on the test itself, and on tests of as many examples drawn from it.

    functions: role -> one score function per seed. examples: n, at least 1.
    """
    resamples = max(min(resamples, MOST_WEIGHTS // examples), min(resamples, FEWEST_RESAMPLES))
    whole = np.ones((1, examples))
    observed = {
        role: _stacked([{name: value[0] for name, value in function(whole).items()} for function in each])
        for role, each in functions.items()
    }
    rng = np.random.default_rng(seed)
    parts: dict[str, list[dict[str, np.ndarray]]] = {role: [] for role in functions}
    at_a_time = max(1, WEIGHTS_AT_A_TIME // examples)
    for start in range(0, resamples, at_a_time):
        weights = drawn_weights(rng, min(at_a_time, resamples - start), examples)
        for role, each in functions.items():
            stacked = _stacked([function(weights) for function in each])
            parts[role].append({name: values.mean(0) for name, values in stacked.items()})
    draws = {
        role: {name: np.concatenate([part[name] for part in found]) for name in found[0]}
        for role, found in parts.items()
    }
    return Resampled(observed, draws, resamples, seed)


def drawn_weights(rng: np.random.Generator, resamples: int, examples: int) -> np.ndarray:
    """How often each example is drawn, `[resamples, n]`, of n draws with replacement in each resample."""
    drawn = rng.integers(examples, size=(resamples, examples)) + examples * np.arange(resamples)[:, None]
    counts = np.bincount(drawn.ravel(), minlength=resamples * examples)
    return counts.reshape(resamples, examples).astype(np.float64)


def _ends(draws: np.ndarray) -> tuple[float, float]:
    """The ends of the interval of draws `[resamples]`; nan where most draws are unknown."""
    known = draws[~np.isnan(draws)]
    if 2 * len(known) < len(draws):
        return math.nan, math.nan
    found = interval(0.0, known)
    return found["low"], found["high"]


def _stacked(each: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The scores of several seeds, `[S, ...]` each."""
    return {name: np.stack([one[name] for one in each]) for name in each[0]}
