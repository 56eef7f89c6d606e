"""Scores of tasks beyond one class an example: several labels, classes of pixels, numbers.

    label_scores(labels, probs, weights)["f1_macro"]            # [R], for weights [R, n]
    pixel_scores(confusion, nll, weights)["miou"]
    number_scores(labels, mean, log_variance, weights)["r2"]

`weights [R, n]` say how often each example counts, as in limbeck.evaluation.scores. Definitions are scikit-learn's.

What this file does not know: models, how weights are drawn, verdicts.
"""

import numpy as np

from limbeck.evaluation.scores import CLASS_SCORES, Score, Values, mean_of_known, roc_auc
from limbeck.losses.numbers import NO_LABEL
from limbeck.losses.targets.gaussian import LOG_2_PI
from limbeck.networks.outputs import CLASSIFICATION, MULTI_LABEL, REGRESSION, SEGMENTATION

LABEL_SCORES = (
    Score("f1_macro", "F1, macro"),
    Score("f1_micro", "F1, micro"),
    Score("roc_auc", "ROC-AUC, mean of labels", share=False),
    Score("exact_match", "all labels right"),
    Score("nll", "NLL per label, nats", share=False, better=-1),
    Score("brier", "Brier score per label", share=False, better=-1),
)
PIXEL_SCORES = (
    Score("miou", "mIoU"),
    Score("accuracy", "pixels right"),
    Score("nll", "NLL per pixel, nats", share=False, better=-1),
)
NUMBER_SCORES = (
    Score("r2", "R²", share=False),
    Score("mae", "mean absolute error", share=False, better=-1),
    Score("rmse", "root mean squared error", share=False, better=-1),
    Score("nll", "NLL, nats", share=False, better=-1),
    Score("coverage", "within the 95 % interval", better=0),
    Score("z_variance", "squared error over variance", share=False, better=0),
)
TASK_SCORES = {
    CLASSIFICATION: CLASS_SCORES,
    MULTI_LABEL: LABEL_SCORES,
    SEGMENTATION: PIXEL_SCORES,
    REGRESSION: NUMBER_SCORES,
}
"""The scores of each task. The first is the one that a verdict is about by default; `better=0` cannot be judged by."""

Z_95 = 1.959963984540054


def label_scores(labels: Values, probs: Values, weights: Values) -> dict[str, Values]:
    """The LABEL_SCORES `[R]`, and f1_per_label and auc_per_label `[R, L]`.

    labels `[n, L]`: 0, 1 or -100, which is left out. probs `[n, L]`: the probability of 1; 0.5 and more predicts 1.

    f1 of a label that is never there nor predicted is nan, and left out of the mean. exact_match: the share of examples
    whose known labels are all right.
    """
    known = labels != NO_LABEL
    true = (labels == 1) & known
    predicted = (probs >= 0.5) & known
    hits, there, said = (weights @ x.astype(np.float64) for x in (true & predicted, true, predicted))
    counts = weights @ known.sum(1, dtype=np.float64)
    right = ((true == predicted) | ~known).all(1) & known.any(1)
    p = np.clip(np.where(true, probs, 1 - probs).astype(np.float64), np.finfo(np.float32).tiny, 1.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        f1 = 2 * hits / (there + said)
        auc = np.stack(
            [roc_auc(probs[k, i], true[k, i], weights[:, k]) for i, k in enumerate(known.T)], 1
        )  # fmt: skip
        return {
            "f1_macro": mean_of_known(f1),
            "f1_micro": 2 * hits.sum(1) / (there + said).sum(1),
            "roc_auc": mean_of_known(auc),
            "exact_match": weights @ right / (weights @ known.any(1)),
            "nll": weights @ np.where(known, -np.log(p), 0.0).sum(1) / counts,
            "brier": weights @ np.where(known, 2 * (1 - p) ** 2, 0.0).sum(1) / counts,
            "f1_per_label": f1,
            "auc_per_label": auc,
        }


def pixel_scores(confusion: Values, nll: Values, weights: Values) -> dict[str, Values]:
    """The PIXEL_SCORES `[R]`, and iou_per_class `[R, C]`.

    confusion `[n, C, C]`: pixels of each image by (label, prediction), those without a label left out.
    nll `[n]`: the sum over an image's labelled pixels, in nats.

    IoU (Jaccard): pixels of a class that are right / pixels that have it as label or prediction, over all images; a
    class without any is nan, and left out of the mean.
    """
    examples, classes = confusion.shape[:2]
    counts = (weights @ confusion.reshape(examples, -1).astype(np.float64)).reshape(-1, classes, classes)
    right = np.diagonal(counts, axis1=1, axis2=2)
    pixels = counts.sum((1, 2))
    with np.errstate(invalid="ignore", divide="ignore"):
        iou = right / (counts.sum(1) + counts.sum(2) - right)
        return {
            "miou": mean_of_known(iou),
            "accuracy": right.sum(1) / pixels,
            "nll": weights @ nll / pixels,
            "iou_per_class": iou,
        }


def number_scores(labels: Values, mean: Values, log_variance: Values, weights: Values) -> dict[str, Values]:
    """The NUMBER_SCORES `[R]`, means over the D numbers, and r2_per_number and mae_per_number `[R, D]`.

    labels, mean, log_variance `[n, D]`: a label of nan is left out; a log-variance of nan is none, and the scores of
    the variance are then nan.

    coverage: how often the label lies within 1.96 standard deviations, 95 % if the variances are right. z_variance: the
    mean of (label - mean)^2 / variance, 1 if they are.
    """
    known = ~np.isnan(labels)
    center = np.nanmean(labels, 0)
    y = np.where(known, labels - center, 0.0)
    error = np.where(known, mean - labels, 0.0)
    counts = weights @ known.astype(np.float64)  # [R, D]
    squares = weights @ error**2
    z = error**2 * np.exp(-log_variance)
    nll = np.where(known, 0.5 * (LOG_2_PI + log_variance + z), 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        spread = weights @ y**2 - (weights @ y) ** 2 / counts
        r2 = np.where(spread > 1e-12 * np.maximum(squares, 1e-300), 1 - squares / spread, np.nan)
        mae = weights @ np.abs(error) / counts
        return {
            "r2": mean_of_known(r2),
            "mae": mean_of_known(mae),
            "rmse": mean_of_known(np.sqrt(squares / counts)),
            "nll": mean_of_known(weights @ nll / counts),
            "coverage": mean_of_known(weights @ np.where(np.isnan(z), np.nan, known & (z <= Z_95**2)) / counts),
            "z_variance": mean_of_known(weights @ z / counts),
            "r2_per_number": r2,
            "mae_per_number": mae,
        }
