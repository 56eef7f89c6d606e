"""Trainer callbacks that change the student between steps."""

from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class MaxNorm(TrainerCallback):
    """Bounds the L2 norm of the incoming weights of each unit after every optimizer step (arXiv 1207.0580).

    Applies to every linear and convolutional layer of the student except the last one.

    max_norm: the bound.
    """

    def __init__(self, max_norm: float):
        self.max_norm = max_norm

    @torch.no_grad()
    def on_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **kwargs: Any,
    ) -> None:
        """Scales the rows of weights whose norm is above the bound."""
        assert model is not None  # Trainer passes it to every callback
        layers = [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)]
        for layer in layers[:-1]:
            layer.weight.renorm_(2, 0, self.max_norm)
