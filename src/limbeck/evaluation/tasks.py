"""Evaluation of tasks beyond one class an example: several labels, classes of pixels, numbers.

`evaluate` (limbeck.evaluation.classes) calls `evaluate_task` for these. Each model gives statistics per example, in one
pass; scores, intervals and the verdict are arithmetic on them. The fields of the results are listed in docs/results.md.

What this file does not know: how the models were trained, how results are drawn.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from limbeck.errors import DataError, ModelError, ShapeError, TargetError
from limbeck.evaluation.intervals import json_ready, over_seeds
from limbeck.evaluation.resampling import resampled
from limbeck.evaluation.roles import Curves, Models, by_role, joined, objective_of_all, require_complete
from limbeck.evaluation.running import LATENCY_SECONDS, batches_of, device_of_model, latency_of
from limbeck.evaluation.scores import described, score_named
from limbeck.evaluation.task_scores import TASK_SCORES, Z_95, label_scores, number_scores, pixel_scores
from limbeck.evaluation.verdict import verdict_of_score
from limbeck.losses.divergences import forward_kl
from limbeck.losses.numbers import NO_LABEL
from limbeck.losses.objective import Objective
from limbeck.losses.targets import GaussianTargets
from limbeck.losses.values import gaussian_kl
from limbeck.networks.asking import Batch, Examples, logits_of, teacher_view
from limbeck.networks.cost import size_of
from limbeck.networks.modes import evaluating
from limbeck.networks.outputs import MULTI_LABEL, REGRESSION, SEGMENTATION, Task
from limbeck.results import RESULTS, Json, header
from limbeck.teachers import as_teacher, fingerprint_of
from limbeck.teachers.protocol import TeacherLike

POINTS = 400
"""The most examples whose numbers are listed, to be drawn."""
MOST_DRAWN = 4
"""The most numbers of an example that are drawn."""

Outputs = Callable[[Batch], Tensor]
"""A model's function: log-probabilities `[*positions, C]` at T = 1, or numbers `[n, D, 1 or 2]`."""


def evaluate_task(
    student: Models,
    test: Examples,
    task: Task,
    *,
    baseline: Models | None = None,
    teacher: TeacherLike | None = None,
    objective: Objective | None = None,
    curves: Curves | None = None,
    judge_by: str | None = None,
    batch_size: int = 256,
    device: torch.device | str | None = None,
    latency: bool = True,
    resamples: int = 2000,
    seed: int = 0,
) -> Json:
    """The results of students, baselines and a teacher on a test set of this task; `evaluate` has the parameters."""
    judged = score_named(judge_by, TASK_SCORES[task.kind])
    if (labels := getattr(test, "labels", None)) is None:
        raise DataError(f"An evaluation of {task.kind} needs a test with labels, but it has none.")
    models = by_role(student, baseline, teacher)
    device = device or device_of_model(models["student"][0])
    with evaluating(m for members in models.values() for m in members):
        functions = {role: [partial(_outputs, role, task, m) for m in members] for role, members in models.items()}
        row_ids, found = _measured(functions, test, task, batch_size, device)
        costs: dict[str, Json] = {role: dict(size_of(members[0])) for role, members in models.items()}
        costs["student"]["fingerprints"] = [fingerprint_of(m) for m in models["student"]]
        for role, members in models.items() if latency else ():
            if role != "teacher" or not as_teacher(members[0]).in_batch:
                costs[role]["latency_ms"] = latency_of(functions[role][0], test, device, LATENCY_SECONDS / len(models))
    known = found["student"]["known"][0]
    rows = np.flatnonzero(known)
    if not len(rows):
        raise DataError("No example of the test has a label, so nothing can be measured.")
    rows = rows[np.argsort(row_ids[rows], kind="stable")]  # the draws do not depend on the order of the examples
    score_functions = {
        role: [
            partial(_scores, task, {name: values[s][rows] for name, values in each.items()})
            for s in range(len(each["known"]))
        ]
        for role, each in found.items()
    }
    scores = resampled(score_functions, len(rows), resamples, seed)
    guess, answer = _guess(task, {name: values[0][rows] for name, values in found["student"].items()})
    names = getattr(test, "label_names", None)
    results = {
        **header(RESULTS),
        "task": task.kind,
        "objective": objective_of_all(models["student"], objective),
        "test": {
            "examples": len(row_ids),
            "labelled": len(rows),
            "folds": 1,
            "outputs": task.outputs,
            "classes": found["student"]["confusion"].shape[-1] if task.kind == SEGMENTATION else None,
            "label_names": names,
            "labels": _counted(task, labels),
        },
        "scores": described(TASK_SCORES[task.kind]),
        "verdict": verdict_of_score(judged, scores, len(rows)) | {"judged_by": judged.name},
        "roles": {
            role: {
                "seeds": len(each["known"]),
                "scores": {name: scores.summary(role, name) for name in scores.observed[role]},
                "to_teacher": None if role == "teacher" or "teacher" not in found else _to_teacher(task, each),
                "parameters": None,
                "bytes": None,
                "latency_ms": None,
                **costs[role],
            }
            for role, each in found.items()
        },
        "guessing": {"answer": answer, "scores": {name: guess[name][0] for name in guess if guess[name].ndim == 1}},
        "points": _points(found, rows) if task.is_regression else None,
        "curves": {name: list(points) for name, points in (curves or {}).items()},
        "examples": [],
    }
    ready: Json = json_ready(results)
    return ready


