"""Evaluation of classifiers on a test set: students, baselines and a teacher.

    results = evaluate(students, test, baseline=baselines, teacher=teacher, held_out=held_out)
    print(results["verdict"]["sentence"])
    limbeck.write_results(results, "runs/demo/results.json")

In two steps, for tests in parts (k folds, each with other models, judged together):

    folds = [predict(students[k], tests[k], baseline=..., teacher=..., held_out=...) for k in range(5)]
    results = compare(folds)

`predict` runs the models batch by batch and collects statistics per example, never the logits of all; `compare`
(limbeck.evaluation.class_verdict) is arithmetic on them. Students predict at T = 1. The fields of the results are
listed in docs/results.md.

What this file does not know: how the models were trained, how results are drawn.
"""

import base64
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from limbeck.errors import ConfigError, DataError, ModelError, ShapeError, TargetError
from limbeck.evaluation.class_verdict import (
    EXAMPLES_SHOWN,
    MOST_CLASSES,
    MOST_CLASSES_DRAWN,
    Predictions,
    compare,
)
from limbeck.evaluation.dark_knowledge import DarkKnowledge
from limbeck.evaluation.roles import Curves, Models, by_role, joined, objective_of_all, require_complete
from limbeck.evaluation.running import LATENCY_SECONDS, batches_of, device_of_model, latency_of, moved
from limbeck.evaluation.scores import CLASS_SCORES, MOST_CLASSES_RANKED, score_named
from limbeck.evaluation.tasks import evaluate_task
from limbeck.losses.divergences import forward_kl
from limbeck.losses.metrics import brier, confidence, fit_calibration_temperature, nll, position_statistics
from limbeck.losses.numbers import NO_LABEL
from limbeck.losses.objective import Objective
from limbeck.losses.targets import DenseTargets, given_logits
from limbeck.networks.asking import (
    Batch,
    Examples,
    inputs_of,
    label_names_of,
    logits_of,
    networks_of,
    networks_of_all,
    teacher_view,
)
from limbeck.networks.checks import check_label_names, out_of_range, refuse_probabilities
from limbeck.networks.cost import size_of
from limbeck.networks.modes import evaluating
from limbeck.networks.outputs import CLASSIFICATION, Task, settle_task
from limbeck.networks.processors import find_processor
from limbeck.networks.table import require_table
from limbeck.networks.tasks import require_several_classes, require_supported_tasks
from limbeck.networks.texts import check_texts
from limbeck.teachers import as_teacher, fingerprint_of
from limbeck.teachers.protocol import TeacherLike, models_of

__all__ = ["Predictions", "compare", "evaluate", "predict"]

MOST_RANKED = 5_000_000
"""Up to so many probabilities of one model are kept, 20 MB, to rank examples by (ROC-AUC)."""

LogProbs = Callable[[Batch], Tensor]
"""A model's function from a batch to log-probabilities at T = 1, `[n, C]`."""


