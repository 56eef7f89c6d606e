"""Optional members of a kind of targets, and the default for a kind that lacks one.

A kind needs the members in REQUIRED. Every function here reads one optional member, or falls back on the required ones,
so that a user-defined kind works without it.
"""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from limbeck.losses.matmul import Product
from limbeck.losses.targets.hidden import Head
from limbeck.losses.targets.protocol import SoftTargets


class Blocks(Protocol):
    """Targets of a chunk of rows that are indexed by blocks of it; all SoftTargets are."""

    def __getitem__(self, rows: slice) -> SoftTargets: ...


def is_complete(targets: SoftTargets) -> bool:
    """Whether targets give every class without a student: `complete` and `all_log_probs`; by default False."""
    return bool(getattr(targets, "complete", False)) and hasattr(targets, "all_log_probs")


def completion_hint(targets: SoftTargets) -> str:
    """How to make a user-defined kind complete, a sentence after a space; empty for a built-in kind."""
    missing = [name for name in ("complete", "all_log_probs") if not hasattr(targets, name)]
    if not missing:
        return ""
    return (
        f" (If {type(targets).__name__} gives the probabilities of all classes, add `complete = True` and "
        f"`all_log_probs(temperature)`; it lacks {' and '.join(missing)}. See limbeck.SoftTargets.)"
    )


def is_partition(targets: SoftTargets) -> bool:
    """Whether the events are disjoint and make up all classes: `partition`; by default True."""
    return bool(getattr(targets, "partition", True))


def is_compilable(targets: SoftTargets) -> bool:
    """Whether torch.compile is known to work on `events` and `spread`: `compilable`; by default False."""
    return bool(getattr(targets, "compilable", False))


def is_unbounded(targets: SoftTargets) -> bool:
    """Whether what `chunk_reader` reads of targets has `unbounded_logits`: `unbounded`; by default False.

    A class has to define it itself: one derived from a built-in kind may give its events in another way.
    """
    return bool(vars(type(targets)).get("unbounded", False))


def unbounded_logits(targets: SoftTargets) -> tuple[Product, float, float | None]:
    """Logits `[m, C]` of a chunk, and the scale and soft cap to apply; their softmax is what the student is to learn.

    Only of targets that `is_unbounded` is true of.
    """
    kind: Any = targets  # the method is no part of the protocol
    parts: tuple[Product, float, float | None] = kind.unbounded_logits()
    return parts


def softened_logits(targets: SoftTargets, temperature: float) -> Tensor:
    """`[n, C]` whose softmax is the distribution at `temperature`, normalised or not: by default `all_log_probs`."""
    if hasattr(targets, "softened_logits"):
        logits: Tensor = targets.softened_logits(temperature)
        return logits
    return targets.all_log_probs(temperature)


def given_logits(targets: SoftTargets) -> list[Tensor]:
    """Logits `[n, C]` exactly as a model returned them, which may be probabilities by mistake; by default none."""
    return list(getattr(targets, "given_logits", ()))


def hidden_states(targets: SoftTargets) -> tuple[Tensor, Head] | None:
    """`hidden` `[n, H]` and `head`, the output layer that reads them, of targets that have both; None of others."""
    hidden, head = getattr(targets, "hidden", None), getattr(targets, "head", None)
    return (hidden, head) if isinstance(hidden, Tensor) and isinstance(head, Head) else None


def autocast_to(targets: SoftTargets, dtype: torch.dtype) -> SoftTargets:
    """The targets with the operands of their matmuls cast to autocast's `dtype`; by default unchanged."""
    if hasattr(targets, "autocast_to"):
        cast: SoftTargets = targets.autocast_to(dtype)
        return cast
    return targets


def logit_bytes(targets: SoftTargets) -> int:
    """Bytes per position and class of the logits that `chunk_reader` makes of a chunk; by default 0."""
    return int(getattr(targets, "logit_bytes", 0))


def chunk_reader(targets: SoftTargets, chunk_rows: int) -> Callable[[slice], Blocks]:
    """A function from a chunk, of `chunk_rows` rows at most, to its targets, to be indexed by blocks of the chunk.

    Matmuls are done per chunk, because they are faster for many rows; elementwise work is done per block. The result is
    valid until the next chunk is read. By default the targets are sliced.
    """
    if hasattr(targets, "chunk_reader"):
        reader: Callable[[slice], Blocks] = targets.chunk_reader(chunk_rows)
        return reader
    return targets.__getitem__


def spread(targets: SoftTargets, slope: Tensor, student_log_probs: Tensor, log_q: Tensor, temperature: float) -> Tensor:
    """`[n, C]`: the slope of the events at the classes; by default through autograd.

    slope, log_q `[n, E]`, student_log_probs `[n, C]`, temperature: as in `SoftTargets.spread` and `.events`.
    """
    if hasattr(targets, "spread"):
        at_classes: Tensor = targets.spread(slope, student_log_probs, log_q)
        return at_classes
    with torch.enable_grad():
        leaf = student_log_probs.detach().requires_grad_()
        (at_classes,) = torch.autograd.grad(targets.events(leaf, temperature)[0], leaf, slope)
    return at_classes
