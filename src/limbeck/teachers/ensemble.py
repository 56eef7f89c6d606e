"""Several teachers as one: their distributions are averaged where they are used.

What this file does not know: how the mean is taken (losses/targets/mixed.py), the objective.
"""

import copy
import hashlib
from collections.abc import Sequence
from typing import Self

from limbeck.errors import ConfigError, ModelError
from limbeck.losses.targets import GaussianTargets, MixedTargets, SoftTargets, member_weights
from limbeck.losses.targets.gaussian import mixture
from limbeck.networks.asking import Batch
from limbeck.networks.outputs import Task
from limbeck.networks.positions import Positions
from limbeck.teachers.conversion import as_teacher
from limbeck.teachers.protocol import BaseTeacher, TeacherLike


class Ensemble(BaseTeacher):
    """Several teachers whose distributions are averaged (arXiv 1503.02531, section 4).

    members: networks, other teachers, scikit-learn classifiers with predict_proba, functions of the batch.
    mean: "arithmetic", the mean of their softened probabilities, or "geometric", its normalised product. Of numbers
        (regression) the mean and variance of the members' mixture.
    weights: one per member, relative to each other; equal by default.
    """

    def __init__(
        self, members: Sequence[TeacherLike], *, mean: str = "arithmetic", weights: Sequence[float] | None = None
    ):
        if not members:
            raise ModelError("An ensemble needs at least one member, but got none.")
        self.members = [as_teacher(member) for member in members]
        self.mean = mean
        self.weights = member_weights(weights, len(members))

    def __call__(self, batch: Batch, positions: Positions | None = None) -> SoftTargets:
        """The members' targets, averaged where they are used; of numbers, their mean and variance."""
        targets = [member(batch, positions) for member in self.members]
        numbers = [each for each in targets if isinstance(each, GaussianTargets)]
        if not numbers:
            return MixedTargets(targets, self.mean, self.weights)
        if len(numbers) < len(targets) or self.mean != "arithmetic":
            raise ConfigError(
                "The members of an ensemble must all give classes, or all give numbers, whose mean is arithmetic; "
                f"here {len(numbers)} of {len(targets)} give numbers and the mean is {self.mean}."
            )
        return mixture(numbers, self.weights)

    @property
    def label_names(self) -> tuple[str, ...] | None:
        """The names of the classes, where a member has them; ModelError where two members differ."""
        known = {names for member in self.members if (names := member.label_names)}
        if len(known) > 1:
            raise ModelError(
                "The members of an ensemble must have the same classes in the same order, but they have "
                f"{' and '.join(str(list(names)) for names in sorted(known))}."
            )
        return known.pop() if known else None

    @property
    def settled_task(self) -> Task | None:  # type: ignore[override]
        """What the answers of its members mean, where they do not know themselves."""
        return self.members[0].settled_task

    @settled_task.setter
    def settled_task(self, task: Task | None) -> None:
        for member in self.members:
            member.settled_task = task

    def cut(self, classes: int) -> Self:
        """The same ensemble of its members, each cut to the first `classes`."""
        narrower = copy.copy(self)
        narrower.members = [member.cut(classes) for member in self.members]
        return narrower

    def fingerprint(self) -> str:
        """SHA-256 of the mean, the weights and the members' fingerprints, in order."""
        parts = [self.mean, repr(self.weights), *(member.fingerprint() for member in self.members)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()