def evaluate(
    student: Models,
    test: Examples,
    *,
    baseline: Models | None = None,
    teacher: TeacherLike | None = None,
    held_out: Examples | None = None,
    objective: Objective | None = None,
    curves: Curves | None = None,
    judge_by: str | None = None,
    show: Callable[[dict[str, Tensor]], object] | None = None,
    batch_size: int = 256,
    device: torch.device | str | None = None,
    latency: bool = True,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """Returns the results of students, and of the baselines and the teacher they are compared with, on a test set.

    By the task of data and models (`limbeck.Task`): classes of examples, several labels, classes of pixels, numbers.

    Parameters
    ----------
    student, baseline : model or list of models
        One student per seed, and as many baselines, each paired with the student at its place. A model is a module or a
        function of the batch that returns logits `[n, C]`.
    test : TransferSet
        The test set, with or without labels.
    teacher : network or teacher, optional
        As `DistillTrainer` takes it; it must give the probabilities of all classes.
    held_out : TransferSet, optional
        Labelled examples that no model was trained on, other than `test`, to fit calibration temperatures on.
    objective : Objective, optional
        What the students were trained with; by default what DistillTrainer noted on them.
    curves : mapping, optional
        Name -> `[{"step": ..., ...}, ...]`, a trainer's log history, copied into the results.
    judge_by : str, optional
        The score that the verdict is about: accuracy (the default), balanced_accuracy, f1_macro or roc_auc; for other
        tasks one of docs/tasks.md.
    show, batch_size, device, latency
        As for `predict`.
    resamples, seed : int
        Of the 95 % intervals: the number of resamples, and the seed of the generator that draws them.

    Returns
    -------
    dict
        Plain values for JSON, with None for nan and infinity; docs/results.md lists the fields.

    Raises
    ------
    LimbeckError
        Where classes, labels and models do not match, and for logits that are nan or infinite.

    Examples
    --------
    >>> import torch
    >>> from limbeck import arrays, evaluate
    >>> inputs = torch.tensor([[2.0, 0.0], [0.0, 3.0], [1.0, 0.0], [0.0, 1.0]])
    >>> test = arrays(inputs, labels=torch.tensor([0, 1, 1, 1]))
    >>> results = evaluate(torch.nn.Identity(), test, latency=False)  # the inputs themselves are the logits
    >>> results["roles"]["student"]["accuracy"]["mean"]
    0.75
    >>> results["verdict"]["sentence"]
    'The student gets 75.0 % right. There is no baseline, so the student is not judged.'
    """
    models = by_role(student, baseline, teacher)
    task = _settled(models, test)
    if task.kind != CLASSIFICATION:
        _check(models, test, held_out)
        return evaluate_task(
            student,
            test,
            task,
            baseline=baseline,
            teacher=teacher,
            objective=objective,
            curves=curves,
            judge_by=judge_by,
            batch_size=batch_size,
            device=device,
            latency=latency,
            resamples=resamples,
            seed=seed,
        )
    score_named(judge_by, CLASS_SCORES)  # a wrong name is refused before any model runs
    predictions = predict(
        student,
        test,
        baseline=baseline,
        teacher=teacher,
        held_out=held_out,
        objective=objective,
        show=show,
        batch_size=batch_size,
        device=device,
        latency=latency,
    )
    return compare(predictions, curves=curves, judge_by=judge_by, resamples=resamples, seed=seed)


def predict(
    student: Models,
    test: Examples,
    *,
    baseline: Models | None = None,
    teacher: TeacherLike | None = None,
    held_out: Examples | None = None,
    objective: Objective | None = None,
    show: Callable[[dict[str, Tensor]], object] | None = None,
    batch_size: int = 256,
    device: torch.device | str | None = None,
    latency: bool = True,
) -> Predictions:
    """Runs every model on every example of `test`, a TransferSet with or without labels, in one pass.

    student: a model (as `logits_of` takes it), or a list of them, one per seed. baseline: as many, where the one at
        place s was trained with the same seed as student s. teacher: as `as_teacher` takes it; it must give the
        probabilities of all classes. Modules run in eval mode without gradient; their modes are restored.
    held_out: a labelled TransferSet that none was trained on and that is not the test;
        calibration temperatures are fitted on it.
    objective: what the students were trained with, shown in the results; by default what DistillTrainer noted on them.
    show: `example -> text or image`, makes an example visible in the results; example is a dict without the batch
        axis. By default, the input column that is an image is shown.
    device: where batches are put; by default, where the first student is. The models must be there.
    latency: whether to time the models, for about half a second in all.

    Rows whose `mask` is False are left out; `weights` are not used. Raises LimbeckErrors where classes, labels and
    models do not fit together, and for logits that are nan or infinite.
    """
    models = by_role(student, baseline, teacher)
    if (task := _settled(models, test)).kind != CLASSIFICATION:
        raise ConfigError(f"predict collects statistics of classes, but the task is {task.kind}; use limbeck.evaluate.")
    _check(models, test, held_out)
    device = device or device_of_model(models["student"][0])
    with evaluating(m for members in models.values() for m in members):
        functions = {role: [_function_of(role, m) for m in members] for role, members in models.items()}
        calibration_temperatures, unscaled = _calibration_temperatures(functions, held_out, batch_size, device)
        rows, classes, statistics, dark, log_probs = _stream(
            functions, batches_of(test, batch_size, device), calibration_temperatures, len(test)
        )
        names = getattr(test, "label_names", None)
        if names and len(names) != classes:
            raise ShapeError(
                f"The test set has {len(names)} classes and the student {classes} outputs; both must have the same "
                "classes. (Labels that are numbers keep their places by num_classes= of limbeck.table.)"
            )
        examples = []
        if "teacher" in functions and len(rows["place"]):
            kl = statistics["student"]["forward_kl"][0]
            most = np.argsort(-kl, kind="stable")[:EXAMPLES_SHOWN]
            examples = _disagreements(functions, test, rows["place"][most].tolist(), kl[most], device, show)
        costs: dict[str, dict[str, Any]] = {role: dict(size_of(members[0])) for role, members in models.items()}
        costs["student"]["fingerprints"] = [fingerprint_of(m) for m in models["student"]]
        for role, members in models.items() if latency else ():
            timed = members[0]
            if role == "teacher":
                timed = as_teacher(timed).live  # recorded answers are only looked up
                if timed.in_batch:
                    continue  # the model behind the stored answers is not here
            costs[role]["latency_ms"] = latency_of(
                _function_of(role, timed), test, device, LATENCY_SECONDS / len(models)
            )
    return Predictions(
        rows["row_id"],
        rows["labels"],
        classes,
        names,
        statistics,
        calibration_temperatures,
        unscaled,
        examples,
        costs,
        dark,
        objective_of_all(models["student"], objective),
        log_probs,
    )


def _settled(models: Mapping[str, Sequence[Any]], test: object) -> Task:
    """The task of models and test (`settle_task`)."""
    known: list[tuple[str, object]] = []
    for role, members in models.items():
        for model in members:
            if role == "teacher" and not isinstance(model, nn.Module):  # as_teacher would freeze the user's module
                known += models_of(as_teacher(model))
            else:
                known += [(role, network) for network in networks_of(model) or []]
    return settle_task(known, test)


def _check(models: Mapping[str, Sequence[Any]], test: Any, held_out: Any) -> None:
    if len(teachers := models.get("teacher", ())) > 1:
        raise ConfigError(
            f"An evaluation compares with one teacher, but got {len(teachers)} teachers; combine them: Ensemble([...])."
        )
    for role, members in models.items():
        networks = networks_of_all(members) or []
        require_supported_tasks(networks, role)
        for network in networks:
            find_processor(network, test, role)
            require_table(network, test, role)
    for role, members in models.items():
        for model in members:
            check_texts(None if role == "teacher" else model, model if role == "teacher" else None, test)
    if len(test) == 0:
        raise DataError("The test set is empty; an evaluation needs at least one example.")
    if held_out is test:
        raise ConfigError("held_out is the test set itself; calibration temperatures must be fitted on other examples.")
    known = {f"the {role}": label_names_of(m) for role, members in models.items() for m in members[:1]}
    known["the test set"] = getattr(test, "label_names", None)
    check_label_names({who: names for who, names in known.items() if names})


def _stream(
    functions: Mapping[str, Sequence[LogProbs]],
    batches: Iterator[Batch],
    calibration_temperatures: Mapping[str, np.ndarray],
    examples: int,
) -> tuple[
    dict[str, np.ndarray],
    int,
    dict[str, dict[str, np.ndarray]],
    dict[str, np.ndarray] | None,
    dict[str, np.ndarray],
]:
    """One pass over the test: its rows (place, row_id, labels), the number of classes, statistics, dark knowledge, and
    log-probabilities by role where they are few.
    """
    rows: list[dict[str, Tensor]] = []
    parts: dict[str, list[list[dict[str, Tensor]]]] = {role: [[] for _ in each] for role, each in functions.items()}
    ranked: dict[str, list[list[Tensor]]] = {role: [[] for _ in each] for role, each in functions.items()}
    knowledge = DarkKnowledge()
    seen = classes = 0
    for batch in batches:
        row_id, labels, places = _positions(batch)
        log_p = functions["teacher"][0](batch)[places] if "teacher" in functions else None
        for role, each in functions.items():
            for seed, function in enumerate(each):
                log_q = log_p if role == "teacher" and log_p is not None else function(batch)[places]
                classes = log_q.shape[-1]
                _check_labels(labels, classes, row_id)
                calibration_temperature = (
                    float(calibration_temperatures[role][seed, 0]) if role in calibration_temperatures else None
                )
                parts[role][seed].append(
                    _statistics(log_q, None if role == "teacher" else log_p, labels, calibration_temperature)
                )
                if classes <= MOST_CLASSES_RANKED and classes * examples <= MOST_RANKED:
                    ranked[role][seed].append(log_q.cpu())
                if role == "student" and seed == 0 and log_p is not None and 1 < classes <= MOST_CLASSES:
                    knowledge.add(log_p, log_q, labels)
        rows.append({"place": seen + places.cpu(), "row_id": row_id.cpu(), "labels": labels.cpu()})
        seen += len(batch["row_id"])
    statistics = {
        role: {name: np.stack([joined(one, name) for one in seeds]) for name in seeds[0][0]}
        for role, seeds in parts.items()
    }
    log_probs = {
        role: np.stack([torch.cat(one).numpy() for one in seeds]) for role, seeds in ranked.items() if seeds[0]
    }
    return {name: joined(rows, name) for name in rows[0]}, classes, statistics, knowledge.sums or None, log_probs


def _statistics(
    log_q: Tensor, log_p: Tensor | None, labels: Tensor, calibration_temperature: float | None
) -> dict[str, Tensor]:
    statistics = position_statistics(log_q, log_p, labels) | {"predicted": log_q.argmax(-1)}
    if calibration_temperature is not None:
        scaled = (log_q / calibration_temperature).log_softmax(-1)
        statistics |= {
            "scaled_nll": nll(scaled, labels),
            "scaled_brier": brier(scaled, labels),
            "scaled_confidence": confidence(scaled),
        }
    return {name: values.cpu() for name, values in statistics.items()}


def _calibration_temperatures(
    functions: Mapping[str, Sequence[LogProbs]], held_out: Any, batch_size: int, device: Any
) -> tuple[dict[str, np.ndarray], str | None]:
    """The calibration temperature of every role and seed, `[seeds, 1]`, fitted on held_out; or why there is none."""
    if held_out is None:
        return {}, "No held-out set was given to fit a calibration temperature on."
    fitted: dict[str, list[list[float]]] = {role: [] for role in functions}
    for role, each in functions.items():
        for function in each:
            found, right = [], []
            for batch in batches_of(held_out, batch_size, device):
                row_id, labels, places = _positions(batch)
                log_q = function(batch)[places]
                if log_q.shape[-1] > MOST_CLASSES:
                    return {}, f"Calibration temperatures are fitted for up to {MOST_CLASSES} classes."
                _check_labels(labels, log_q.shape[-1], row_id)
                found.append(log_q)
                right.append(labels)
            if (torch.cat(right) == NO_LABEL).all():
                return {}, "The held-out set has no labels to fit a calibration temperature on."
            fitted[role].append([fit_calibration_temperature(torch.cat(found), torch.cat(right))])
    return {role: np.array(each) for role, each in fitted.items()}, None


def _disagreements(
    functions: Mapping[str, Sequence[LogProbs]], test: Any, places: list[int], kl: np.ndarray, device: Any, show: Any
) -> list[dict[str, Any]]:
    """The examples at these places with the log-probabilities of each role's first model. kl: KL(teacher‖student)."""
    batch = moved(test.__getitems__(places), device)
    log_probs = {role: each[0](batch).cpu() for role, each in functions.items()}
    classes = log_probs["teacher"].shape[-1]
    listed = torch.arange(classes).expand(len(places), -1)
    if classes > MOST_CLASSES_DRAWN:
        listed = log_probs["teacher"].topk(10).indices
    examples = []
    for i in range(len(places)):
        example = {n: x[i].cpu() if isinstance(x, Tensor) else x[i] for n, x in batch.items()}
        label = int(example.get("labels", NO_LABEL))
        examples.append(
            {
                "row_id": int(example["row_id"]),
                "label": label if label != NO_LABEL else None,
                "forward_kl": float(kl[i]),
                "classes": listed[i].tolist(),
                "log_probs": {role: values[i, listed[i]].tolist() for role, values in log_probs.items()},
                **_shown(example, show),
            }
        )
    return examples


def _shown(example: dict[str, Any], show: Callable[[dict[str, Any]], Any] | None) -> dict[str, str | None]:
    """The example for people: a text, or an image as a PNG in base64."""
    seen = [show(example)] if show is not None else list(inputs_of(example).values())
    text = next((x for x in seen if isinstance(x, str)), None)
    image = next((x for x in seen if _is_image(x)), None)
    return {"text": text, "image": None if image is None else _png(image)}


def _is_image(x: Any) -> bool:
    """Whether x is `[H, W]` or `[C, H, W]` of 1 or 3 channels, of floats in [0, 1]."""
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.numel() == 0:
        return False
    return (x.ndim == 2 or (x.ndim == 3 and x.shape[0] in (1, 3))) and bool((x >= 0).all() and (x <= 1).all())


def _png(image: Tensor) -> str:
    pixels = (image * 255).round().to(torch.uint8)
    pixels = pixels.movedim(0, -1).squeeze(-1) if pixels.ndim == 3 else pixels  # [H, W, 3] or [H, W]
    file = io.BytesIO()
    Image.fromarray(pixels.contiguous().numpy()).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode("ascii")


def _function_of(role: str, model: Any) -> LogProbs:
    return partial(_teacher_log_probs if role == "teacher" else _student_log_probs, model)


def _student_log_probs(model: Any, batch: Batch) -> Tensor:
    logits = logits_of(model, batch)
    if logits.ndim != 2 or len(logits) != len(batch["row_id"]):
        raise ShapeError(
            f"{type(model).__name__} must give one row of logits per example, [{len(batch['row_id'])}, C], to be "
            f"evaluated, but gave {list(logits.shape)}."
        )
    require_several_classes(logits.shape[-1], "student or baseline")
    bad = ~logits.amax(-1).isfinite()  # amax passes nan on
    if bad.any():
        raise ModelError(
            f"{type(model).__name__} gave nan or infinity for the example with row_id {int(batch['row_id'][bad][0])}; "
            "look at that example, or at the model's weights."
        )
    if len(logits) > 1:  # one row can be a distribution by chance
        refuse_probabilities(logits, "model", "remove its softmax, or return probs.log()")
    return logits.float().log_softmax(-1)


def _teacher_log_probs(teacher: Any, batch: Batch) -> Tensor:
    if isinstance(teacher, nn.Module):  # as_teacher would freeze the user's module
        teacher = partial(_dense, teacher)
    targets = as_teacher(teacher)(batch)
    require_complete(targets)
    require_several_classes(targets.num_classes, "teacher")
    for logits in given_logits(targets) if len(targets) > 1 else []:
        refuse_probabilities(logits, "teacher", "remove its softmax, or return probs.log()")
    bad = targets.bad_rows(forward_kl)
    if bad.any():
        raise TargetError(
            "The teacher gave nan, infinity or an impossible distribution for the example with row_id "
            f"{int(batch['row_id'][bad][0])}; look at that example, or at the teacher's dtype."
        )
    return targets.all_log_probs(1.0).float()


def _dense(model: nn.Module, batch: Batch) -> DenseTargets:
    return DenseTargets(logits_of(model, teacher_view(batch)))


def _positions(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Row ids and labels (-100 for none) of the examples that are not masked, and their places in the batch."""
    rows = batch["row_id"]
    labels = batch.get("labels", torch.full_like(rows, NO_LABEL))
    places = batch.get("mask", torch.ones_like(rows)).bool().nonzero().squeeze(1)
    return rows[places], labels[places], places


def _check_labels(labels: Tensor, classes: int, row_id: Tensor) -> None:
    bad = out_of_range(labels, classes)
    if bad.any():
        raise DataError(
            f"Labels must be classes from 0 to {classes - 1}, which the model tells apart, or {NO_LABEL}, but the "
            f"example with row_id {int(row_id[bad][0])} has {int(labels[bad][0])}."
        )
