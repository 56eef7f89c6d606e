"""The statistics of each position in an evaluation during training, and their averages.

What this file does not know: models, how batches are collated.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor
from transformers import TrainingArguments

from limbeck.errors import ConfigError
from limbeck.losses.metrics import position_statistics
from limbeck.losses.numbers import NO_LABEL
from limbeck.losses.objective import Objective
from limbeck.losses.targets import Head, SoftTargets, is_complete
from limbeck.losses.targets.gaussian import require_gaussian
from limbeck.networks.halves import ROWS

OF_LABELS = ("correct", "nll", "brier")
OF_TEACHER = ("agreement", "acceptance", "forward_kl", "reverse_kl")
"""The statistics that need a label, and those that need the teacher's probability of every class."""
OF_NUMBERS = ("squared_error", "absolute_error")
"""The statistics of numbers that need a label, in standard units; "teacher_squared_error" needs a teacher."""
OF_TRAINER = ("runtime", "samples_per_second", "steps_per_second", "model_preparation_time")
PLATEAU = ("reduce_lr_on_plateau", "greedy")
"""Schedules that follow a metric."""


def require_metric(args: TrainingArguments, objective: Objective, sets: Iterable[str]) -> None:
    """ConfigError where checkpoints are chosen by a metric that no evaluation measures; known before any step.

    sets: the names of the evaluation sets, where there are several.
    """
    wanted = args.metric_for_best_model
    chosen = args.load_best_model_at_end or args.save_strategy == "best" or args.lr_scheduler_type in PLATEAU
    if wanted is None or not chosen:
        return
    names = {"loss", "accuracy", "nll", "brier", *OF_TEACHER, "confidence", "entropy", *OF_TRAINER}
    if objective.of_values:
        names = {"loss", *OF_NUMBERS, "teacher_squared_error", *OF_TRAINER}
    names |= {f"{term.name}_loss" for term in objective.terms}
    names |= {f"{name}_{metric}" for name in sets for metric in names}
    if wanted.removeprefix("eval_") not in names:
        raise ConfigError(
            f"metric_for_best_model is {wanted!r}, which no evaluation measures; there are {', '.join(sorted(names))}."
        )


def measured(
    objective: Objective, logits: Tensor, targets: SoftTargets | None, labels: Tensor | None
) -> dict[str, Tensor]:
    """Statistics and every term of n positions, name -> `[n]`, without those whose labels or targets are missing.

    objective: its terms are measured as `NAME_loss`.
    logits: the student's, `[n, C]`.
    targets: the teacher's at the same positions, or None.
    labels: `[n]`, -100 for no label, or None.
    """
    terms = {f"{name}_loss": values for name, values in objective.per_position(logits, targets, labels).items()}
    log_p = None
    if targets is not None and is_complete(targets):
        log_p = targets.all_log_probs(1.0)
    statistics = position_statistics(logits, log_p, labels)
    unknown = {*(OF_LABELS if labels is None else ()), *(OF_TEACHER if log_p is None else ())}
    columns = {name: values for name, values in statistics.items() if name not in unknown}
    labelled = {} if labels is None else {"labelled": labels != NO_LABEL}
    return columns | terms | labelled


def measured_numbers(
    objective: Objective, values: Tensor, targets: SoftTargets | None, labels: Tensor | None
) -> dict[str, Tensor]:
    """`measured` for numbers `[n, 1 or 2]`, in standard units; labels: nan for none."""
    terms = {f"{name}_loss": each for name, each in objective.per_position(values, targets, labels).items()}
    found: dict[str, Tensor] = {}
    if labels is not None:
        error = values[:, 0] - labels
        found |= {"squared_error": error**2, "absolute_error": error.abs(), "labelled": ~labels.isnan()}
    if targets is not None:
        found["teacher_squared_error"] = (values[:, 0] - require_gaussian(targets).mean) ** 2
    return found | terms


def measured_in_chunks(
    objective: Objective, hidden: Tensor, head: Head, targets: SoftTargets | None, labels: Tensor
) -> dict[str, Tensor]:
    """`measured` for hidden states, with the logits of a few rows in memory at a time.

    hidden: the student's last states, `[n, H]`. head: its output layer.
    """
    chunks = [slice(start, start + ROWS) for start in range(0, max(1, len(hidden)), ROWS)]
    parts = [
        measured(objective, head(hidden[rows]), None if targets is None else targets[rows], labels[rows])
        for rows in chunks
    ]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def means_of(objective: Objective, columns: Mapping[str, Tensor]) -> dict[str, float]:
    """The weighted mean of each statistic over the positions that have it, and the objective's value as "loss".

    columns: statistics as `measured` returns them and "weight", each `[n]`.
    """
    column = dict(columns)
    weight = column.pop("weight").clamp(min=0)  # Trainer pads with -100
    labelled = column.pop("labelled", weight).clamp(min=0)
    of_labels = {*OF_LABELS, *OF_NUMBERS, *(f"{term.name}_loss" for term in objective.terms if term.needs_labels)}
    means = {}
    for name, values in column.items():
        share = weight * labelled if name in of_labels else weight
        if share.sum() > 0:
            values = torch.where(share > 0, values, 0.0)  # what is nan or infinite elsewhere does not count
            means[name] = float((values * share).sum() / share.sum())
    if "correct" in means:
        means["accuracy"] = means.pop("correct")
    terms = [(term.scale, means.get(f"{term.name}_loss")) for term in objective.terms]
    if any(mean is not None for _, mean in terms):
        means["loss"] = sum(scale * (mean or 0.0) for scale, mean in terms)
    return means
