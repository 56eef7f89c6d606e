"""Statistics of each position, from the student's logits, the teacher's log-probabilities and the label.

    statistics = position_statistics(logits, teacher_log_probs, labels)    # name -> [n]

`log_q` are the student's and `log_p` the teacher's log-probabilities over the same C classes, `[..., C]`, both
at T = 1; `labels` are `[...]`, where -100 is no label. Functions of one position are not reduced and give nan
where there is no label. Float32 inside whatever comes in (float64 stays float64).

What this file does not know: models, batches, losses, how statistics become a verdict.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from limbeck.errors import DataError, ShapeError
from limbeck.losses.divergences import forward_kl, reverse_kl, total_variation
from limbeck.losses.numbers import NO_LABEL, widened

STATISTICS = (
    *("correct", "nll", "brier"),
    *("confidence", "entropy"),
    *("agreement", "acceptance", "forward_kl", "reverse_kl"),
)
TEMPERATURES = (0.05, 20.0)
"""The interval that `fit_calibration_temperature` searches."""


def position_statistics(
    logits: Tensor, teacher_log_probs: Tensor | None = None, labels: Tensor | None = None
) -> dict[str, Tensor]:
    """The statistics that are stored for each position in place of its logits: name -> `[n]`, always the same names.

    logits `[n, C]`: the student's. teacher_log_probs `[n, C]`: log-probabilities at T = 1.
    labels `[n]`: -100 is no label.

        correct, nll, brier        against the label; nan where there is none
        confidence, entropy        of the student's distribution
        agreement, acceptance      with the teacher; nan where there is none
        forward_kl, reverse_kl     KL(teacher‖student), KL(student‖teacher), nats; nan where there is no teacher

    reverse_kl is infinite where the teacher gives a class the probability zero and the student does not.
    """
    for name, value, shape in (
        ("teacher_log_probs", teacher_log_probs, logits.shape),
        ("labels", labels, logits.shape[:1]),
    ):
        if value is not None and value.shape != shape:
            raise ShapeError(
                f"With logits {list(logits.shape)}, {name} must be {list(shape)}, but are {list(value.shape)}; the "
                "teacher, the student and the labels must cover the same positions and classes."
            )
    log_q = widened(logits).log_softmax(-1)
    all_nan = log_q.new_full(logits.shape[:1], math.nan)
    statistics = dict.fromkeys(STATISTICS, all_nan)
    if labels is not None:
        statistics |= {"correct": correct(log_q, labels), "nll": nll(log_q, labels), "brier": brier(log_q, labels)}
    if teacher_log_probs is not None:
        statistics |= {
            "agreement": agreement(log_q, teacher_log_probs),
            "acceptance": acceptance(log_q, teacher_log_probs),
            "forward_kl": forward_kl(log_q, teacher_log_probs),
            "reverse_kl": reverse_kl(log_q, teacher_log_probs),
        }
    return statistics | {"confidence": confidence(log_q), "entropy": entropy(log_q)}


def correct(log_q: Tensor, labels: Tensor) -> Tensor:
    """1 where the most probable class is the label, 0 where it is not, `[...]`."""
    return _where_labelled((log_q.argmax(-1) == labels).to(log_q.dtype), labels)


def nll(log_q: Tensor, labels: Tensor) -> Tensor:
    """-log q of the label, in nats, `[...]`."""
    return _where_labelled(-log_q.gather(-1, _index(labels)).squeeze(-1), labels)


def brier(log_q: Tensor, labels: Tensor) -> Tensor:
    """sum_c (q_c - [c is the label])^2, in [0, 2], `[...]` (Brier 1950, in its form for several classes)."""
    difference = log_q.exp().scatter_add(-1, _index(labels), log_q.new_full((*labels.shape, 1), -1.0))
    return _where_labelled(difference.square().sum(-1), labels)


def confidence(log_q: Tensor) -> Tensor:
    """The probability of the most probable class, in [1/C, 1], `[...]`."""
    return log_q.amax(-1).exp()


def entropy(log_q: Tensor) -> Tensor:
    """-sum q log q, in nats, `[...]`; a class of probability zero adds nothing."""
    terms: Tensor = torch.special.entr(log_q.exp())
    return terms.sum(-1)


def agreement(log_q: Tensor, log_p: Tensor) -> Tensor:
    """1 where student and teacher have the same most probable class, 0 where they differ, `[...]`."""
    return (log_q.argmax(-1) == log_p.argmax(-1)).to(log_q.dtype)


def acceptance(log_q: Tensor, log_p: Tensor) -> Tensor:
    """sum_c min(p_c, q_c) = 1 - total variation, in [0, 1], `[...]`.

    A draft model's expected acceptance in speculative decoding (arXiv 2211.17192).
    """
    return 1 - total_variation(log_q, log_p)


@dataclass(frozen=True, eq=False)
class CalibrationBins:
    """Positions sorted by confidence into the bins ((b - 1) / B, b / B], `[B]` each, float64.

    count: positions of each bin. confidence, accuracy: their means, nan for an empty bin.
    """

    count: Tensor
    confidence: Tensor
    accuracy: Tensor


def calibration_bins(confidence: Tensor, correct: Tensor, bins: int = 15) -> CalibrationBins:
    """The student's accuracy at each level of confidence, in equal-width bins (arXiv 1706.04599, section 2).

    confidence, correct `[n]`: as the functions of these names give them; positions with nan are left out.
    """
    known = ~correct.isnan()
    sure, right = confidence[known].double(), correct[known].double()
    index = ((sure * bins).ceil().long() - 1).clamp(0, bins - 1)
    count = torch.bincount(index, minlength=bins).double()
    return CalibrationBins(
        count,
        torch.bincount(index, weights=sure, minlength=bins) / count,
        torch.bincount(index, weights=right, minlength=bins) / count,
    )


def expected_calibration_error(confidence: Tensor, correct: Tensor, bins: int = 15) -> float:
    """The mean of |accuracy - confidence| over the bins, weighted by their counts, in [0, 1]; nan for no position.

    ECE (arXiv 1706.04599, Eq. 3).
    """
    found = calibration_bins(confidence, correct, bins)
    if not found.count.sum():
        return math.nan
    gaps = (found.accuracy - found.confidence).abs()
    return float((found.count * gaps).nansum() / found.count.sum())


def fit_calibration_temperature(logits: Tensor, labels: Tensor) -> float:
    """The calibration temperature T > 0 at which `log_softmax(logits / T)` has the least NLL.

    This is temperature scaling (arXiv 1706.04599, 4.2).

    logits `[n, C]`, or log-probabilities; labels `[n]`, those of -100 left out. Fit it on held-out data.

    Searches the interval TEMPERATURES on a log scale. Where every label is the most probable class, NLL falls all
    the way down to T = 0, and the result is the lower bound; uninformative logits give the upper one.
    Raises DataError where there is no label.
    """
    from scipy.optimize import minimize_scalar  # imported here: everything else needs torch alone

    known = labels != NO_LABEL
    if not known.any():
        raise DataError("A calibration temperature is fitted on labelled examples, but none of these has a label.")
    logits, labels = logits[known].double(), labels[known]

    def mean_nll(log_temperature: float) -> float:
        return float(nll((logits / math.exp(log_temperature)).log_softmax(-1), labels).mean())

    low, high = (math.log(t) for t in TEMPERATURES)
    return math.exp(minimize_scalar(mean_nll, bounds=(low, high), method="bounded").x)


def _index(labels: Tensor) -> Tensor:
    """Indices `[..., 1]` for gather; callers overwrite with nan what is gathered where there is no label."""
    return labels.clamp(min=0).unsqueeze(-1)


def _where_labelled(values: Tensor, labels: Tensor) -> Tensor:
    return torch.where(labels == NO_LABEL, math.nan, values)
