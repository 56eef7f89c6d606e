"""Asking a network for the logits of a batch, whatever its forward looks like.

A batch is a dict of tensors whose first axis is the example. The columns in `NOT_INPUTS` speak about the
examples; all others are inputs. Columns named `teacher_X` are the teacher's own view of input `X`, columns named
`target_X` hold a teacher's stored targets.

What this file does not know: losses, targets, training.
"""

import inspect
from collections.abc import Mapping
from itertools import chain
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from limbeck.errors import ModelError

Batch = Mapping[str, Any]

NOT_INPUTS = frozenset({"labels", "row_id", "mask", "weights", "length"})
TEACHER_PREFIX = "teacher_"
TARGET_PREFIX = "target_"


def logits_of(model: Any, batch: Batch) -> Tensor:
    """The logits of `model` for a batch: `[n, C]`, or `[n, L, C]` where it classifies tokens.

    model: a module or function that returns a tensor, or an output with `.logits` (transformers).
    A forward that names the batch's columns gets them by name; one that does not gets the single input
    column in first place.
    """
    inputs, back = where_it_is(model, inputs_of(batch))
    names, takes_all = _parameters(model)
    named = {k: v for k, v in inputs.items() if k in names}
    if named and "use_cache" in names:
        named["use_cache"] = False  # nothing is generated, and beside a cache packed rows are read as one text
    if takes_all and (named or not names):
        output = model(**inputs)
    elif named:
        output = model(**named)
    elif len(inputs) == 1:
        output = model(next(iter(inputs.values())))
    else:
        raise ModelError(
            f"The batch has the columns {sorted(inputs)} and {type(model).__name__} takes {sorted(names)}: name the "
            "columns after the parameters of forward, or leave a single input column."
        )
    logits = getattr(output, "logits", output)
    if not isinstance(logits, Tensor):
        raise ModelError(
            f"{type(model).__name__} must return logits, as a tensor or as an output with .logits, but returned "
            f"{type(output).__name__}."
        )
    return logits if back is None else logits.to(back)


def is_placed(model: Any) -> bool:
    """Whether a network stays where it was loaded to: on several devices or a disk (accelerate), or quantised."""
    dispatched = hasattr(model, "hf_device_map") or hasattr(model, "_hf_hook")
    return dispatched or bool(getattr(model, "is_quantized", False))


def where_it_is(model: Any, batch: Batch) -> tuple[Batch, torch.device | None]:
    """For a network that is placed: the batch on its first device, and the one to bring back to what it says.

    From its first device on, accelerate's hooks move what it computes. For others: the batch as it is, and None.
    """
    there = device_of(model) if is_placed(model) else None
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


def label_names_of(model: Any) -> tuple[str, ...] | None:
    """The names of the classes in order, where the model carries any that say more than their number."""
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
    own = {k.removeprefix(TEACHER_PREFIX): v for k, v in batch.items() if k.startswith(TEACHER_PREFIX)}
    if not own:
        return batch
    return {k: v for k, v in batch.items() if k in NOT_INPUTS} | own


def networks_of(model: Any) -> list[nn.Module] | None:
    """The networks that a model or a teacher is made of; None where some of it is no network."""
    if isinstance(model, nn.Module):
        return [model]
    for name in ("model", "teacher"):  # what a ModelTeacher wraps, and a RecordedTeacher speaks for
        if hasattr(model, name):
            return networks_of(getattr(model, name))
    members = [networks_of(member) for member in getattr(model, "members", [])]
    if not members or any(member is None for member in members):
        return None
    return [network for member in members for network in member or []]


def _parameters(model: Any) -> tuple[frozenset[str], bool]:
    """The names that a model's forward takes, and whether it takes every other one too."""
    if not isinstance(model, nn.Module):
        return _signature(model)
    if hasattr(model, "get_base_model"):  # PEFT's own forward may name nothing
        return _parameters(model.get_base_model())  # type: ignore[operator]
    while isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel) or hasattr(model, "_orig_mod"):
        model = model._orig_mod if hasattr(model, "_orig_mod") else model.module  # torch.compile's, DDP's
    if model not in _SIGNATURES:
        names, takes_all = _signature(model.forward)
        # transformers' models take **kwargs for their own switches, not for columns that they do not know
        _SIGNATURES[model] = names, takes_all and not hasattr(model, "save_pretrained")
    return _SIGNATURES[model]


_SIGNATURES: WeakKeyDictionary[nn.Module, tuple[frozenset[str], bool]] = WeakKeyDictionary()


def _signature(function: Any) -> tuple[frozenset[str], bool]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # some builtins have no signature
        return frozenset(), False
    names = frozenset(p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY))
    return names, any(p.kind == p.VAR_KEYWORD for p in parameters)
