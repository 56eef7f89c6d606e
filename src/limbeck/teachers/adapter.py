"""A student's own model without its adapter as the teacher: one copy of the weights for both.

What this file does not know: how an adapter is trained, the objective.
"""

from typing import Any, Self

import torch
from torch import Tensor, nn

from limbeck.errors import ModelError
from limbeck.losses.targets import SoftTargets
from limbeck.networks.asking import Batch
from limbeck.networks.modes import restored
from limbeck.networks.positions import Positions
from limbeck.teachers.model import ModelTeacher


class WithoutAdapter(ModelTeacher):
    """A student's own model as it is without its adapter (PEFT): teacher and student in one copy of the weights.

    model: a PEFT model whose adapter is trained. It is in eval mode, without gradient and without its adapter during
    the teacher's pass only; after it everything is as it was.
    """

    shares_student = True

    def __init__(self, model: nn.Module, classes: int | None = None):
        if not hasattr(model, "disable_adapter"):
            raise ModelError(
                f"{type(model).__name__} has no adapter that could be disabled; pass a PEFT model (get_peft_model), "
                "or a copy of the model as the teacher."
            )
        self.model, self.classes = model, classes
        self._in_halves = None
        trained = [n for n, p in model.named_parameters() if p.requires_grad and not n.startswith(self._adapter())]
        if trained:
            raise ModelError(
                f"Not the adapter alone is trained, but {trained[0]} too ({len(trained)} such parameters): the teacher "
                'would change with the student. Freeze them (LoraConfig(bias="none")), or give a copy as the teacher.'
            )

    @torch.no_grad()
    def __call__(self, batch: Batch, positions: Positions | None = None) -> SoftTargets:
        """As `ModelTeacher`, with the adapter disabled during the pass."""
        model: Any = self.model
        with restored([model]), model.disable_adapter():
            return super().__call__(batch, positions)

    def to(self, device: torch.device | str) -> Self:
        """Moves nothing: the model is the student's. Returns itself."""
        return self

    def _weights(self) -> dict[str, Tensor]:
        """The model's weights without the adapter's, which change while the student is trained."""
        return {name: x for name, x in super()._weights().items() if not name.startswith(self._adapter())}

    def _adapter(self) -> tuple[str, ...]:
        """The prefixes of the names of the adapter's parameters."""
        return tuple(
            f"{name}.{part}."
            for name, module in self.model.named_modules()
            for part in (
                *getattr(module, "adapter_layer_names", ()),
                *getattr(module, "other_param_names", ()),
                *(
                    ("modules_to_save",)
                    if hasattr(module, "modules_to_save") and hasattr(module, "original_module")
                    else ()
                ),
            )
        )
