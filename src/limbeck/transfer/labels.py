"""The labels of a transfer set by its task: classes, 0 or 1 of several labels, classes of pixels, numbers.

What this file does not know: inputs, files of tables.
"""

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from limbeck.errors import DataError
from limbeck.losses.numbers import NO_LABEL, has_label
from limbeck.networks.outputs import KINDS, MULTI_LABEL, REGRESSION, SEGMENTATION, Task


def labels_by_task(labels: Any, task: Task | str | None, length: int) -> tuple[Tensor | None, Task | None]:
    """The labels as a tensor, and their task; None for the task where nothing but their being classes is known.

    labels: as TransferSet takes them. task: as it takes it. length: the number of examples.
    DataError where labels and task do not fit together.
    """
    kind = task.kind if isinstance(task, Task) else task
    if kind is not None and kind not in KINDS:
        raise DataError(f"task must be one of {', '.join(KINDS)}, but is {kind!r}.")
    if labels is None:
        if isinstance(task, str) and task in (MULTI_LABEL, REGRESSION):
            raise DataError(
                f"Without labels nothing tells how many there are: pass task=limbeck.Task({task!r}, outputs=...)."
            )
        return None, Task(task) if isinstance(task, str) else task
    if kind == REGRESSION:
        numbers = _numbers(labels, length)
        return numbers, _agreed(task, REGRESSION, 1 if numbers.ndim == 1 else numbers.shape[1])
    tensor = whole_numbers("labels", labels, length)
    if kind == MULTI_LABEL:
        if tensor.ndim != 2:
            raise DataError(f"The labels of multi_label are [N, L], 0 or 1 of each, but are {list(tensor.shape)}.")
        if bool(((tensor != 0) & (tensor != 1) & (tensor != NO_LABEL)).any()):
            raise DataError(f"The labels of multi_label are 0, 1 or {NO_LABEL} (not known), but there are others.")
        return tensor, _agreed(task, MULTI_LABEL, tensor.shape[1])
    if kind == SEGMENTATION or (kind is None and tensor.ndim == 3):
        if tensor.ndim != 3:
            raise DataError(
                f"The labels of segmentation are [N, H, W], a class of each pixel, not {list(tensor.shape)}."
            )
        return tensor, Task(SEGMENTATION)
    if tensor.ndim > 2:
        raise DataError(f"The labels of classification are [N], or [N, L] of tokens, but are {list(tensor.shape)}.")
    return tensor, Task() if kind else None


def labelled_rows(labels: Tensor) -> Tensor:
    """`[N]` bool: the examples with a label, or with any of several, of `labels [N, ...]`."""
    return has_label(labels).reshape(len(labels), -1).any(1)


def whole_numbers(what: str, values: Any, length: int) -> Tensor:
    """Whole numbers with one entry per example, `[N, ...]` int64; DataError otherwise. what: for messages."""
    tensor = as_tensor(what, values)
    if tensor.is_floating_point() or tensor.is_complex():
        numbers = ' or, where they are numbers to predict, pass task="regression"' if what == "labels" else ""
        raise DataError(
            f"{what} must be whole numbers (int64), but are {tensor.dtype}; convert them with .long(){numbers}."
        )
    if tensor.dtype == torch.uint64 and bool((tensor.to(torch.int64) < 0).any()):
        raise DataError(f"{what} must be whole numbers of 64 bits with a sign (int64), but some are 2**63 or more.")
    if tensor.dim() == 0 or len(tensor) != length:
        raise DataError(f"{what} must have one entry per example, {length}, but have the shape {list(tensor.shape)}.")
    return tensor.to(torch.int64)


def as_tensor(what: str, values: Any) -> Tensor:
    """Values as a tensor; DataError that begins with `what` where they are no native numbers."""
    if isinstance(values, Tensor):
        return values
    array = np.asarray(values)
    try:
        with warnings.catch_warnings():  # torch warns of arrays that are read-only; nothing is written to a column
            warnings.simplefilter("ignore", UserWarning)
            return torch.from_numpy(np.ascontiguousarray(array) if array.ndim else array)
    except (TypeError, ValueError):
        raise DataError(f"{what} must be an array of native numbers, but has the type {array.dtype}.") from None


def _numbers(labels: Any, length: int) -> Tensor:
    tensor = as_tensor("labels", labels)
    if tensor.is_complex() or tensor.dtype == torch.bool or tensor.ndim not in (1, 2) or len(tensor) != length:
        raise DataError(
            f"The labels of regression are real numbers [N] or [N, D] of {length} examples, but are {tensor.dtype} "
            f"{list(tensor.shape)}."
        )
    tensor = tensor.to(torch.float32)
    if bool(tensor.isinf().any()):
        raise DataError("The labels of regression must be finite in float32, or nan where there is none; some are not.")
    return tensor


def _agreed(task: Task | str | None, kind: str, outputs: int) -> Task:
    if isinstance(task, Task) and task.outputs != outputs:
        raise DataError(f"The task has {task.outputs} outputs, but the labels have {outputs} per example.")
    return Task(kind, outputs)
