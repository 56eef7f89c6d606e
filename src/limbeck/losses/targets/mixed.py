"""Targets of an ensemble, mixed where they are used; concatenation of targets."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from limbeck.errors import ObjectiveError, ShapeError, TargetError
from limbeck.losses.divergences import Divergence, forward_kl
from limbeck.losses.targets.defaults import (
    Blocks,
    autocast_to,
    chunk_reader,
    completion_hint,
    given_logits,
    is_complete,
    logit_bytes,
)
from limbeck.losses.targets.dense import DenseTargets, as_targets
from limbeck.losses.targets.protocol import EveryClass, Index, SoftTargets, TensorRows


@dataclass(frozen=True, eq=False)
class MixedTargets(EveryClass):
    """An ensemble's targets, mixed where they are used.

    members: targets over all classes, of the same n and C.
    mean: "arithmetic", sum_k w_k p_k, or "geometric", the normalised product of p_k^w_k.
    weights: one per member, relative to each other; equal by default.

    Each member is softened first: the arithmetic mean is that of softmax(v_k / T), which is not
    softmax(mean(v) / T); that is what the geometric mean is (arXiv 1503.02531, sections 4 and 5.3).
    """

    members: Sequence[SoftTargets]
    mean: str = "arithmetic"
    weights: Sequence[float] | None = None

    def __post_init__(self) -> None:
        if not self.members:
            raise TargetError("MixedTargets need at least one member, but got none.")
        object.__setattr__(self, "members", [as_targets(member) for member in self.members])
        if self.mean not in ("arithmetic", "geometric"):
            raise ObjectiveError(f'The mean of an ensemble is "arithmetic" or "geometric", not {self.mean!r}.')
        shapes = {(len(member), member.num_classes) for member in self.members}
        if len(shapes) > 1:
            raise ShapeError(
                "The members of an ensemble must cover the same rows and classes, but their (n, C) are "
                f"{sorted(shapes)}."
            )
        for member in self.members:
            if not is_complete(member):
                raise TargetError(
                    "The members of an ensemble must give the probabilities of all classes to be mixed, but one gives "
                    f"{type(member).__name__}; mix the teachers first and keep the top classes of the mixture."
                    f"{completion_hint(member)}"
                )
        object.__setattr__(self, "weights", member_weights(self.weights, len(self.members)))

    @property
    def num_classes(self) -> int:
        return self.members[0].num_classes

    def __len__(self) -> int:
        return len(self.members[0])

    def __getitem__(self, rows: Index) -> "MixedTargets":
        return replace(self, members=[member[rows] for member in self.members])

    def to(self, device: torch.device | str) -> "MixedTargets":
        """The same targets on another device."""
        return replace(self, members=[member.to(device) for member in self.members])

    def all_log_probs(self, temperature: float) -> Tensor:
        """The mixture of the members' softened log-probabilities, `[n, C]`."""
        assert self.weights is not None  # set in __post_init__
        weighted = [
            (member.all_log_probs(temperature), weight)
            for member, weight in zip(self.members, self.weights, strict=True)
            if weight > 0
        ]
        if self.mean == "arithmetic":
            return torch.stack([log_p + math.log(weight) for log_p, weight in weighted]).logsumexp(0)
        return torch.stack([log_p * weight for log_p, weight in weighted]).sum(0).log_softmax(-1)

    @property
    def given_logits(self) -> list[Tensor]:
        """The members' logits as they returned them."""
        return [logits for member in self.members for logits in given_logits(member)]

    def autocast_to(self, dtype: torch.dtype) -> "MixedTargets":
        """Every member in autocast's dtype."""
        return replace(self, members=[autocast_to(member, dtype) for member in self.members])

    @property
    def logit_bytes(self) -> int:
        """Bytes per position and class of the logits of all members."""
        return sum(logit_bytes(member) for member in self.members)

    def chunk_reader(self, chunk_rows: int) -> "_MixedReader":
        """Reads every member with its chunk_reader."""
        return _MixedReader(self, [chunk_reader(member, chunk_rows) for member in self.members])

    def bad_rows(self, divergence: Divergence) -> Tensor:
        """Rows where a member is not a distribution, or where `divergence` cannot use the mixture."""
        bad = torch.stack([member.bad_rows(forward_kl) for member in self.members]).any(0)
        return bad | DenseTargets(self.all_log_probs(1.0)).bad_rows(divergence)


@dataclass(frozen=True, eq=False)
class _MixedReader:
    """Maps a chunk to the members' targets of it; see `defaults.chunk_reader`. readers: one per member."""

    targets: MixedTargets
    readers: Sequence[Callable[[slice], Blocks]]

    def __call__(self, chunk: slice) -> "_MixedChunk":
        return _MixedChunk(self.targets, [read(chunk) for read in self.readers])


@dataclass(frozen=True, eq=False)
class _MixedChunk:
    """The members' targets of a chunk, mixed a block at a time."""

    targets: MixedTargets
    members: Sequence[Blocks]

    def __getitem__(self, block: slice) -> MixedTargets:
        return replace(self.targets, members=[member[block] for member in self.members])


def member_weights(weights: Sequence[float] | None, members: int) -> tuple[float, ...]:
    """The shares of an ensemble's members, summing to 1: equal where no weights are given."""
    if weights is None:
        return (1 / members,) * members
    if len(weights) != members or not all(0 <= w < math.inf for w in weights) or sum(weights) == 0:
        raise ObjectiveError(
            f"An ensemble of {members} needs {members} weights of 0 or more, not all 0, but got {list(weights)}."
        )
    return tuple(w / sum(weights) for w in weights)


def concatenate(targets: Sequence[SoftTargets]) -> SoftTargets:
    """Targets of one kind and settings, concatenated: the rows of the first, then of the second, ..."""
    if not targets:
        raise TargetError("There are no targets to concatenate; pass one or more.")
    first, kinds = targets[0], {repr(_kind(other)) for other in targets}
    if len(kinds) > 1:
        raise TargetError(
            f"Only targets of one kind and settings can be concatenated, but got {' and '.join(sorted(kinds))}."
        )
    if isinstance(first, MixedTargets):
        members = [each.members for each in targets if isinstance(each, MixedTargets)]
        return replace(first, members=[concatenate(member) for member in zip(*members, strict=True)])
    if isinstance(first, TensorRows):
        return first.followed_by([each for each in targets[1:] if isinstance(each, TensorRows)])
    raise TargetError(
        f"Limbeck concatenates its own kinds of targets, but got {type(first).__name__}; concatenate its rows yourself."
    )


def _kind(targets: Any) -> list[Any]:
    """The class and its settings, with "rows" in the place of each tensor."""
    names = [field.name for field in fields(targets)] if is_dataclass(targets) else []
    settings = {name: getattr(targets, name) for name in names}
    settings = {name: "rows" if isinstance(value, Tensor) else value for name, value in settings.items()}
    if isinstance(targets, MixedTargets):
        settings["members"] = [_kind(member) for member in targets.members]
    return [type(targets).__name__, settings]
