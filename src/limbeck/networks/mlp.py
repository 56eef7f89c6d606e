"""Multilayer perceptrons with ReLU, dropout and weight constraints: the nets of the 2015 paper.

What this file does not know: training; the constraint is applied by the trainer's MaxNorm callback.
"""

from collections.abc import Sequence
from itertools import pairwise
from numbers import Real
from typing import Any

from torch import Tensor, nn

from limbeck.errors import ModelError


def mlp(
    sizes: Sequence[int], *, dropout: float = 0.0, input_dropout: float = 0.0, max_norm: float | None = None
) -> "MLP":
    """An MLP over flattened inputs, `[n, ...] -> logits [n, sizes[-1]]`.

    sizes: units per layer, inputs first and classes last: the paper's small net is `[784, 800, 800, 10]`.
    dropout: probability of dropping a hidden unit. input_dropout: the same for an input.
    max_norm: bound on the L2 norm of the weights that come into a unit, after every step (arXiv 1207.0580).
    """
    return MLP(sizes, dropout, input_dropout, max_norm)


class MLP(nn.Module):
    """What `mlp` returns. `settings` are the arguments that make it again."""

    def __init__(
        self, sizes: Sequence[int], dropout: float = 0.0, input_dropout: float = 0.0, max_norm: float | None = None
    ):
        super().__init__()
        if (
            not isinstance(sizes, Sequence)
            or len(sizes) < 2
            or any(not isinstance(size, int) or isinstance(size, bool) or size < 1 for size in sizes)
        ):
            raise ModelError(
                f"sizes must be the units of at least two layers, such as [784, 800, 800, 10], but is {sizes!r:.80}."
            )
        for name, probability in (("dropout", dropout), ("input_dropout", input_dropout)):
            if not _is_number(probability) or not 0 <= probability < 1:
                raise ModelError(f"{name} must be a probability below 1, but is {probability!r:.80}.")
        if max_norm is not None and (not _is_number(max_norm) or not max_norm > 0):
            raise ModelError(f"max_norm must be above 0, or None for no constraint, but is {max_norm!r:.80}.")
        self.settings: dict[str, Any] = {
            "sizes": list(sizes),
            "dropout": dropout,
            "input_dropout": input_dropout,
            "max_norm": max_norm,
        }
        self.max_norm = max_norm
        self.label_names: tuple[str, ...] | None = None
        layers: list[nn.Module] = []
        for i, (fan_in, fan_out) in enumerate(pairwise(sizes)):
            drop = dropout if i else input_dropout
            layers += [nn.ReLU()] if i else []
            layers += [nn.Dropout(drop)] if drop else []
            layers.append(nn.Linear(fan_in, fan_out))
        self.layers = nn.Sequential(*layers)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits `[n, C]` of inputs `[n, ...]`, flattened to `[n, sizes[0]]`."""
        flat = inputs.flatten(1)
        if flat.shape[1] != self.settings["sizes"][0]:
            raise ModelError(
                f"This MLP reads {self.settings['sizes'][0]} numbers per example, but the inputs "
                f"{list(inputs.shape)} hold {flat.shape[1]}."
            )
        logits: Tensor = self.layers(flat)
        return logits


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
