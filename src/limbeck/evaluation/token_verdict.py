"""From what was measured at each token to results: means, perplexity, where student and teacher part, the verdict.

Better means fewer nats per token on text that none was trained on. The paired difference gets a 95 % interval by
resampling: examples are drawn as a whole, since the tokens of one are no independent witnesses, and seeds by
themselves (`limbeck.evaluation.intervals`).

What this file does not know: models, batches, files, tokens.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from limbeck.evaluation.intervals import LEVEL, gap_recovered, interval, over_seeds, with_seeds, word_of
from limbeck.evaluation.verdict import Basis, decided, undecided
from limbeck.results import Json

TO_TEACHER = ("forward_kl", "reverse_kl", "agreement", "acceptance")
OWN = ("nll", "accuracy", "entropy", "confidence")
BINNED = ("nll", "forward_kl", "acceptance")
DRAWS_AT_A_TIME = 64


@dataclass(frozen=True)
class Tokens:
    """The statistics of the N labelled tokens of a test's n examples.

    statistics: role ("teacher", "student", "baseline") -> name -> `[seeds, N]`.
    example `[N]`: which example each token is of, 0 to n - 1, in order. place `[N]`: how many labelled tokens
    precede it in its example. label `[N]`: its id.
    """

    statistics: Mapping[str, Mapping[str, np.ndarray]]
    example: np.ndarray
    place: np.ndarray
    label: np.ndarray
    examples: int


def role_results(tokens: Tokens, role: str) -> Json:
    """The means of one role, and where in the text they come from."""
    measured = tokens.statistics[role]
    means = {name: _mean(measured[name]) for name in OWN}
    perplexity = over_seeds(np.exp(means["nll"]["seeds"]))
    to_teacher = None
    if role != "teacher" and "teacher" in tokens.statistics:
        to_teacher = {name: _mean(measured[name]) for name in TO_TEACHER}
    binned = [name for name in BINNED if name == "nll" or to_teacher is not None]
    return {
        "seeds": len(measured["nll"]),
        "perplexity": perplexity,
        **means,
        "to_teacher": to_teacher,
        "by_position": _binned(measured, binned, position_bins(tokens.place)),
        "by_frequency": _binned(measured, binned, frequency_bins(tokens.label)),
    }


def judge_tokens(tokens: Tokens, resamples: int = 2000, seed: int = 0) -> Json:
    """The verdict in words and numbers: is the student better than the baseline, and is it closer to the teacher?

    difference: nats per token that the student saves against the baseline. closer: how much nearer it is in
    KL(teacher‖student). gap_recovered: (student - baseline) / (teacher - baseline) in nats per token. The word is
    "better", "worse" or "no difference shown"; None where there is no baseline.
    """
    measured = tokens.statistics
    basis = Basis(len(measured["student"]["nll"]), tokens.examples, resamples)
    if "baseline" not in measured:
        summary = f"The student's perplexity is {_perplexity(measured['student']):.2f}."
        return undecided(basis, "There is no baseline", summary, closer=None)
    roles = ["student", "baseline", "teacher"] if "teacher" in measured else ["student", "baseline"]
    rng = np.random.default_rng(seed)
    nll, nll_draws = _resample(tokens, "nll", roles, resamples, rng)
    difference = interval(nll[1] - nll[0], nll_draws[:, 1] - nll_draws[:, 0])
    closer, details = None, ""
    if "teacher" in measured:
        kl, kl_draws = _resample(tokens, "forward_kl", ["student", "baseline"], resamples, rng)
        closer = interval(kl[1] - kl[0], kl_draws[:, 1] - kl_draws[:, 0])
        details = _closeness(closer, measured)
    student, baseline = (_perplexity(measured[role]) for role in ("student", "baseline"))
    scores = f"perplexity {student:.2f} against {baseline:.2f}, {_saved(difference)} nats per token saved"
    # fewer nats are better, and gap_recovered expects that more is
    return decided(basis, difference, gap_recovered(-nll, -nll_draws), scores, details, closer=closer)


def position_bins(place: np.ndarray) -> list[tuple[int, int, np.ndarray]]:
    """`(first, last, where)` of places 0, 1, 2-3, 4-7, 8-15, ...: the tokens `[N]` bool that stand there."""
    edges = [0, *(1 << np.arange(int(place.max(initial=0)).bit_length() + 1))]
    return [(int(a), int(b) - 1, where) for a, b in pairwise(edges) if (where := (place >= a) & (place < b)).any()]


def frequency_bins(label: np.ndarray) -> list[tuple[int, int, np.ndarray]]:
    """`(first, last, where)` of the ranks 1-10, 11-100, 101-1000, ... of the test's own tokens, the commonest first."""
    ids, inverse, counts = np.unique(label, return_inverse=True, return_counts=True)
    rank = np.empty(len(ids), dtype=np.int64)
    rank[np.argsort(-counts, kind="stable")] = np.arange(1, len(ids) + 1)
    of_token, bins, low = rank[inverse], [], 1
    while low <= len(ids):
        high = 10 if low == 1 else 10 * (low - 1)
        bins.append((low, min(high, len(ids)), (of_token >= low) & (of_token <= high)))
        low = high + 1
    return bins