def _outputs(role: str, task: Task, model: Any, batch: Batch) -> Tensor:
    """Log-probabilities `[*positions, C]` at T = 1, or numbers `[n, D, 1 or 2]`, of a model."""
    found = _of_teacher(task, model, batch) if role == "teacher" else logits_of(model, batch)
    bad = ~found.flatten(1).amax(1).isfinite() | found.flatten(1).isnan().any(1)
    if task.is_regression:
        bad = ~found.flatten(1).isfinite().all(1)
    if bad.any():
        raise (TargetError if role == "teacher" else ModelError)(
            f"The {role} gave nan or infinity for the example with row_id {int(batch['row_id'][bad][0])}; look at that "
            "example, or at the model's weights."
        )
    return found.float() if task.is_regression else found.float().log_softmax(-1)


def _of_teacher(task: Task, teacher: Any, batch: Batch) -> Tensor:
    if isinstance(teacher, nn.Module):  # as_teacher would freeze the user's module
        return logits_of(teacher, teacher_view(batch))
    targets = as_teacher(teacher)(batch)
    if isinstance(targets, GaussianTargets):
        return targets.values.reshape(len(batch["row_id"]), -1, targets.num_classes)
    require_complete(targets)
    if len(targets) % len(batch["row_id"]):
        raise ShapeError(f"The teacher gave {len(targets)} rows for {len(batch['row_id'])} examples of {task.kind}.")
    found = targets.all_log_probs(1.0)
    shape = batch["labels"].shape
    return found.reshape(*shape, found.shape[-1])


def _measured(
    functions: Mapping[str, Sequence[Outputs]], test: Any, task: Task, batch_size: int, device: Any
) -> tuple[np.ndarray, dict[str, dict[str, np.ndarray]]]:
    """Row ids `[n]`, and the statistics of each role, name -> `[seeds, n, ...]`, in one pass over the test."""
    measure = {MULTI_LABEL: _of_labels, SEGMENTATION: _of_pixels, REGRESSION: _of_numbers}[task.kind]
    row_ids: list[Tensor] = []
    parts: dict[str, list[list[dict[str, Tensor]]]] = {role: [[] for _ in each] for role, each in functions.items()}
    for batch in batches_of(test, batch_size, device):
        places = batch.get("mask", torch.ones_like(batch["row_id"])).bool().nonzero().squeeze(1)
        labels = batch["labels"][places]
        theirs = functions["teacher"][0](batch)[places] if "teacher" in functions else None
        for role, each in functions.items():
            for seed, function in enumerate(each):
                ours = theirs if role == "teacher" and theirs is not None else function(batch)[places]
                statistics = measure(ours, None if role == "teacher" else theirs, labels)
                parts[role][seed].append({name: values.cpu() for name, values in statistics.items()})
        row_ids.append(batch["row_id"][places].cpu())
    statistics_of = {
        role: {name: np.stack([joined(one, name) for one in seeds]) for name in seeds[0][0]}
        for role, seeds in parts.items()
    }
    return torch.cat(row_ids).numpy(), statistics_of


def _of_labels(log_q: Tensor, log_p: Tensor | None, labels: Tensor) -> dict[str, Tensor]:
    """Of several labels: the probability of 1, the labels, and how the teacher compares, `[n, L]` each."""
    found = {"probs": log_q[..., 1].exp(), "labels": labels, "known": (labels != NO_LABEL).any(1)}
    if log_p is not None:
        found["kl"] = forward_kl(log_q, log_p)
        found["agreement"] = (log_q.argmax(-1) == log_p.argmax(-1)).float()
    return found


def _of_pixels(log_q: Tensor, log_p: Tensor | None, labels: Tensor) -> dict[str, Tensor]:
    """Of pixels: confusions `[n, C, C]` by (label, prediction), the sum of NLL over labelled pixels, other means."""
    classes, examples = log_q.shape[-1], len(labels)
    known = labels != NO_LABEL
    if bool((labels >= classes).any()):
        raise DataError(f"The labels have a class {int(labels.max())}, but the models tell {classes} apart.")
    predicted = log_q.argmax(-1)
    image = torch.arange(examples, device=labels.device)[:, None, None].expand_as(labels)
    place = (image * classes + labels) * classes + predicted
    counts = torch.bincount(place[known], minlength=examples * classes**2)
    nll = -log_q.gather(-1, labels.clamp(min=0)[..., None]).squeeze(-1)
    found = {
        "confusion": counts.reshape(examples, classes, classes),
        "nll": torch.where(known, nll, 0.0).double().sum((1, 2)),
        "known": known.flatten(1).any(1),
    }
    if log_p is not None:
        found["kl"] = forward_kl(log_q, log_p).mean((1, 2))
        found["agreement"] = (predicted == log_p.argmax(-1)).float().mean((1, 2))
    return found


