"""The auxiliary loss of a mixture of experts, which keeps its routers from using a few experts alone.

What this file does not know: the objective, how losses of several batches are added.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.networks.asking import Batch
from limbeck.networks.halves import base_of, within_whole_forward
from limbeck.networks.modes import evaluating

log = logging.getLogger("limbeck")

COEFFICIENTS = ("router_aux_loss_coef", "aux_loss_coef")
"""What transformers' models call the weight of the auxiliary loss."""


def router_weight(model: object) -> float:
    """The weight of a language model's auxiliary loss in its own loss; 0 where its configuration does not ask for it.

    The configuration asks for it by `output_router_logits = True` and a coefficient above 0.
    """
    return _coefficient(model) if _outputs_router_logits(model) else 0.0


def router_loss(output: Any) -> Tensor | None:
    """The auxiliary loss in a model's output, a scalar without its weight; None where there is none."""
    found = getattr(output, "aux_loss", None)
    return found if isinstance(found, Tensor) else None


@contextmanager
def router_losses(model: nn.Module) -> Iterator[list[Tensor]]:
    """The auxiliary losses of the passes of a model within the block, one per pass; none of a model that has none."""
    found: list[Tensor] = []

    def note(module: nn.Module, inputs: Any, output: Any) -> None:
        if (value := router_loss(output)) is not None:
            found.append(value)

    hook = base_of(model).register_forward_hook(note)
    try:
        yield found
    finally:
        hook.remove()


def checked_router_weight(model: nn.Module, first_batch: Callable[[], Batch]) -> float:
    """`router_weight`, and 0 with a warning where the model does not return its auxiliary loss.

    A warning says so, too, where the model has such a loss and its configuration does not ask for it.

    model: a language model. first_batch: returns a batch on its device.
    """
    weight = router_weight(model)
    if not weight:
        if _coefficient(model) and hasattr(base_of(model).config.get_text_config(), "output_router_logits"):
            log.warning(
                "The student, %s, is a mixture of experts, and the auxiliary loss of its routers is not added: its "
                "configuration has output_router_logits=False. Set it to True to train with that loss.",
                type(base_of(model)).__name__,
            )
        return 0.0
    with torch.random.fork_rng(), evaluating([model]):
        found = within_whole_forward(model, model, first_batch(), lambda hidden, output: router_loss(output))
    if found is None:
        log.warning(
            "The student, %s, does not return the auxiliary loss of its routers, so it is not added.",
            type(base_of(model)).__name__,
        )
        return 0.0
    log.warning(
        "The auxiliary loss of the routers of %s is added with its weight %g, as the log's router_loss; "
        "output_router_logits=False in its configuration turns it off.",
        type(base_of(model)).__name__,
        weight,
    )
    return weight


def _coefficient(model: object) -> float:
    inner = base_of(model)
    places = (inner, inner.config.get_text_config())
    found = next((getattr(place, name) for place in places for name in COEFFICIENTS if hasattr(place, name)), 0.0)
    return float(found or 0.0)


def _outputs_router_logits(model: object) -> bool:
    config = base_of(model).config
    return any(getattr(each, "output_router_logits", False) for each in (config, config.get_text_config()))
