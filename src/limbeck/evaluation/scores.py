"""Scores of a whole test set whose examples count with weights: what a verdict can be asked for, beside accuracy.

    class_scores(labels, predicted, 3, weights)["f1_macro"]     # [R], for weights [R, n]
    roc_auc(scores, positive, weights)                           # [R]

`weights [R, n]` say how often each example counts, in R resamples of the test at once; ones give the score of the test
itself. Definitions are scikit-learn's, whose functions take one `sample_weight` at a time and are too slow for 2,000.

What this file does not know: models, how weights are drawn, verdicts.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from scipy.sparse import csr_array

from limbeck.errors import ConfigError
from limbeck.results import Json

Values = np.ndarray
MOST_CLASSES_RANKED = 100
"""Up to this many classes: ROC-AUC, which needs every class's probability of every example."""


@dataclass(frozen=True)
class Score:
    """What is known of a score: its name in results, its title in tables, and how it is read.

    share: whether it is written in percent. better: 1 where more is better, -1 where less is, 0 where a verdict cannot
        be asked of it.
    """

    name: str
    title: str
    share: bool = True
    better: int = 1


def described(scores: tuple[Score, ...]) -> list[Json]:
    """The scores as results list them, for whoever draws them."""
    return [asdict(score) for score in scores]


def score_named(name: str | None, scores: Sequence[Score]) -> Score:
    """The score of this name, the first for None; ConfigError for a name that none of them has."""
    if name is None:
        return scores[0]
    judged = [score for score in scores if score.better]
    for score in judged:
        if score.name == name:
            return score
    names = ", ".join(score.name for score in judged)
    raise ConfigError(f"judge_by (--judge_by) must be one of {names} for this data, but is {name!r}.")


CLASS_SCORES = (
    Score("accuracy", "right"),
    Score("balanced_accuracy", "balanced accuracy"),
    Score("f1_macro", "F1, macro"),
    Score("roc_auc", "ROC-AUC", share=False),
)
"""The scores of a classifier with one class per example. The first is the one that a verdict is about by default."""


def class_scores(
    labels: Values, predicted: Values, classes: int, weights: Values, probs: Values | None = None
) -> dict[str, Values]:
    """accuracy, balanced_accuracy, f1_macro `[R]` and f1_per_class `[R, C]`; roc_auc `[R]` where there are `probs`.

    labels, predicted: classes `[n]`. probs `[n, C]`: scores that rank the examples for each class.

    balanced_accuracy: the mean recall of the classes that have an example. f1: 2 TP / (examples + predictions) of each
    class, nan for a class that has neither; f1_macro is the mean of the others. roc_auc: of class 1 where there are two
    classes; else the mean of one class against the rest over the classes that have an example (Fawcett 2006).
    """
    right = labels == predicted
    true_positives = _per_class(labels[right], classes, weights[:, right])
    examples, predictions = (_per_class(of, classes, weights) for of in (labels, predicted))
    with np.errstate(invalid="ignore"):
        recall = true_positives / examples
        f1 = 2 * true_positives / (examples + predictions)
        found = {
            "accuracy": weights @ right / weights.sum(1),
            "balanced_accuracy": mean_of_known(recall),
            "f1_macro": mean_of_known(f1),
            "f1_per_class": f1,
        }
    if probs is not None:
        ranked = [1] if classes == 2 else np.unique(labels)
        by_example = np.ascontiguousarray(weights.T, dtype=np.float64)
        found["roc_auc"] = mean_of_known(np.stack([_roc_auc(probs[:, c], labels == c, by_example) for c in ranked], 1))
    return found


def roc_auc(scores: Values, positive: Values, weights: Values) -> Values:
    """The area under the ROC curve `[R]`: how often a positive example has the higher score; ties count half.

    scores `[n]`; positive `[n]` bool. nan where all examples of a resample are positive, or none is.
    """
    return _roc_auc(scores, positive, np.ascontiguousarray(weights.T, dtype=np.float64))


def _roc_auc(scores: Values, positive: Values, weights: Values) -> Values:
    """The same for weights `[n, R]`, which are faster to put in order."""
    order = np.argsort(scores, kind="stable")
    ranked = scores[order]
    starts = np.append(0, 1 + np.flatnonzero(ranked[1:] != ranked[:-1]))
    placed = weights[order]
    is_positive = positive[order]
    whole, positives = placed.sum(0), placed[is_positive].sum(0)
    if len(starts) < len(order):
        places = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(order)))[is_positive]
        negative = np.add.reduceat(np.where(is_positive[:, None], 0.0, placed), starts, axis=0)
        below = (negative.cumsum(0) - negative / 2)[places]
    else:  # no ties
        below = np.where(is_positive[:, None], 0.0, placed).cumsum(0)[is_positive]
    with np.errstate(invalid="ignore"):
        area: Values = (placed[is_positive] * below).sum(0) / (positives * (whole - positives))
    return area


def _per_class(of: Values, classes: int, weights: Values) -> Values:
    """The weight of each class's examples, `[R, C]`, for their classes `of [n]`."""
    members = csr_array((np.ones(len(of)), of, np.arange(len(of) + 1)), shape=(len(of), classes))
    totals: Values = np.asarray((members.T @ weights.T.astype(np.float64)).T)
    return totals


def mean_of_known(values: Values) -> Values:
    """The mean of each row of `[R, C]` over what is not nan; nan where all is."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        mean: Values = np.where(known, values, 0.0).sum(1) / known.sum(1)
    return mean
