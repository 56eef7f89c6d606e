"""From predictions to results: what was measured, and the verdict that may be drawn from it.

    results = compare(predictions)                 # a plain dict that JSON can hold
    verdict = judge(student, baseline, teacher)    # 1 where right, 0 where wrong, [seeds, n] each

The verdict: is the student better than the baseline, and how much of the gap to the teacher does it close? The
paired difference in accuracy gets a 95 % interval by resampling. Two sources of chance are resampled, each by
itself, and their deviations added: the examples (others could have been drawn) and the seeds (training again gives
other models). Student s and baseline s are a pair: the same seed.

- Examples: 2 pseudo-examples are resampled with the real ones, one that only the baseline gets wrong and one that
  only the baseline gets right, or else a handful of differing examples would look like certainty (Agresti and Min,
  Statistics in Medicine 24, 2005, add as much).
- Seeds: the deviations of S seeds are widened by sqrt(S / (S - 1)) * t(S - 1) / z, as Student's interval is against
  the naive one (the expanded percentile interval of Hesterberg, arXiv 1411.5279). Too little is known of another
  training from fewer than 3 seeds: then only the examples are resampled, and the sentence says so.

What this file does not know: models, batches, files.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch

from limbeck.errors import ConfigError, ShapeError
from limbeck.evaluation.dark_knowledge import means_of
from limbeck.evaluation.intervals import LEVEL, gap_recovered, interval, json_ready, over_seeds, with_seeds
from limbeck.evaluation.resampling import Resampled, resampled
from limbeck.evaluation.roles import Curves
from limbeck.evaluation.scores import CLASS_SCORES, class_scores, described, score_named
from limbeck.evaluation.verdict import Basis, decided, undecided, verdict_of_score
from limbeck.losses.metrics import calibration_bins, expected_calibration_error
from limbeck.losses.numbers import NO_LABEL
from limbeck.results import RESULTS, Json, header

MOST_CLASSES = 1000
"""Up to this many classes: calibration temperatures are fitted, examples counted per class, dark knowledge measured."""
MOST_CLASSES_DRAWN = 100
"""Up to this many classes: a confusion matrix, and the log-probabilities of all classes for each example shown."""
EXAMPLES_SHOWN = 16


@dataclass(frozen=True)
class Predictions:
    """The statistics of each role's models on the n examples of a test set, as NumPy arrays.

    statistics: role ("teacher", "student", "baseline") -> name -> `[seeds, n]`. The names are those of
        `metrics.position_statistics`, and `predicted` (the most probable class); where a calibration temperature was
        fitted, also `scaled_nll`, `scaled_brier` and `scaled_confidence`.
    calibration_temperatures: role -> `[seeds, 1]`; empty where none was fitted, and unscaled is the reason.
    labels `[n]`: -100 is no label. row_id `[n]`.
    examples, costs: what `compare` passes on. dark_knowledge: its sums, with a teacher and up to 1000 classes.
    objective: what the students were trained with, as `limbeck.networks.trained.described` gives it.
    log_probs: role -> `[seeds, n, C]` float32, to rank examples by; empty where there are too many.
    """

    row_id: np.ndarray
    labels: np.ndarray
    classes: int
    label_names: tuple[str, ...] | None
    statistics: dict[str, dict[str, np.ndarray]]
    calibration_temperatures: dict[str, np.ndarray]
    unscaled: str | None
    examples: list[Json]
    costs: dict[str, Json]
    dark_knowledge: dict[str, np.ndarray] | None = None
    objective: Json | None = None
    log_probs: dict[str, np.ndarray] = field(default_factory=dict)


def compare(
    predictions: Predictions | Sequence[Predictions],
    *,
    curves: Curves | None = None,
    judge_by: str | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> Json:
    """Predictions become results: a dict of plain Python values without nan or infinity (None instead).

    predictions: of one test set, or of several folds: their examples are pooled and judged together.
    curves: name -> `[{"step": ..., ...}, ...]`, passed on (a trainer's log history).
    judge_by: the score that the verdict is about: accuracy (the default), balanced_accuracy, f1_macro or roc_auc.
    resamples, seed: of the verdict (`limbeck.evaluation.class_verdict.judge`), and of the scores' intervals.
    """
    judged = score_named(judge_by, CLASS_SCORES)
    folds = [predictions] if isinstance(predictions, Predictions) else list(predictions)
    pooled = _pool(folds)
    labelled = pooled.labels != NO_LABEL
    right = {role: measured["correct"][:, labelled] for role, measured in pooled.statistics.items()}
    per_class = np.bincount(pooled.labels[labelled], minlength=pooled.classes)
    scores = _scores(pooled, labelled, resamples, seed) if labelled.any() else None
    if judged.name == "accuracy" or scores is None:
        verdict = judge(right["student"], right.get("baseline"), right.get("teacher"), resamples=resamples, seed=seed)
    elif judged.name not in scores.observed["student"]:
        raise ConfigError(
            f"{judged.name} ranks the examples by the probability of each class, which are too many here "
            f"({len(labelled):,} examples of {pooled.classes:,} classes); judge by another score."
        )
    else:
        verdict = verdict_of_score(judged, scores, int(labelled.sum()))
    results = {
        **header(RESULTS),
        "task": "classification",
        "objective": pooled.objective if all(fold.objective == pooled.objective for fold in folds) else None,
        "test": {
            "examples": len(pooled.labels),
            "labelled": labelled.sum(),
            "folds": len(folds),
            "classes": pooled.classes,
            "label_names": pooled.label_names,
            "per_class": per_class if labelled.any() and pooled.classes <= MOST_CLASSES else None,
        },
        "scores": described(CLASS_SCORES),
        "verdict": verdict | {"judged_by": judged.name},
        "roles": {role: _role_results(pooled, role) | _summaries(scores, role) for role in pooled.statistics},
        "guessing": _guessing(per_class) if labelled.any() else None,
        "confusion": _confusion(pooled),
        "dark_knowledge": _dark_knowledge(folds),
        "curves": {name: list(points) for name, points in (curves or {}).items()},
        "examples": pooled.examples,
    }
    ready: Json = json_ready(results)
    return ready


def judge(
    student: np.ndarray,
    baseline: np.ndarray | None = None,
    teacher: np.ndarray | None = None,
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> Json:
    """The verdict in words and numbers, JSON-ready.

    student, baseline `[S, n]`: 1 where seed s is right about example i, else 0; the seeds are pairs.
    teacher `[1, n]`. Accuracies and differences are fractions of 1; in the sentence, percent and points.

    The word is "better" or "worse" where the interval of student - baseline excludes 0, else "no difference
    shown"; None where there is no baseline or no labelled example. gap_recovered is (student - baseline) /
    (teacher - baseline), given where the interval of teacher - baseline lies above 0; otherwise gap_reason says why
    it is not.
    """
    seeds, examples = student.shape
    basis = Basis(seeds, examples, resamples)
    if baseline is None or basis.examples == 0:
        if basis.examples == 0:
            return undecided(basis, "There is no labelled example")
        return undecided(
            basis, "There is no baseline", f"The student gets {_percent(student.mean(), basis.examples)} right."
        )
    roles = [student, baseline] if teacher is None else [student, baseline, teacher]
    observed, draws = _resample(roles, resamples, np.random.default_rng(seed))
    difference = interval(observed[0] - observed[1], draws[:, 0] - draws[:, 1])
    low, mean, high = (_points(difference[name], basis.examples) for name in ("low", "mean", "high"))
    scores = (
        f"{_percent(observed[0], basis.examples)} against {_percent(observed[1], basis.examples)} right, {mean} points "
        f"({100 * LEVEL:.0f} % interval {low} to {high})"
    )
    return decided(basis, difference, gap_recovered(observed, draws), scores)


def _scores(pooled: Predictions, labelled: np.ndarray, resamples: int, seed: int) -> Resampled:
    """The scores of all models on the labelled examples, with resamples."""
    rows = np.flatnonzero(labelled)
    rows = rows[np.argsort(pooled.row_id[rows], kind="stable")]  # the draws do not depend on the order of the examples
    labels = pooled.labels[rows]
    functions = {
        role: [
            partial(
                class_scores,
                labels,
                measured["predicted"][s][rows],
                pooled.classes,
                probs=pooled.log_probs[role][s][rows] if role in pooled.log_probs else None,
            )
            for s in range(len(measured["predicted"]))
        ]
        for role, measured in pooled.statistics.items()
    }
    return resampled(functions, len(labels), resamples, seed)


def _summaries(scores: Resampled | None, role: str) -> Json:
    """The scores of a role with their intervals; those that are listed elsewhere in the role's results left out."""
    if scores is None:
        return {"scores": None}
    return {"scores": {name: scores.summary(role, name) for name in scores.observed[role]}}


def _guessing(per_class: np.ndarray) -> Json:
    """What the best constant answer reaches: the test's most frequent class, the class frequencies as probabilities.

    per_class `[C]`: the labelled examples of each class.
    """
    shares = per_class / per_class.sum()
    present = shares[shares > 0]
    most = float(shares.max())
    return {
        "class": int(shares.argmax()),
        "accuracy": most,
        "nll": float(-(present * np.log(present)).sum()),
        "brier": float(1 - (shares**2).sum()),
        "scores": {
            "accuracy": most,
            "balanced_accuracy": 1 / len(present),
            "f1_macro": 2 * most / (1 + most) / len(present),
            "roc_auc": 0.5,
        },
    }


def _resample(roles: list[np.ndarray], resamples: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Accuracies of the roles: observed `[R]`, and as they could have come out `[resamples, R]`."""
    seeds, examples = roles[0].shape
    by_example = np.stack([right.mean(0, dtype=np.float64) for right in roles], 1)  # [n, R]
    observed = by_example.mean(0)
    # examples with the same outcome are alike: counting outcomes is the same as drawing examples, and much cheaper
    outcomes, counts = np.unique(by_example, axis=0, return_counts=True)
    only_baseline_wrong = np.array([1.0, 0.0, 1.0])[: len(roles)]
    outcomes = np.vstack([outcomes, only_baseline_wrong, 1 - only_baseline_wrong])
    drawn = rng.multinomial(examples, np.append(counts, [1, 1]) / (examples + 2), size=resamples)
    draws = drawn / examples @ outcomes  # [resamples, R]
    by_seed = np.stack([np.broadcast_to(right.mean(1, dtype=np.float64), seeds) for right in roles], 1)  # [S, R]
    return observed, with_seeds(draws, by_seed, rng)


def _percent(share: float, examples: int) -> str:
    return f"{100 * share:.{_decimals(examples)}f} %"


def _points(difference: float, examples: int) -> str:
    return f"{100 * difference:+.{_decimals(examples)}f}"


def _decimals(examples: int) -> int:
    return 2 if examples >= 5000 else 1


def _pool(folds: Sequence[Predictions]) -> Predictions:
    """The predictions of all folds as one: examples side by side, costs of the first."""
    kinds = [
        (fold.classes, fold.label_names, {r: len(s["correct"]) for r, s in fold.statistics.items()}) for fold in folds
    ]
    if not folds or any(other != kinds[0] for other in kinds):
        raise ShapeError(
            "Folds that are judged together need the same classes, roles and numbers of seeds, but they have "
            f"(classes, names, seeds): {kinds}."
        )
    scaled = all(fold.unscaled is None for fold in folds)
    statistics = {
        role: {
            name: np.concatenate([fold.statistics[role][name] for fold in folds], 1)
            for name in measured
            if scaled or not name.startswith("scaled_")
        }
        for role, measured in folds[0].statistics.items()
    }
    calibration_temperatures = (
        {role: np.hstack([fold.calibration_temperatures[role] for fold in folds]) for role in statistics}
        if scaled
        else {}
    )
    examples = sorted((e for fold in folds for e in fold.examples), key=lambda e: -float(e["forward_kl"]))
    return replace(
        folds[0],
        row_id=np.concatenate([fold.row_id for fold in folds]),
        labels=np.concatenate([fold.labels for fold in folds]),
        statistics=statistics,
        calibration_temperatures=calibration_temperatures,
        unscaled=next((fold.unscaled for fold in folds if fold.unscaled), None),
        examples=examples[:EXAMPLES_SHOWN],
        log_probs={
            role: np.concatenate([fold.log_probs[role] for fold in folds], axis=1)
            for role in statistics
            if all(role in fold.log_probs for fold in folds)
        },
    )


def _role_results(pooled: Predictions, role: str) -> Json:
    measured = pooled.statistics[role]
    wrong = 1 - measured["correct"]
    labelled = pooled.labels != NO_LABEL
    hits = [
        np.bincount(pooled.labels[labelled & (right == 1)], minlength=pooled.classes) for right in measured["correct"]
    ]
    to_teacher = scaled = None
    if role != "teacher" and "teacher" in pooled.statistics:
        teacher_right = pooled.statistics["teacher"]["correct"][0]
        to_teacher = {name: _means(measured[name]) for name in ("forward_kl", "reverse_kl", "agreement", "acceptance")}
        for name, value in (("agreement_where_teacher_right", 1), ("agreement_where_teacher_wrong", 0)):
            to_teacher[name] = _means(measured["agreement"][:, teacher_right == value])
    if pooled.unscaled is None:
        scaled = {
            "temperature": _means(pooled.calibration_temperatures[role]),
            "nll": _means(measured["scaled_nll"]),
            "brier": _means(measured["scaled_brier"]),
            "ece": _ece(measured["scaled_confidence"], measured["correct"]),
            "calibration": _bins(measured["scaled_confidence"], measured["correct"]),
        }
    return {
        "seeds": len(wrong),
        "accuracy": _means(measured["correct"]),
        "errors": over_seeds(wrong[:, labelled].sum(1)) if labelled.any() else None,
        "nll": _means(measured["nll"]),
        "brier": _means(measured["brier"]),
        "ece": _ece(measured["confidence"], measured["correct"]),
        "confidence": _means(measured["confidence"]),
        "entropy": _means(measured["entropy"]),
        "calibration": _bins(measured["confidence"], measured["correct"]),
        "scaled": scaled,
        "scaled_reason": pooled.unscaled,
        "to_teacher": to_teacher,
        "correct_per_class": np.mean(hits, 0) if labelled.any() and pooled.classes <= MOST_CLASSES else None,
        "parameters": None,
        "bytes": None,
        "latency_ms": None,
        **pooled.costs[role],
    }


def _means(values: np.ndarray) -> Json | None:
    """The mean of each seed of `[seeds, n]` over the known values, and the mean of those; None where none is known."""
    known = values[:, ~np.isnan(values).any(0)]
    return over_seeds(known.mean(1, dtype=np.float64)) if known.size else None


def _ece(sure: np.ndarray, right: np.ndarray) -> Json | None:
    each = [
        expected_calibration_error(torch.from_numpy(a), torch.from_numpy(b)) for a, b in zip(sure, right, strict=True)
    ]
    return None if np.isnan(each).any() else over_seeds(np.array(each))


def _bins(sure: np.ndarray, right: np.ndarray) -> Json | None:
    """All seeds together; the counts are those of one seed on average."""
    if np.isnan(right).all():
        return None
    bins = calibration_bins(torch.from_numpy(sure.ravel()), torch.from_numpy(right.ravel()))
    return {
        "count": bins.count.numpy() / len(sure),
        "confidence": bins.confidence.numpy(),
        "accuracy": bins.accuracy.numpy(),
    }


def _confusion(pooled: Predictions) -> np.ndarray | None:
    """Counts `[C, C]` of (teacher's class, student's class), averaged over seeds."""
    if "teacher" not in pooled.statistics or pooled.classes > MOST_CLASSES_DRAWN:
        return None
    students = pooled.statistics["student"]["predicted"]
    pairs = pooled.statistics["teacher"]["predicted"] * pooled.classes + students  # [seeds, n]
    counts = np.bincount(pairs.ravel(), minlength=pooled.classes**2) / len(students)
    return counts.reshape(pooled.classes, pooled.classes)


def _dark_knowledge(folds: Sequence[Predictions]) -> Json | None:
    parts = [fold.dark_knowledge for fold in folds if fold.dark_knowledge is not None]
    return means_of(parts, MOST_CLASSES_DRAWN) if len(parts) == len(folds) else None
