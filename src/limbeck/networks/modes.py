"""Networks in evaluation mode for a while, and then as they were.

    with evaluating([student, teacher]):      # eval mode, no gradient
        logits = student(inputs)

What this file does not know: what the networks compute.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch

from limbeck.networks.asking import networks_of


@contextmanager
def evaluating(models: Iterable[object]) -> Iterator[None]:
    """Models in eval mode and without gradient; afterwards as `restored` leaves them.

    models: modules and teachers made of modules; anything else is ignored.
    """
    models = list(models)
    with restored(models), torch.no_grad():
        for network in _networks(models):
            network.eval()
        yield


@contextmanager
def restored(models: Iterable[object]) -> Iterator[None]:
    """Restores, at the end, the mode of every submodule and the requires_grad of every parameter.

    models: modules and teachers made of modules; anything else is ignored.
    """
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


def _networks(models: Iterable[object]) -> list[torch.nn.Module]:
    return [network for model in models for network in networks_of(model) or []]
