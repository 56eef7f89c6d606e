"""Whether a student that was trained can be used: weights of nan or infinity are found, and named.

What this file does not know: how it was trained.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from limbeck.files import JsonView
from limbeck.losses.numbers import wide_dtype


def broken_tensors(student: nn.Module) -> list[str]:
    """The names of trained parameters with nan or infinity, and of buffers with nan: masks may hold infinity.

    A float32 weight of 1e19 or more counts too: its square is infinite. Of a parameter that is sharded over processes,
    this process's part is looked at.
    """
    found = {name: ~_norm(_local(weight)).isfinite() for name, weight in _trained(student)}
    found |= {name: _local(buffer).isnan().any() for name, buffer in student.named_buffers() if _is_float(buffer)}
    return [name for name, bad in found.items() if bad]


def in_words(broken: Sequence[str], log_history: Sequence[JsonView], step: int, learning_rate: float) -> str:
    """The message of the DivergedError of a student whose tensors `broken` are not finite after `step` steps."""
    losses = [(line["step"], float(line["loss"])) for line in log_history if "loss" in line]
    first = next((at for at, loss in losses if not torch.tensor(loss).isfinite()), None)
    since = "" if first is None else f" The loss was first logged as nan or infinity at step {first}."
    named = ", ".join(broken[:3]) or "weights that other processes hold"
    return (
        f"After {step} steps the student has nan or infinity in {named} ({len(broken)} tensors in all), so it is of no "
        f"use and is not saved.{since} Lower the learning rate (now {learning_rate:g}) or the temperature, set "
        "max_grad_norm, or use bf16 instead of fp16; a checkpoint of before can be resumed from."
    )


def _trained(student: nn.Module) -> Iterator[tuple[str, Tensor]]:
    return ((n, p) for n, p in student.named_parameters() if p.requires_grad and _is_float(p))


def _is_float(tensor: Tensor) -> bool:
    """Whether the tensor has values that may be nan; on the meta device there are none."""
    return tensor.is_floating_point() and tensor.dtype.itemsize > 1 and not tensor.is_meta


def _norm(weight: Tensor) -> Tensor:
    """The L2 norm, summed in float32 or wider."""
    norm: Tensor = torch.linalg.vector_norm(weight, dtype=wide_dtype(weight.dtype))
    return norm


def _local(tensor: Tensor) -> Tensor:
    """This process's part of a tensor."""
    local: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return local.detach()