def _of_numbers(values: Tensor, theirs: Tensor | None, labels: Tensor) -> dict[str, Tensor]:
    """Of numbers: means, log-variances (nan for none) and labels `[n, D]` float64, and how far the teacher is."""
    labels = labels.reshape(len(labels), -1).double()
    mean = values[..., 0].double()
    if mean.shape != labels.shape:
        raise ShapeError(
            f"The models give {mean.shape[1]} numbers for an example, but the labels have {labels.shape[1]}."
        )
    variance = values[..., 1].double() if values.shape[-1] == 2 else torch.full_like(mean, math.nan)
    found = {"mean": mean, "log_variance": variance, "labels": labels, "known": (~labels.isnan()).any(1)}
    if theirs is not None:
        found["distance"] = mean - theirs[..., 0].double()
        found["teacher_mean"] = theirs[..., 0].double()
        if values.shape[-1] == theirs.shape[-1] == 2:
            found["kl"] = gaussian_kl(values.double(), theirs.double())
    return found


def _scores(task: Task, measured: Mapping[str, np.ndarray], weights: np.ndarray) -> dict[str, np.ndarray]:
    if task.kind == MULTI_LABEL:
        return label_scores(measured["labels"], measured["probs"], weights)
    if task.kind == SEGMENTATION:
        return pixel_scores(measured["confusion"], measured["nll"], weights)
    return number_scores(measured["labels"], measured["mean"], measured["log_variance"], weights)


def _to_teacher(task: Task, measured: Mapping[str, np.ndarray]) -> Json:
    """How near a role is to the teacher, a mean for each seed."""
    found: Json = {}
    for name, field in (("forward_kl", "kl"), ("agreement", "agreement")):
        if field in measured:
            found[name] = over_seeds(measured[field].reshape(len(measured[field]), -1).mean(1, dtype=np.float64))
    if task.is_regression:
        theirs = measured["teacher_mean"]
        squares = (measured["distance"] ** 2).mean(1)  # [seeds, D]
        spread = theirs.var(1)
        found["rmse"] = over_seeds(np.sqrt(squares).mean(1))
        with np.errstate(invalid="ignore", divide="ignore"):
            found["r2"] = over_seeds(np.where(spread > 0, 1 - squares / spread, np.nan).mean(1))
    return found


def _guess(task: Task, measured: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], str]:
    """The scores of the best answer without looking at the example, and that answer in words."""
    whole = np.ones((1, len(measured["known"])))
    if task.kind == MULTI_LABEL:
        labels = measured["labels"]
        known = labels != NO_LABEL
        share = ((labels == 1) & known).sum(0) / np.maximum(known.sum(0), 1)
        guessed = label_scores(labels, np.broadcast_to(share, labels.shape), whole)
        return guessed, "how often each label is 1 in the test"
    if task.kind == SEGMENTATION:
        per_class = measured["confusion"].sum(2)  # [n, C]
        shares = per_class.sum(0) / per_class.sum()
        confusion = np.zeros_like(measured["confusion"])
        confusion[:, :, shares.argmax()] = per_class
        nll = -(per_class * np.log(np.where(shares > 0, shares, 1.0))).sum(1)
        return pixel_scores(confusion, nll, whole), "the most frequent class of the test's pixels, everywhere"
    labels = measured["labels"]
    mean, variance = np.nanmean(labels, 0), np.nanvar(labels, 0)
    with np.errstate(divide="ignore"):
        log_variance = np.where(variance > 0, np.log(variance), np.nan)
    has_variance = not np.isnan(measured["log_variance"]).all()
    spread = np.broadcast_to(log_variance if has_variance else np.nan, labels.shape)
    guessed = number_scores(labels, np.broadcast_to(mean, labels.shape), spread, whole)
    return guessed, "the mean of the test" + (", with its variance" if has_variance else "")


def _counted(task: Task, labels: Tensor) -> list[int]:
    """How many examples have each label or number, or how many pixels each class."""
    if task.kind == SEGMENTATION:
        return torch.bincount(labels[labels != NO_LABEL].flatten()).tolist()
    if task.kind == MULTI_LABEL:
        return (labels == 1).sum(0).tolist()
    return (~labels.reshape(len(labels), -1).isnan()).sum(0).tolist()


def _points(found: Mapping[str, Mapping[str, np.ndarray]], rows: np.ndarray) -> list[Json]:
    """Of up to MOST_DRAWN numbers: the labels of up to POINTS examples, and the first model's numbers of each role."""
    some = rows[:: max(1, -(-len(rows) // POINTS))]
    labels = found["student"]["labels"][0][some]
    drawn = []
    for d in range(min(labels.shape[1], MOST_DRAWN)):
        known = ~np.isnan(labels[:, d])
        point: Json = {"number": d, "label": labels[known, d]}
        for role, each in found.items():
            point[role] = each["mean"][0][some][known, d]
            log_variance = each["log_variance"][0][some][known, d]
            if not np.isnan(log_variance).any():
                point[f"{role}_half_interval"] = Z_95 * np.exp(log_variance / 2)
        drawn.append(point)
    return drawn
