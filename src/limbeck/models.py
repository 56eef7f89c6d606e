"""Asking a network for the logits of a batch, whatever its forward looks like.

A batch is a dict of tensors whose first axis is the example. The columns in `NOT_INPUTS` speak about the
examples; all others are inputs. Columns named `teacher_X` are the teacher's own view of input `X`.

What this file does not know: losses, targets, training.
"""

import inspect
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from torch import Tensor, nn

from limbeck.errors import ModelError

Batch = Mapping[str, Any]

NOT_INPUTS = frozenset({"labels", "row_id", "mask", "weights"})
TEACHER_PREFIX = "teacher_"


def logits_of(model: Any, batch: Batch) -> Tensor:
    """The logits of `model` for a batch: `[n, C]`, or `[n, L, C]` where it classifies tokens.

    model: a module or function that returns a tensor, or an output with `.logits` (transformers).
    A forward that names the batch's columns gets them by name; one that does not gets the single input
    column in first place.
    """
    inputs = {k: v for k, v in batch.items() if k not in NOT_INPUTS and not k.startswith(TEACHER_PREFIX)}
    names = _parameters(_forward(model))
    named = {k: v for k, v in inputs.items() if k in names}
    if named:
        said = model(**named)
    elif len(inputs) == 1:
        said = model(next(iter(inputs.values())))
    else:
        raise ModelError(
            f"The batch has the columns {sorted(inputs)} and {type(model).__name__} takes {sorted(names)}: name the "
            "columns after the parameters of forward, or leave a single input column."
        )
    logits = getattr(said, "logits", said)
    if not isinstance(logits, Tensor):
        raise ModelError(
            f"{type(model).__name__} must return logits, as a tensor or as an output with .logits, but returned "
            f"{type(said).__name__}."
        )
    return logits


def label_names_of(model: Any) -> tuple[str, ...] | None:
    """The names of the classes in order, where the model carries any that say more than their number."""
    names = getattr(model, "label_names", None)
    if names is None:
        names = list((getattr(getattr(model, "config", None), "id2label", None) or {}).values())
        if all(str(name) == f"LABEL_{i}" for i, name in enumerate(names)):
            return None
    return tuple(str(name) for name in names)


def teacher_view(batch: Batch) -> Batch:
    """The batch as the teacher reads it: `teacher_X` in the place of `X`, where the batch has it."""
    own = {k.removeprefix(TEACHER_PREFIX): v for k, v in batch.items() if k.startswith(TEACHER_PREFIX)}
    if not own:
        return batch
    return {k: v for k, v in batch.items() if k in NOT_INPUTS} | own


def _forward(model: Any) -> Any:
    if isinstance(model, nn.Module):
        inner = getattr(model, "module", model)  # as DistributedDataParallel wraps it
        return type(inner).forward
    return model


@lru_cache(maxsize=64)
def _parameters(function: Any) -> frozenset[str]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # some builtins have no signature
        return frozenset()
    return frozenset(p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY))
