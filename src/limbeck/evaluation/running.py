"""Running models on the examples of a test: batches, devices, time.

What this file does not know: what is measured.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from limbeck.networks.asking import Batch, device_of
from limbeck.networks.cost import latency_ms

LATENCY_SECONDS = 0.5
"""For how long all models of an evaluation are timed."""


def batches_of(rows: Any, batch_size: int, device: Any) -> Iterator[Batch]:
    """The batches of all rows of a transfer set, in order, on the device."""
    for start in range(0, len(rows), batch_size):
        yield moved(rows.__getitems__(list(range(start, min(start + batch_size, len(rows))))), device)


def moved(batch: Batch, device: Any) -> Batch:
    """The batch on the device."""
    return {name: values.to(device) for name, values in batch.items()}


def latency_of(function: Callable[[Batch], Any], test: Any, device: Any, seconds: float) -> dict[str, float]:
    """Milliseconds per example, one at a time and in batches of 256, measured for so many seconds in all."""
    latency = {}
    for examples in (1, 256):
        batch = moved(test.__getitems__([i % len(test) for i in range(examples)]), device)
        latency[f"batch_{examples}"] = latency_ms(function, batch, examples, seconds / 2)
    return latency


def device_of_model(model: Any) -> torch.device:
    """Where a network is; the CPU for anything else."""
    return (device_of(model) if isinstance(model, nn.Module) else None) or torch.device("cpu")
