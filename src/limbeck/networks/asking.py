"""The outputs of any network for a batch, whatever the signature of its forward.

A batch is a dict of tensors whose first axis is the example. The columns in `NOT_INPUTS` describe the examples; all
others are inputs. A column named `teacher_X` is what the teacher reads in the place of input `X`; columns named
`target_X` hold a teacher's stored targets; `table_rows` are the rows of a table as they were read.

What this file does not know: losses, targets, training.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, Protocol, runtime_checkable
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from limbeck.errors import ModelError
from limbeck.networks.outputs import as_positions, task_of
from limbeck.networks.padding import with_model_padding
from limbeck.networks.pixels import with_processed_pixels
from limbeck.networks.table import with_encoded_table

Batch = Mapping[str, Any]
"""The columns of a batch by name, mostly tensors `[n, ...]`; a collator or a user may add others."""


class Examples(Protocol):
    """Examples that are gathered a batch at a time, such as a TransferSet or a stored set."""

    def __len__(self) -> int: ...

    def __getitems__(self, places: Sequence[int], /) -> dict[str, Any]:
        """The batch of the examples at these places."""
        ...


NOT_INPUTS = frozenset({"labels", "row_id", "mask", "weights", "length", "table_rows"})
TEACHER_PREFIX = "teacher_"
TARGET_PREFIX = "target_"


@runtime_checkable
class Adapted(Protocol):
    """A model with adapters (PEFT)."""

    def get_base_model(self) -> nn.Module:
        """The model that the adapters were added to."""


@runtime_checkable
class HasNetworks(Protocol):
    """A model that lists its networks, as every teacher of Limbeck does."""

    @property
    def networks(self) -> list[nn.Module] | None:
        """The networks; None where a part of the model is not a network."""


def logits_of(model: Callable[..., Any], batch: Batch) -> Tensor:
    """The logits of a model for each position of a batch: `[n, C]`, or `[n, L, C]` of a token classifier.

    By the network's task (limbeck.networks.outputs): one logit becomes two; `[n, L, 2]` for labels that may all be
    true; `[n, H, W, C]` for pixels; `[n, D, 1 or 2]` for numbers, means and log-variances in the units of the labels.

    model: as `outputs_of` takes it.
    """
    return as_positions(outputs_of(model, batch), task_of(model), batch, type(model).__name__)


def outputs_of(model: Callable[..., Any], batch: Batch) -> Tensor:
    """The outputs of a model for a batch, as its forward returns them.

    A forward that names the batch's columns gets them by name. Any other gets the only input column as its first
    argument; ModelError where there are several.

    model: a module or function that returns a tensor, or an output with `.logits` (transformers).
    """
    inputs, back = where_it_is(model, inputs_of(batch))
    inputs = with_encoded_table(model, with_processed_pixels(model, dict(inputs)))
    inputs = _in_dtype_of(model, inputs)
    with with_model_padding(model, inputs) as own:
        output = _called(model, own)
    logits = getattr(output, "logits", output)
    if not isinstance(logits, Tensor):
        raise ModelError(
            f"{type(model).__name__} must return logits, as a tensor or as an output with .logits, but returned "
            f"{type(output).__name__}."
        )
    if logits.is_complex():
        raise ModelError(f"{type(model).__name__} must return real logits, but returned {logits.dtype}.")
    return logits if back is None else logits.to(back)


def _called(model: Callable[..., Any], inputs: Batch) -> Any:
    """What a model returns for its inputs, which are passed by name where its forward names them."""
    names, takes_all = _parameters(model)
    named = {k: v for k, v in inputs.items() if k in names}
    if named and "use_cache" in names:
        named["use_cache"] = False  # nothing is generated, and beside a cache packed rows are read as one text
    if takes_all and (named or not names):
        return model(**inputs)
    if named:
        return model(**named)
    if len(inputs) == 1:
        return model(next(iter(inputs.values())))
    raise ModelError(
        f"The batch has the columns {sorted(inputs)} and {type(model).__name__} takes {sorted(names)}: name the "
        "columns after the parameters of forward, or leave a single input column."
    )


def _in_dtype_of(model: object, inputs: dict[str, Any]) -> dict[str, Any]:
    """The inputs with float32 cast to the dtype of the model's weights, where these are in half precision."""
    if not isinstance(model, nn.Module):
        return inputs
    dtype = next((weight.dtype for weight in model.parameters() if weight.is_floating_point()), torch.float32)
    if dtype not in (torch.float16, torch.bfloat16):
        return inputs
    return {k: v.to(dtype) if isinstance(v, Tensor) and v.dtype == torch.float32 else v for k, v in inputs.items()}


