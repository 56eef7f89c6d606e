"""What a model costs: parameters, bytes, and milliseconds per example.

What this file does not know: what the models say.
"""

import time
from collections.abc import Callable
from statistics import median
from typing import Any

from torch import Tensor

from limbeck.networks.asking import networks_of

MOST_RUNS = 200


def size_of(model: Any) -> dict[str, int | None]:
    """Numbers of parameters, and of bytes of parameters and buffers; tensors that are shared count once.

    model: a module, or a teacher made of modules. None where a part of it is no module, as a scikit-learn classifier.
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


def latency_ms(ask: Callable[[Any], Tensor], batch: Any, examples: int, seconds: float) -> float:
    """Milliseconds per example: the median of repeated runs after a warm-up, until an answer can be read on the CPU.

    ask: `batch -> [n, ...]`. examples: n of the batch. seconds: how long to measure; at least one run is.
    """
    runs: list[float] = []
    _run(ask, batch)
    end = time.perf_counter() + seconds
    while not runs or (time.perf_counter() < end and len(runs) < MOST_RUNS):
        runs.append(_run(ask, batch))
    return 1000 * median(runs) / examples


def _run(ask: Callable[[Any], Tensor], batch: Any) -> float:
    start = time.perf_counter()
    ask(batch)[..., 0].cpu()  # a copy to the CPU waits for the device, whatever it is
    return time.perf_counter() - start
