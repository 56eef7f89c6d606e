"""The roles of a comparison: teacher, students and their baselines, one per seed; requirements on a teacher.

What this file does not know: batches, statistics.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from limbeck.errors import ConfigError, TargetError
from limbeck.losses.objective import Objective
from limbeck.losses.targets import SoftTargets, completion_hint, is_complete
from limbeck.networks.trained import described, objective_of
from limbeck.results import Json, JsonView
from limbeck.teachers.protocol import TeacherLike

Models: TypeAlias = TeacherLike | Sequence[TeacherLike]
"""A model, or one per seed."""

Curves: TypeAlias = Mapping[str, Sequence[JsonView]]
"""The log of each role's training, a mapping per logged step."""


def by_role(
    student: Models, baseline: Models | None = None, teacher: TeacherLike | None = None
) -> dict[str, list[Any]]:
    """The models of each role, where there are any: "teacher", "student", "baseline".

    ConfigError where there is no student, or baselines that do not pair with students.
    """
    models = {"teacher": _as_list(teacher), "student": _as_list(student), "baseline": _as_list(baseline)}
    students, baselines = len(models["student"]), len(models["baseline"])
    if not students:
        raise ConfigError("An evaluation needs at least one student, but got none.")
    if baselines not in (0, students):
        raise ConfigError(
            f"Baselines are paired with students by their place, but there are {baselines} and {students}; pass one "
            "baseline per student, trained with the same seed."
        )
    return {role: members for role, members in models.items() if members}


def require_complete(targets: SoftTargets) -> None:
    """TargetError unless a teacher's targets give the probabilities of all classes."""
    if not is_complete(targets):
        raise TargetError(
            "An evaluation compares the probabilities of all classes, but this teacher gives "
            f"{type(targets).__name__}; evaluate with the teacher that they were made from.{completion_hint(targets)}"
        )


def objective_of_all(students: Sequence[object], objective: Objective | None = None) -> Json | None:
    """What the students were trained with, as plain values; None where that is not known or differs between them.

    objective: given by the caller, it counts instead of what is noted on the students.
    """
    if objective is not None:
        return described(objective)
    first, *others = [objective_of(student) for student in students]
    return first if all(other == first for other in others) else None


def joined(parts: Sequence[Mapping[str, Tensor]], name: str) -> np.ndarray:
    """One statistic of all batches, one after the other."""
    whole: np.ndarray = torch.cat([part[name] for part in parts]).numpy()
    return whole


def _as_list(models: Any) -> list[Any]:
    if models is None:
        return []
    return list(models) if isinstance(models, list | tuple) else [models]
