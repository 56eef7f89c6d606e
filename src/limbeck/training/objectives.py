"""Which objective fits the task of a student and its teacher.

What this file does not know: batches, how a student is trained.
"""

from dataclasses import replace

from torch import nn

from limbeck.errors import ConfigError
from limbeck.losses.objective import Objective
from limbeck.losses.values import VALUE_DIVERGENCES, ValueDivergence, gaussian_cross_entropy, gaussian_kl, squared_error
from limbeck.networks.asking import networks_of
from limbeck.networks.outputs import Task, settle_task, task_of
from limbeck.teachers import BaseTeacher
from limbeck.teachers.protocol import models_of


def default_objective(task: Task | None, teacher: BaseTeacher | None) -> Objective:
    """Soft targets at T = 2 where there is a teacher, labels where there is none; of numbers, divergences of numbers.

    task: the student's, with its variance; None for a language model.
    """
    weights = (1.0, 0.0) if teacher is not None else (0.0, 1.0)
    if task is None or not task.is_regression:
        return Objective(soft_weight=weights[0], hard_weight=weights[1])
    divergence = squared_error
    if task.variance:
        divergence = gaussian_kl if teacher is None or gives_variance(teacher) else gaussian_cross_entropy
    return Objective(divergence, 1.0, *weights)


def require_objective_of(objective: Objective, task: Task | None, teacher: BaseTeacher | None) -> None:
    """ConfigError where an objective of classes is given for numbers, or one of numbers for classes.

    Also where it compares variances that student or teacher do not give, or leaves the student's unlearned.
    """
    numbers = task is not None and task.is_regression
    if numbers == objective.of_values:
        if task is not None and numbers and objective.soft_weight:
            _require_variances(objective.divergence, task, teacher)
        return
    name = getattr(objective.divergence, "name", "")
    if numbers:
        raise ConfigError(
            f"The task is regression, whose numbers cannot be compared by {name}; use one of "
            f"{', '.join(VALUE_DIVERGENCES)} (--divergence)."
        )
    raise ConfigError(
        f"{name} compares numbers (regression), but the task is {'language' if task is None else task.kind}."
    )


def _require_variances(divergence: object, task: Task, teacher: BaseTeacher | None) -> None:
    assert isinstance(divergence, ValueDivergence)
    if divergence.outputs == 2 and not task.variance:
        raise ConfigError(
            f"{divergence.name} compares variances, and the student gives none: give it one (--variance), or use "
            "squared_error (--divergence)."
        )
    if divergence.outputs == 1 and task.variance:
        raise ConfigError(
            f"{divergence.name} teaches no variance, and the student gives one: use gaussian_kl or "
            "gaussian_cross_entropy (--divergence), or a student without it."
        )
    if divergence.needs_variance and teacher is not None and not gives_variance(teacher):
        raise ConfigError(
            f"{divergence.name} needs the teacher's variance, and this teacher gives none: use gaussian_cross_entropy "
            "(--divergence), or several teachers, whose spread is a variance."
        )


def settled_task(student: nn.Module, teacher: BaseTeacher | None, examples: object) -> Task:
    """The task of a run, with the student's own variance and units; noted on student and teacher (`settle_task`)."""
    task = settle_task([("student", student), *(() if teacher is None else models_of(teacher))], examples)
    own = task_of(student)
    return task if own is None else replace(task, variance=own.variance, center=own.center, scale=own.scale)


def gives_variance(teacher: BaseTeacher) -> bool:
    """Whether a teacher's numbers come with a variance: its own, or the spread of an ensemble of several."""
    tasks = [task_of(network) for network in networks_of(teacher) or []] + [teacher.task]
    return len(teacher.members) > 1 or any(task is not None and task.variance for task in tasks)
