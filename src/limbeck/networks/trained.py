"""What a network was built and trained with: noted on the network, read by whoever saves or evaluates it.

The objective is in memory only; the name of the callable that builds a network of the user's stands in its folder.

What this file does not know: trainers, results.
"""

from typing import Any

from torch import nn

from limbeck.files import Json
from limbeck.losses.objective import Objective


def note_objective(network: nn.Module, objective: Objective) -> None:
    """Notes on the network that it was trained with this objective; an earlier note is replaced."""
    vars(network)["trained_objective"] = described(objective)


def objective_of(network: object) -> Json | None:
    """The note of `note_objective`; None for a network without one."""
    noted = getattr(network, "trained_objective", None)
    return dict(noted) if isinstance(noted, dict) else None


def note_builder(network: nn.Module, name: str) -> None:
    """Notes on the network which callable of the user's built it, as `package.module:callable`."""
    vars(network)["built_by"] = name


def builder_of(network: object) -> str | None:
    """The note of `note_builder`; None for a network without one."""
    noted = getattr(network, "built_by", None)
    return noted if isinstance(noted, str) else None


def described(objective: Objective) -> Json:
    """The objective as plain values: the divergence's name, the temperature, and the weights of its terms.

    extra_weights, by the terms' names, is left out where there are no further terms.
    """
    divergence: Any = objective.divergence
    name = getattr(divergence, "name", getattr(divergence, "__qualname__", str(divergence)))
    values = {
        "divergence": name,
        "temperature": float(objective.temperature),
        "soft_weight": float(objective.soft_weight),
        "hard_weight": float(objective.hard_weight),
    }
    extra = {term.name: float(term.weight) for term in objective.extra_terms}
    return values | ({"extra_weights": extra} if extra else {})
