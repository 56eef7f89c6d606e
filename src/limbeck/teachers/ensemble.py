"""Several teachers as one, their distributions averaged where they are used.

What this file does not know: how the mean is taken (losses/targets/mixed.py), the objective.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import torch

from limbeck.errors import ModelError
from limbeck.losses.targets import MixedTargets, member_weights
from limbeck.networks.asking import Batch
from limbeck.teachers.conversion import as_teacher


class Ensemble:
    """Teachers that speak with one voice (arXiv 1503.02531, section 4).

    members: networks, other teachers, scikit-learn classifiers with predict_proba, functions of the batch.
    mean: "arithmetic", the mean of their softened probabilities, or "geometric", its normalised product.
    weights: one per member, relative to each other; equal by default.
    """

    def __init__(self, members: Sequence[Any], *, mean: str = "arithmetic", weights: Sequence[float] | None = None):
        if not members:
            raise ModelError("An ensemble needs at least one member, but got none.")
        self.members = [as_teacher(member) for member in members]
        self.mean = mean
        self.weights = member_weights(weights, len(members))

    def __call__(self, batch: Batch) -> MixedTargets:
        """What each member says, mixed where it is used."""
        return MixedTargets([member(batch) for member in self.members], self.mean, self.weights)

    @property
    def label_names(self) -> tuple[str, ...] | None:
        """The names of the classes, where a member knows them; all that do must agree."""
        known = {names for member in self.members if (names := getattr(member, "label_names", None))}
        if len(known) > 1:
            raise ModelError(
                "The members of an ensemble must have the same classes in the same order, but they have "
                f"{' and '.join(str(list(names)) for names in sorted(known))}."
            )
        return known.pop() if known else None

    @property
    def one_view(self) -> bool:
        """Whether what a member says holds for the examples as they are, without augmentation."""
        return any(getattr(member, "one_view", False) for member in self.members)

    def to(self, device: torch.device | str) -> "Ensemble":
        """Moves every member that can be moved."""
        for member in self.members:
            if hasattr(member, "to"):
                member.to(device)
        return self

    def fingerprint(self) -> str:
        """SHA-256 of the mean, the weights and the members' fingerprints, in order."""
        parts = [self.mean, repr(self.weights), *(member.fingerprint() for member in self.members)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()