def _binned(
    measured: Mapping[str, np.ndarray], names: list[str], bins: list[tuple[int, int, np.ndarray]]
) -> list[Json]:
    """The ends of each bin, the number of its tokens, and the means over tokens and seeds."""
    return [
        {"from": first, "to": last, "tokens": int(where.sum())}
        | {name: measured[name][:, where].mean(dtype=np.float64) for name in names}
        for first, last, where in bins
    ]


def _resample(
    tokens: Tokens, name: str, roles: list[str], resamples: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Means over tokens of the roles: observed `[R]`, and as they could have come out `[resamples, R]`."""
    seeds = len(tokens.statistics["student"][name])
    by_seed = [tokens.statistics[role][name].mean(1, dtype=np.float64) for role in roles]
    observed = np.array([each.mean() for each in by_seed])
    by_token = (tokens.statistics[role][name].mean(0, dtype=np.float64) for role in roles)
    sums = [np.bincount(tokens.example, values, tokens.examples) for values in by_token]
    table = np.stack([*sums, np.bincount(tokens.example, minlength=tokens.examples)], 1)  # [n, R + 1]
    draws = np.empty((resamples, len(roles)))
    share = np.full(tokens.examples, 1 / tokens.examples)
    for start in range(0, resamples, DRAWS_AT_A_TIME):
        drawn = rng.multinomial(tokens.examples, share, size=min(DRAWS_AT_A_TIME, resamples - start)) @ table
        draws[start : start + len(drawn)] = drawn[:, :-1] / drawn[:, -1:]
    return observed, with_seeds(draws, np.stack([np.broadcast_to(each, seeds) for each in by_seed], 1), rng)


def _closeness(closer: Mapping[str, float], measured: Mapping[str, Mapping[str, np.ndarray]]) -> str:
    """Whether the student is closer to the teacher than the baseline is, as a sentence."""
    claim = {"better": "It is closer to the teacher", "worse": "It is further from the teacher"}.get(
        word_of(closer), "Neither is shown to be closer to the teacher"
    )
    student, baseline = (measured[role]["forward_kl"].mean(dtype=np.float64) for role in ("student", "baseline"))
    return f"{claim}: KL {student:.3f} against {baseline:.3f}, {_saved(closer)} less."


def _saved(difference: Mapping[str, float]) -> str:
    return (
        f"{difference['mean']:.3f} ({100 * LEVEL:.0f} % interval {difference['low']:.3f} to {difference['high']:.3f})"
    )


def _perplexity(measured: Mapping[str, np.ndarray]) -> float:
    return float(np.exp(measured["nll"].mean(1, dtype=np.float64)).mean())


def _mean(values: np.ndarray) -> Json:
    return over_seeds(values.mean(1, dtype=np.float64))
