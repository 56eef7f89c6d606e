"""A generalist and its specialists as one teacher (arXiv 1503.02531, section 5).

A specialist tells its own classes apart and counts all others as one, its dustbin: an event that stands for many
classes, as the tail of sparse targets is. The answer for a case is the full distribution `q` that minimises

    KL(p_g, q) + sum_{m active} KL(p_m, q)          (the paper's Eq. 5)

where for a specialist `q` is summed over the classes of its dustbin.
What this file does not know: how specialists are trained, the objective.
"""

import copy
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from limbeck.errors import ModelError, ShapeError
from limbeck.losses.targets import DenseTargets
from limbeck.networks.asking import Batch
from limbeck.networks.positions import Positions
from limbeck.teachers.conversion import as_teacher
from limbeck.teachers.protocol import BaseTeacher, TeacherLike


@dataclass(frozen=True)
class Specialist:
    """A teacher for some classes and a dustbin for all others.

    model: a network or teacher over K + 1 classes: the K special ones in the order of `classes`, then the dustbin.
    classes: the special classes, as the generalist numbers them.
    """

    model: Any
    classes: tuple[int, ...]


class Specialists(BaseTeacher):
    """A generalist combined with those specialists whose classes include one of its most probable ones.

    generalist: a network or teacher over all C classes.
    specialists: Specialist objects. guesses: how many of the generalist's most probable classes make a specialist
        active (the paper's n; it used 1).
    Its targets are log q at T = 1, DenseTargets `[n, C]`.
    """

    def __init__(self, generalist: TeacherLike, specialists: Sequence[Specialist], guesses: int = 1):
        if not specialists:
            raise ModelError("Specialists need at least one specialist; a generalist alone is a teacher already.")
        if guesses < 1:
            raise ModelError(f"guesses is how many classes of the generalist count, 1 or more, but is {guesses}.")
        self.generalist = as_teacher(generalist)
        self.specialists = [as_teacher(specialist.model) for specialist in specialists]
        self.classes = [tuple(specialist.classes) for specialist in specialists]
        self.guesses = guesses
        self.members = [self.generalist, *self.specialists]

    def __call__(self, batch: Batch, positions: Positions | None = None) -> DenseTargets:
        """log q of Eq. 5, `[n, C]`, for each case of the batch."""
        general = self.generalist(batch, positions).all_log_probs(1.0)
        special = [specialist(batch, positions).all_log_probs(1.0) for specialist in self.specialists]
        return DenseTargets(solve(general, special, self.classes, self.active(general)).float())

    def active(self, general: Tensor) -> Tensor:
        """`[n, M]` bool: the specialists whose classes hold one of the generalist's guesses."""
        guessed = general.topk(self.guesses, dim=-1).indices  # [n, guesses]
        member = _membership(self.classes, general.shape[-1], general.device)  # [M, C]
        return member[:, guessed].any(-1).T

    def cut(self, classes: int) -> Self:
        """The same specialists with a generalist of the first `classes`; ModelError where one has a class beyond."""
        if (highest := max(max(special) for special in self.classes)) >= classes:
            raise ModelError(
                f"Specialists with a class {highest} cannot be cut to the first {classes} classes; make them of "
                "specialists for those classes alone."
            )
        narrower = copy.copy(self)
        narrower.generalist = self.generalist.cut(classes)
        narrower.members = [narrower.generalist, *self.specialists]
        return narrower

    def fingerprint(self) -> str:
        """SHA-256 of the members' fingerprints, their classes and the number of guesses."""
        parts = [repr(self.classes), repr(self.guesses), *(member.fingerprint() for member in self.members)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def solve(
    general: Tensor,
    special: Sequence[Tensor],
    classes: Sequence[Sequence[int]],
    active: Tensor,
    *,
    tolerance: float = 1e-10,
    most_steps: int = 10_000,
) -> Tensor:
    """log q `[n, C]`, float64: the minimiser of the paper's Eq. 5 for each of n cases at once.

    general `[n, C]`: log_p of the generalist. special: log_p `[n, K_m + 1]` of each specialist, its dustbin last.
    classes: the K_m special classes of each. active `[n, M]` bool.

    Minimising Eq. 5 is finding the maximum likelihood of q, where a dustbin is a class that was not told apart: so
    each step shares a dustbin's mass out as q does and averages (expectation-maximisation), which never increases
    Eq. 5. The result is the generalist alone where no specialist is active, and where no dustbin is needed it is
    the arithmetic mean of all distributions.
    """
    n, total = general.shape
    for log_p, members in zip(special, classes, strict=True):
        if log_p.shape != (n, len(members) + 1):
            raise ShapeError(
                f"A specialist of {len(members)} classes gives [{n}, {len(members) + 1}] log-probabilities, the "
                f"dustbin's last, but gave {list(log_p.shape)}."
            )
    on = active.double()  # [n, M]
    known = general.double().exp()  # mass that is known class by class
    for m, (log_p, members) in enumerate(zip(special, classes, strict=True)):
        known[:, list(members)] += on[:, m : m + 1] * log_p[:, :-1].double().exp()
    dust = on * torch.stack([log_p[:, -1].double().exp() for log_p in special], 1)  # [n, M]
    binned = (~_membership(classes, total, general.device)).double()  # [M, C]
    voices = 1 + on.sum(1, keepdim=True)
    q = known / known.sum(1, keepdim=True)
    for _ in range(most_steps):
        in_bin = (q @ binned.T).clamp(min=1e-300)  # [n, M]
        new = (known + q * ((dust / in_bin) @ binned)) / voices
        new = new / new.sum(1, keepdim=True)  # a dustbin without any class of mass has nowhere to go
        moved = (new - q).abs().max()
        q = new
        if moved < tolerance:
            break
    return q.log()


def _membership(classes: Sequence[Sequence[int]], total: int, device: torch.device) -> Tensor:
    """`[M, C]` bool: whether a class is special to a specialist."""
    member = torch.zeros(len(classes), total, dtype=torch.bool, device=device)
    for m, members in enumerate(classes):
        member[m, list(members)] = True
    return member
