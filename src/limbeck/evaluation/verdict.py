"""The verdict that both tasks share: is the student better than the baseline, as a dict and as a sentence in it.

    verdict = decided(basis, difference, gap_recovered(observed, draws), scores="81.2 % against 79.0 % right")
    verdict["word"]                       # "better", "worse", "no difference shown"; None where there is no baseline
    verdict["sentence"]

What this file does not know: accuracies, perplexities, how the difference was resampled.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from limbeck.evaluation.intervals import FEWEST_SEEDS, LEVEL, gap_recovered, interval, word_of
from limbeck.evaluation.resampling import Resampled
from limbeck.evaluation.scores import Score
from limbeck.results import Json, JsonView

CLAIMS = {
    "better": "The student is better than the baseline",
    "worse": "The student is worse than the baseline",
    "no difference shown": "No difference between student and baseline is shown",
}


@dataclass(frozen=True)
class Basis:
    """The basis of a verdict: the numbers of seeds, of test examples and of resamples."""

    seeds: int
    examples: int
    resamples: int


def undecided(basis: Basis, missing: str, summary: str = "", **more: Any) -> Json:
    """The verdict where student and baseline cannot be compared.

    missing: why, a clause such as "There is no baseline". summary: what is known of the student, a sentence.
    more: as for `decided`.
    """
    sentence = f"{summary} {missing}, so the student is not judged.".lstrip()
    return _fields(basis, sentence=sentence, gap_reason=f"{missing}.", more=more)


def decided(
    basis: Basis,
    difference: Mapping[str, float],
    gap: tuple[Mapping[str, float] | None, str | None],
    scores: str,
    details: str = "",
    **more: Any,
) -> Json:
    """The verdict on a measured difference.

    difference: by how much the student is better, as `intervals.interval` returns it. gap: `intervals.gap_recovered`.
    scores: what student and baseline achieved, in words. details: a further sentence.
    more: fields that one task has beyond the others, JSON-ready; they follow `difference`.
    """
    word, (recovered, gap_reason) = word_of(difference), gap
    sentence = f"{CLAIMS[word]}: {scores}"
    if recovered is not None and word == "better":
        mean, low, high = (100 * recovered[name] for name in ("mean", "low", "high"))
        sentence += f", and recovers {mean:.0f} % ({low:.0f} to {high:.0f} %) of the gap to the teacher"
    sentence += f". {details}".rstrip() if details else "."
    if basis.seeds < FEWEST_SEEDS:
        seeds = "one seed" if basis.seeds == 1 else f"{basis.seeds} seeds"
        sentence += f" This holds for these trained models ({seeds}); retraining may give another result."
    return _fields(basis, word, sentence, difference, recovered, gap_reason, more)


def verdict_of_score(score: Score, measured: Resampled, examples: int) -> Json:
    """The verdict on a score that was resampled; undecided where there is no baseline.

    examples: on how many the scores rest.
    """
    name, better = score.name, score.better
    basis = Basis(len(measured.observed["student"][name]), examples, measured.resamples)
    roles = [role for role in ("student", "baseline") if role in measured.observed]
    if any(np.isnan(measured.observed[role][name]).all() for role in roles):
        return undecided(basis, f"The {score.title} is not defined for this test")
    observed, draws = measured.judged(name, better)
    written = [_written(score, better * value) for value in observed[:2]]
    if "baseline" not in measured.observed:
        return undecided(basis, "There is no baseline", f"The student's {score.title} is {written[0]}.")
    difference = interval(observed[0] - observed[1], draws[:, 0] - draws[:, 1])
    low, mean, high = (_signed(score, difference[end]) for end in ("low", "mean", "high"))
    unit = " points" if score.share else ""
    scores = (
        f"{score.title} {written[0]} against {written[1]}, {mean}{unit} ({100 * LEVEL:.0f} % interval {low} to {high})"
    )
    if better < 0:
        scores = f"{scores}, positive where the student's is lower"
    return decided(basis, difference, gap_recovered(observed, draws), scores)


def _written(score: Score, value: float) -> str:
    return f"{100 * value:.1f} %" if score.share else f"{value:.4g}"


def _signed(score: Score, difference: float) -> str:
    return f"{100 * difference:+.1f}" if score.share else f"{difference:+.3g}"


def _fields(
    basis: Basis,
    word: str | None = None,
    sentence: str = "",
    difference: Mapping[str, float] | None = None,
    recovered: Mapping[str, float] | None = None,
    gap_reason: str | None = None,
    more: JsonView | None = None,
) -> Json:
    """The fields of a verdict, in the order of the file."""
    return {
        "word": word,
        "sentence": sentence,
        "difference": difference,
        **(more or {}),
        "gap_recovered": recovered,
        "gap_reason": gap_reason,
        "level": LEVEL,
        "seeds": basis.seeds,
        "seeds_resampled": basis.seeds >= FEWEST_SEEDS,
        "examples": basis.examples,
        "resamples": basis.resamples,
    }
