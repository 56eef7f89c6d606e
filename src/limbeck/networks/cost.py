"""What a model costs: parameters, bytes, and milliseconds per example.

What this file does not know: what the outputs mean.
"""

import time
from collections.abc import Callable
from statistics import median
from typing import TypeVar

from torch import Tensor

from limbeck.networks.asking import networks_of

B = TypeVar("B")

MOST_RUNS = 200
"""The largest number of timed runs."""


def size_of(model: object) -> dict[str, int | None]:
    """Numbers of parameters, and of bytes of parameters and buffers; tensors that are shared count once.

    model: a module, or a teacher. None where a part of it is not a module, such as a scikit-learn classifier.
    """
    networks = networks_of(model)
    if networks is None:
        return {"parameters": None, "bytes": None}
    parameters = {id(p): p for network in networks for p in network.parameters()}
    tensors = parameters | {id(b): b for network in networks for b in network.buffers()}
    return {
        "parameters": sum(p.numel() for p in parameters.values()),
        "bytes": sum(x.numel() * x.element_size() for x in tensors.values()),
    }


def latency_ms(ask: Callable[[B], Tensor], batch: B, examples: int, seconds: float) -> float:
    """Milliseconds per example: the median of repeated runs after a warm-up, each until its result is on the CPU.

    ask: the model, `batch -> [n, ...]`.
    batch: the batch that every run reads.
    examples: n, the number of examples in the batch.
    seconds: how long to repeat; there is at least one run after the warm-up.
    """
    runs: list[float] = []
    _run(ask, batch)
    end = time.perf_counter() + seconds
    while not runs or (time.perf_counter() < end and len(runs) < MOST_RUNS):
        runs.append(_run(ask, batch))
    return 1000 * median(runs) / examples


def _run(ask: Callable[[B], Tensor], batch: B) -> float:
    start = time.perf_counter()
    ask(batch)[..., 0].cpu()  # a copy to the CPU waits for the device, whatever it is
    return time.perf_counter() - start
