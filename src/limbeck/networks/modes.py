"""Networks in evaluation mode for a while, and then as they were.

    with evaluating([student, teacher]):      # eval mode, no gradient
        logits = student(inputs)

What this file does not know: what the networks compute.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from limbeck.networks.asking import networks_of


@contextmanager
def evaluating(models: Iterable[Any]) -> Iterator[None]:
    """Models in eval mode and without gradient; afterwards as `restored` leaves them.

    models: modules, or teachers made of modules; anything else is left alone.
    """
    models = list(models)
    with restored(models), torch.no_grad():
        for network in _networks(models):
            network.eval()
        yield


@contextmanager
def restored(models: Iterable[Any]) -> Iterator[None]:
    """Afterwards every submodule is in the mode it was in, and every parameter requires a gradient if it did."""
    networks = _networks(models)
    modes = [(module, module.training) for network in networks for module in network.modules()]
    trained = [(parameter, parameter.requires_grad) for network in networks for parameter in network.parameters()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter, requires_grad in trained:
            parameter.requires_grad_(requires_grad)


def _networks(models: Iterable[Any]) -> list[torch.nn.Module]:
    return [network for model in models for network in networks_of(model) or []]
