"""The interface of teachers: the distribution of each position of a batch, and a fingerprint.

`Teacher` is what a user's class must have; `BaseTeacher` is what Limbeck calls. `as_teacher` makes the second from
the first, so a class needs only what differs from the defaults here.

What this file does not know: networks, the kinds of teachers, the objective.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, Self, TypeAlias, runtime_checkable

import torch
from torch import Tensor, nn

from limbeck.errors import ConfigError, DataError, ModelError, TargetError
from limbeck.losses.targets import DenseTargets, GaussianTargets, SoftTargets, is_complete
from limbeck.networks.asking import Batch, networks_of, networks_of_all
from limbeck.networks.outputs import Task
from limbeck.networks.positions import Positions

Augment = Callable[[Batch, int], Batch]


@runtime_checkable
class Teacher(Protocol):
    """The least that a teacher has: it answers for a batch, and its fingerprint tells it from another teacher."""

    def __call__(self, batch: Batch) -> SoftTargets:
        """The distribution of each position of the batch, `[n, C]`."""
        ...

    def fingerprint(self) -> str:
        """A hash of weights, configuration and dtype."""
        ...


class HasProbabilities(Protocol):
    """A fitted classifier of scikit-learn, or of a library with its interface."""

    def predict_proba(self, features: Any, /) -> Any:
        """The probability of each class, `[n, C]`."""
        ...


class HasPredictions(Protocol):
    """A fitted regressor of scikit-learn, or of a library with its interface."""

    def fit(self, features: Any, labels: Any, /) -> Any:
        """Trains it; never called."""
        ...

    def predict(self, features: Any, /) -> Any:
        """The number or numbers of each example, `[n]` or `[n, D]`."""
        ...


TeacherLike: TypeAlias = Teacher | HasProbabilities | HasPredictions | Callable[..., Any]
"""What `as_teacher` makes a teacher of: a teacher, a classifier, a regressor, a network, or a function of a batch."""


class BaseTeacher(ABC):
    """A teacher with defaults for everything except its answer and its fingerprint.

    A teacher made from others lists them in `members`: the defaults then go through them.
    """

    members: Sequence["BaseTeacher"] = ()
    """The teachers that this one is made from."""

    shares_student: bool = False
    """Whether it answers with the student's own weights."""

    settled_task: Task | None = None
    """What its answers mean, by `settle_task`, where it does not know itself."""

    @abstractmethod
    def __call__(self, batch: Batch, positions: Positions | None = None) -> SoftTargets:
        """The distribution of each position of the batch, `[n, C]`.

        positions: the positions of the batch, where the caller has them already; a teacher that needs none ignores
            them, and one that does finds them itself where they are None.
        """

    @abstractmethod
    def fingerprint(self) -> str:
        """A hash of weights, configuration and dtype; not changed by `to` or `cut`."""

    @property
    def task(self) -> Task | None:
        """What its answers mean, where it knows and is not made of networks, which know themselves."""
        return next((task for member in self.members if (task := member.task) is not None), None)

    @property
    def label_names(self) -> tuple[str, ...] | None:
        """The names of the classes in order, where they are known."""
        return None

    @property
    def networks(self) -> list[nn.Module] | None:
        """The networks that it is made of, its members' by default; None where a part of it is not a network."""
        return networks_of_all(self.members)

    @property
    def one_view(self) -> bool:
        """Whether its answers hold only for the examples as they are, without augmentation."""
        return any(member.one_view for member in self.members)

    @property
    def in_batch(self) -> bool:
        """Whether it reads its answers from the batch's own columns, with no model behind it."""
        return any(member.in_batch for member in self.members)

    @property
    def live(self) -> "BaseTeacher":
        """The teacher that computes the answers: itself, unless its answers were recorded."""
        return self

    def to(self, device: torch.device | str) -> Self:
        """Moves to the device whatever can be moved; returns itself."""
        for member in self.members:
            member.to(device)
        return self

    def close(self) -> None:
        """Releases what it holds open, such as a connection."""
        for member in self.members:
            member.close()

    def cut(self, classes: int) -> "BaseTeacher":
        """A teacher that gives a distribution over the first `classes` alone; this one stays as it is.

        TargetError, when the new teacher answers, where its targets have more classes and do not list them all.
        """
        return CutTeacher(self, classes)

    def prepare(
        self, sets: Mapping[str, object], tokenizer: object, augment: Augment | None
    ) -> tuple[int | None, Augment | None]:
        """The number of classes that output layers must be cut to, or None, and the augmentation to train with.

        sets: "transfer" and the evaluation sets, by name. tokenizer: the student's, or None.
        augment: `(batch, epoch) -> batch`, or None; returned as it is unless a member replays stored views.

        DataError or ConfigError where a member cannot answer for these sets, or two members disagree.
        """
        prepared = [member.prepare(sets, tokenizer, augment) for member in self.members]
        sizes = sorted({classes for classes, _ in prepared if classes is not None})
        if len(sizes) > 1:
            raise DataError(
                f"The members of a teacher must have the same number of classes, but have {sizes}; label again with "
                "one tokenizer, or remove a member."
            )
        replays = {repr(view): view for _, view in prepared if view is not augment}
        if len(replays) > 1:
            raise ConfigError(
                f"The members of a teacher must replay the same views, but replay {' and '.join(sorted(replays))}; "
                "label again with one augmentation, or remove a member."
            )
        return next(iter(sizes), None), next(iter(replays.values()), augment)


