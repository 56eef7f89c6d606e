"""Definitions shared by all losses: the label that means "none", the dtype of sums, softening by a temperature."""

import torch
from torch import Tensor

NO_LABEL = -100
"""The label of a position without a hard term, as in torch and transformers."""

LEAST_TEMPERATURE, MOST_TEMPERATURE = 2.0**-16, 2.0**16
"""The temperatures of an objective: at the highest, logits that differ by 1 still differ by 16 steps of float32."""


def has_label(labels: Tensor) -> Tensor:
    """Which labels are known, bool of their shape: classes other than -100, numbers (regression) other than nan."""
    return ~labels.isnan() if labels.is_floating_point() else labels != NO_LABEL


def widened(x: Tensor) -> Tensor:
    """`x` in float32, or as it is in float64: the dtype of every softmax, logarithm and sum."""
    return x if x.dtype == torch.float64 else x.float()


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype that `widened` gives tensors of `dtype`."""
    return dtype if dtype == torch.float64 else torch.float32


def autocast_dtype(device: str) -> torch.dtype | None:
    """The dtype of autocast's matmuls on this type of device where autocast is enabled; None elsewhere."""
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return None


def tempered(logits: Tensor, temperature: float) -> Tensor:
    """`log_softmax(logits / T)` `[..., C]`, in float32 or wider: the one softening of student and teacher alike."""
    return (widened(logits) * (1 / temperature)).log_softmax(-1)