def is_placed(model: object) -> bool:
    """Whether a network must stay where it was loaded: on several devices or a disk (accelerate), or quantised."""
    dispatched = hasattr(model, "hf_device_map") or hasattr(model, "_hf_hook")
    return dispatched or bool(getattr(model, "is_quantized", False))


def where_it_is(model: object, batch: Batch) -> tuple[Batch, torch.device | None]:
    """The batch on the first device of a placed network, and the device to move its output to.

    accelerate's hooks move everything that follows. For any other model: the batch unchanged, and None.
    """
    there = device_of(model) if isinstance(model, nn.Module) and is_placed(model) else None
    back = next((values.device for values in batch.values() if isinstance(values, Tensor)), None)
    if there is None or back is None:
        return batch, None
    return {k: values.to(there) if isinstance(values, Tensor) else values for k, values in batch.items()}, back


def device_of(model: nn.Module) -> torch.device | None:
    """The device of a network's first weight; None where it has none, or all are offloaded."""
    return next((x.device for x in chain(model.parameters(), model.buffers()) if not x.is_meta), None)


def inputs_of(batch: Batch) -> dict[str, Any]:
    """The columns that a student reads."""
    return {k: v for k, v in batch.items() if k not in NOT_INPUTS and not k.startswith((TEACHER_PREFIX, TARGET_PREFIX))}


def label_names_of(model: object) -> tuple[str, ...] | None:
    """The names of the classes in order; None where the model has none, or only transformers' LABEL_0, LABEL_1."""
    names = getattr(model, "label_names", None)
    if names is None:
        by_id = getattr(getattr(model, "config", None), "id2label", None) or {}
        names = [by_id[i] for i in sorted(by_id, key=int)]
        if all(str(name) == f"LABEL_{i}" for i, name in enumerate(names)):
            return None
    return tuple(str(name) for name in names)


def teacher_view(batch: Batch) -> Batch:
    """The batch as the teacher reads it.

    Where it has columns `teacher_X`, they are all of the teacher's inputs, as `X`; the student's are left out.
    """
    view = {k.removeprefix(TEACHER_PREFIX): v for k, v in batch.items() if k.startswith(TEACHER_PREFIX)}
    if not view:
        return batch
    return {k: v for k, v in batch.items() if k in NOT_INPUTS} | view


def networks_of(model: object) -> list[nn.Module] | None:
    """The networks that a model or a teacher is made of; None where a part of it is not a network.

    A module is its only network, and a teacher lists its networks. For an object of a user's class, which need not do
    so, they are looked for in its attributes: those of `model`, else of `teacher`, else of each of its `members`.
    """
    if isinstance(model, nn.Module):
        return [model]
    if isinstance(model, HasNetworks):
        return model.networks
    for name in ("model", "teacher"):
        if hasattr(model, name):
            return networks_of(getattr(model, name))
    return networks_of_all(getattr(model, "members", ()))


def networks_of_all(members: Iterable[object]) -> list[nn.Module] | None:
    """The networks of all members, in order; None where there are no members, or one is not made of networks."""
    found: list[nn.Module] = []
    for member in members:
        networks = networks_of(member)
        if networks is None:
            return None
        found += networks
    return found or None


def _parameters(model: Callable[..., Any]) -> tuple[frozenset[str], bool]:
    """The names of the parameters of a model's forward, and whether it has `**kwargs`."""
    if not isinstance(model, nn.Module):
        return _signature(model)
    if isinstance(model, Adapted):  # the forward of PEFT's wrapper may name no columns
        return _parameters(model.get_base_model())
    while isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel) or hasattr(model, "_orig_mod"):
        inside = model._orig_mod if hasattr(model, "_orig_mod") else model.module  # torch.compile's, DDP's
        assert isinstance(inside, nn.Module)
        model = inside
    if model not in _SIGNATURES:
        names, takes_all = _signature(model.forward)
        # transformers' models take **kwargs for their options, not for columns that they do not know
        _SIGNATURES[model] = names, takes_all and not hasattr(model, "save_pretrained")
    return _SIGNATURES[model]


_SIGNATURES: WeakKeyDictionary[nn.Module, tuple[frozenset[str], bool]] = WeakKeyDictionary()


def _signature(function: Callable[..., Any]) -> tuple[frozenset[str], bool]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # some builtins have no signature
        return frozenset(), False
    names = frozenset(p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY))
    return names, any(p.kind == p.VAR_KEYWORD for p in parameters)
