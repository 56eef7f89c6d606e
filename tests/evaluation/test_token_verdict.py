"""The verdict over tokens: means by hand, where they come from, and intervals that hold what they promise."""

import numpy as np
import pytest

from limbeck.evaluation.intervals import gap_recovered, interval, json_ready, with_seeds, word_of
from limbeck.evaluation.token_verdict import (
    Tokens,
    frequency_bins,
    judge_tokens,
    position_bins,
    role_results,
)

NAMES = ("accuracy", "entropy", "confidence", "forward_kl", "reverse_kl", "agreement", "acceptance")


def tokens(example: list[int], **nll: list[list[float]]) -> Tokens:
    where = np.array(example)
    place = np.array([int((where[:i] == e).sum()) for i, e in enumerate(where)])
    statistics = {
        role: {"nll": np.array(values)} | {name: np.full(np.shape(values), 0.5) for name in NAMES}
        for role, values in nll.items()
    }
    return Tokens(statistics, where, place, np.array([3, 3, 3, 7][: len(where)]), int(where.max()) + 1)


def test_means_are_over_tokens_and_perplexity_is_that_of_each_seed() -> None:
    said = tokens([0, 0, 0, 1], student=[[1.0, 2.0, 3.0, 6.0], [0.0, 0.0, 0.0, 4.0]], teacher=[[0.0] * 4])
    results = role_results(said, "student")
    assert results["nll"]["seeds"].tolist() == [3.0, 1.0]
    assert results["perplexity"]["mean"] == pytest.approx((np.exp(3) + np.exp(1)) / 2)
    assert results["to_teacher"]["forward_kl"]["mean"] == 0.5
    assert [(b["from"], b["to"], b["tokens"], b["nll"]) for b in results["by_position"]] == [
        (0, 0, 2, 2.75),
        (1, 1, 1, 1.0),
        (2, 3, 1, 1.5),
    ]
    assert [(b["from"], b["to"], b["tokens"], b["nll"]) for b in results["by_frequency"]] == [(1, 2, 4, 2.0)]
    assert "forward_kl" not in role_results(said, "teacher")["by_position"][0]


def test_bins_hold_every_token_once() -> None:
    rng = np.random.default_rng(0)
    place, label = rng.integers(0, 700, 5000), rng.zipf(1.3, 5000)
    for bins in (position_bins(place), frequency_bins(label)):
        assert (np.sum([where for _, _, where in bins], 0) == 1).all()
        assert all(low <= high for low, high, _ in bins)
    counts = np.unique(label, return_counts=True)[1]
    first = frequency_bins(label)[0]
    assert first[:2] == (1, 10)
    assert first[2].sum() == np.sort(counts)[-10:].sum()


def test_the_verdict_by_hand_where_every_example_says_the_same() -> None:
    said = tokens([0, 0, 1, 2], student=[[1.0] * 4], baseline=[[1.5] * 4], teacher=[[0.5] * 4])
    verdict = judge_tokens(said)
    assert verdict["word"] == "better"
    assert verdict["difference"] == pytest.approx({"mean": 0.5, "low": 0.5, "high": 0.5})
    assert verdict["gap_recovered"] == pytest.approx({"mean": 0.5, "low": 0.5, "high": 0.5})
    assert verdict["sentence"] == (
        "The student is better than the baseline: perplexity 2.72 against 4.48, 0.500 (95 % interval 0.500 to 0.500) "
        "nats per token saved, and recovers 50 % (50 to 50 %) of the gap to the teacher. Neither is shown to be closer "
        "to the teacher: KL 0.500 against 0.500, 0.000 (95 % interval 0.000 to 0.000) less. This holds for these "
        "trained models (one seed); retraining may give another result."
    )
    worse = judge_tokens(tokens([0, 0, 1, 2], student=[[2.0] * 4], baseline=[[1.5] * 4]))
    assert worse["word"] == "worse"
    assert worse["closer"] is None
    assert worse["gap_reason"] == "There is no teacher."
    alone = judge_tokens(tokens([0, 0, 1, 2], student=[[0.0] * 4]))
    assert alone["word"] is None
    assert "perplexity is 1.00. There is no baseline" in alone["sentence"]


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    """Tokens of one example are alike: resampled token by token the interval would be far too narrow."""
    rng = np.random.default_rng(1)
    covered, runs, examples = 0, 120, 60
    for run in range(runs):
        lengths = rng.integers(1, 30, examples)
        example = np.repeat(np.arange(examples), lengths)
        saved = 0.1 + rng.normal(0, 0.3, examples)[example] + rng.normal(0, 0.3, len(example))
        said = Tokens(
            {"student": {"nll": np.zeros((1, len(example)))}, "baseline": {"nll": saved[None]}},
            example,
            np.zeros_like(example),
            example,
            examples,
        )
        found = judge_tokens(said, resamples=400, seed=run)["difference"]
        covered += found["low"] <= 0.1 <= found["high"]
    assert 0.88 <= covered / runs <= 0.99  # 95 %, +-3 standard errors of 120 runs, and a bootstrap of 60 examples


def test_seeds_widen_the_interval() -> None:
    rng = np.random.default_rng(0)
    draws = np.zeros((4000, 1))
    by_seed = np.array([[1.0], [2.0], [3.0]])
    moved = with_seeds(draws, by_seed, rng)
    # the bootstrap's variance is S^2 (S - 1) / S^2 = 2 / 9; widened by sqrt(3 / 2) * t(.975, 2) / z(.975)
    assert moved.std() == pytest.approx((2 / 9) ** 0.5 * 1.5**0.5 * 4.302653 / 1.959964, rel=0.05)
    assert with_seeds(draws, by_seed[:2], rng) is draws


def test_words_gaps_and_json() -> None:
    assert word_of({"low": 0.1, "high": 0.2}) == "better"
    assert word_of({"low": -0.1, "high": 0.2}) == "no difference shown"
    assert word_of({"low": -0.2, "high": -0.1}) == "worse"
    observed, draws = np.array([0.6, 0.5, 0.5]), np.tile([0.6, 0.5, 0.5], (50, 1))
    assert gap_recovered(observed, draws)[1] == (
        "The teacher is not shown to differ from the baseline, so there is no gap to recover."
    )
    assert interval(1.0, np.arange(1000.0)) == {"mean": 1.0, "low": 25.0, "high": 974.0}
    assert json_ready({1: np.array([1.0, np.nan]), "a": (np.int64(2), float("inf"))}) == {
        "1": [1.0, None],
        "a": [2, None],
    }