class WrappedTeacher(BaseTeacher):
    """A user's teacher, which has `Teacher`'s two methods and any of BaseTeacher's others, with the missing ones added.

    teacher: the user's object; it is called, moved and closed, and never changed otherwise.
    """

    def __init__(self, teacher: Teacher):
        self.teacher = teacher
        self.shares_student = bool(getattr(teacher, "shares_student", False))

    def __call__(self, batch: Batch, positions: Positions | None = None) -> SoftTargets:
        """The teacher's own answer to the batch; positions are not passed to it."""
        return self.teacher(batch)

    def fingerprint(self) -> str:
        """The teacher's own fingerprint."""
        return self.teacher.fingerprint()

    @property
    def task(self) -> Task | None:
        """What its answers mean, where the teacher says so."""
        task = getattr(self.teacher, "task", None)
        return task if isinstance(task, Task) else None

    @property
    def label_names(self) -> tuple[str, ...] | None:
        """The names of the classes in order, where the teacher has them."""
        names = getattr(self.teacher, "label_names", None)
        return None if names is None else tuple(names)

    @property
    def networks(self) -> list[nn.Module] | None:
        """The networks of the teacher, which `networks_of` also finds where its class does not list them."""
        return networks_of(self.teacher)

    @property
    def one_view(self) -> bool:
        """Whether its answers hold only for the examples as they are, without augmentation."""
        return bool(getattr(self.teacher, "one_view", False))

    @property
    def in_batch(self) -> bool:
        """Whether it reads its answers from the batch's own columns, with no model behind it."""
        return bool(getattr(self.teacher, "in_batch", False))

    def to(self, device: torch.device | str) -> Self:
        """Moves the teacher, where it can be moved; returns itself."""
        if (move := getattr(self.teacher, "to", None)) is not None:
            move(device)
        return self

    def close(self) -> None:
        """Closes the teacher, where it can be closed."""
        if (close := getattr(self.teacher, "close", None)) is not None:
            close()

    def cut(self, classes: int) -> BaseTeacher:
        """A teacher that gives a distribution over the first `classes` alone, from its own `cut` where it has one."""
        if (cut := getattr(self.teacher, "cut", None)) is None:
            return super().cut(classes)
        made = cut(classes)
        return made if isinstance(made, BaseTeacher) else WrappedTeacher(made)

    def prepare(
        self, sets: Mapping[str, object], tokenizer: object, augment: Augment | None
    ) -> tuple[int | None, Augment | None]:
        """What the teacher's own `prepare` returns, where it has one; otherwise `(None, augment)`."""
        if (prepare := getattr(self.teacher, "prepare", None)) is None:
            return super().prepare(sets, tokenizer, augment)
        classes, view = prepare(sets, tokenizer, augment)
        return classes, view


class CutTeacher(WrappedTeacher):
    """A teacher's distributions restricted to the first `classes`; answers with no more classes pass unchanged.

    teacher: the teacher to be cut, which stays as it is. classes: how many classes are left, 1 or more.
    """

    teacher: BaseTeacher

    def __init__(self, teacher: BaseTeacher, classes: int):
        super().__init__(teacher)
        self.classes = require_classes(classes)

    def __call__(self, batch: Batch, positions: Positions | None = None) -> SoftTargets:
        """The distribution over the first classes, `[n, classes]`."""
        targets = self.teacher(batch, positions)
        if targets.num_classes <= self.classes:
            return targets
        if not is_complete(targets):
            raise TargetError(
                f"Only targets that list all classes can be cut to the first {self.classes}, but got "
                f"{type(targets).__name__} over {targets.num_classes}; cut the teacher that they were made from."
            )
        return DenseTargets(targets.all_log_probs(1.0)[:, : self.classes])

    @property
    def label_names(self) -> tuple[str, ...] | None:
        """The names of the first classes, where they are known."""
        names = self.teacher.label_names
        return None if names is None else names[: self.classes]

    @property
    def live(self) -> BaseTeacher:
        """The teacher that computes the answers, cut in the same way."""
        live = self.teacher.live
        return self if live is self.teacher else live.cut(self.classes)

    def cut(self, classes: int) -> BaseTeacher:
        """A teacher cut to the smaller of the two numbers of classes."""
        return CutTeacher(self.teacher, min(require_classes(classes), self.classes))


def models_of(teacher: BaseTeacher) -> list[tuple[str, object]]:
    """A teacher's networks and itself, as `limbeck.networks.outputs.settle_task` takes them."""
    return [("teacher", model) for model in (*(networks_of(teacher) or ()), teacher)]


def targets_by_task(positions: Tensor, task: Task | None) -> SoftTargets:
    """The targets of a network's outputs by position, as `limbeck.networks.outputs.as_positions` lays them out."""
    rows = positions.flatten(0, -2)
    if task is not None and task.is_regression:
        return GaussianTargets(rows[:, 0], rows[:, 1] if task.variance else None)
    return DenseTargets(rows)


def require_classes(classes: int) -> int:
    """The number of classes that a teacher is cut to; ModelError unless it is 1 or more."""
    if classes < 1:
        raise ModelError(f"classes must be 1 or more, but is {classes}.")
    return classes
