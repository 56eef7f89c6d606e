"""A network as a teacher.

What this file does not know: the objective, temperatures, where batches come from.
"""

import copy
import hashlib
import json
import logging
from typing import Any, Self

import torch
from torch import Tensor, nn

from limbeck.losses.targets import DenseTargets, HiddenTargets, SoftTargets
from limbeck.networks.asking import Batch, is_placed, label_names_of, logits_of, teacher_view
from limbeck.networks.halves import head_of, hidden_of, is_language_model, logits_are_heads, require_positions
from limbeck.networks.outputs import task_of
from limbeck.networks.pixels import image_processor_of
from limbeck.networks.positions import Positions, next_tokens
from limbeck.networks.table import table_encoder_of
from limbeck.teachers.protocol import BaseTeacher, require_classes, targets_by_task

log = logging.getLogger(__name__)


class ModelTeacher(BaseTeacher):
    """A network as a teacher: always in eval mode, frozen and without gradient.

    model: any nn.Module or transformers model; it is put in eval mode and its parameters stop requiring gradients.
    classes: the number of classes to use, where an output layer is padded to more than its tokenizer has; None for all.

    A model that was loaded to several devices (device_map), offloaded or quantised stays where it is: each batch is
    moved to its first device, and its answer is moved back to the batch's device.

    A causal language model's answer is its last hidden states with its output layer, so that the logits of a whole
    batch are never in memory.
    """

    def __init__(self, model: nn.Module, classes: int | None = None):
        self.model, self.classes = model.eval().requires_grad_(False), classes
        self._in_halves: bool | None = None  # whether a language model's logits are its head's of its states

    @torch.no_grad()
    def __call__(self, batch: Batch, positions: Positions | None = None) -> SoftTargets:
        """The model's distribution for each position, `[n, C]`.

        Positions are the examples; token classifiers give one row per token, example by example, and networks for
        several labels, pixels or numbers one row for each of these; language models give
        one row per token of `labels [B, L]` that has to be predicted, from the state before it.

        positions: of the batch, where they are known; not used where the batch has `teacher_*` columns.
        """
        self.model.eval()  # the caller may have called train() on it, or on a part of it
        view = teacher_view(batch)
        if not ("labels" in view and is_language_model(self.model)):
            task = task_of(self.model)
            logits = logits_of(self.model, view)
            return targets_by_task(logits if task and task.is_regression else logits[..., : self.classes], task)
        rows = None if positions is None or view is not batch else positions.rows
        if rows is None:  # also where the `teacher_*` columns have other positions
            rows = next_tokens(view).rows
        if self._in_halves is None:
            self._in_halves = logits_are_heads(self.model, view)
            if not self._in_halves:
                log.warning(
                    "The logits of the teacher, %s, are not a product of its last states; they are made as a whole.",
                    type(self.model).__name__,
                )
        head = head_of(self.model) if self._in_halves else None
        if head is None:
            return DenseTargets(require_positions(logits_of(self.model, view), view, "teacher")[rows, : self.classes])
        head = head if self.classes is None else head.first(self.classes)
        hidden = require_positions(hidden_of(self.model, view), view, "teacher")[rows]
        return HiddenTargets(hidden, head.to(hidden.device))

    @property
    def networks(self) -> list[nn.Module]:
        """The model."""
        return [self.model]

    @property
    def label_names(self) -> tuple[str, ...] | None:
        """The names of the classes in order, where the model has them."""
        names = label_names_of(self.model)
        return None if names is None else names[: self.classes]

    def cut(self, classes: int) -> Self:
        """The same network with only the first `classes` of its output layer."""
        narrower = copy.copy(self)
        limit = require_classes(classes)
        narrower.classes = limit if self.classes is None else min(limit, self.classes)
        return narrower

    def to(self, device: torch.device | str) -> Self:
        """Moves the model, unless it was placed when it was loaded; returns itself."""
        if not is_placed(self.model):
            self.model.to(device)
        return self

    def fingerprint(self) -> str:
        """SHA-256 of the class's name, the configuration, and every tensor's name, dtype, shape and bytes."""
        return network_fingerprint(self.model, self._weights())

    def _weights(self) -> dict[str, Tensor]:
        return self.model.state_dict()


def network_fingerprint(network: nn.Module, weights: dict[str, Tensor]) -> str:
    """SHA-256 of the class's name, the configuration, and every tensor's name, dtype, shape and bytes.

    weights: by name; those that accelerate has offloaded are loaded one by one.
    """
    config: Any = getattr(network, "config", None)
    described: Any = config.to_dict() if hasattr(config, "to_dict") else getattr(network, "settings", None)
    if isinstance(described, dict):
        described = {key: value for key, value in described.items() if key not in _OF_THE_FILE}
    digest = hashlib.sha256(type(network).__qualname__.encode())
    digest.update(json.dumps(described, sort_keys=True, default=str).encode())
    processor = image_processor_of(network)
    if processor is not None:
        digest.update(json.dumps(processor.settings, sort_keys=True, default=str).encode())
    encoder = table_encoder_of(network)
    if encoder is not None:
        digest.update(encoder.to_json().encode())
    if (task := task_of(network)) is not None and task.scale:  # which its outputs are multiplied by
        digest.update(repr(task).encode())
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        tensor = _loaded(network, name) if tensor.is_meta else tensor
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _loaded(network: nn.Module, name: str) -> Tensor:
    """A weight that accelerate has offloaded, by its name."""
    from accelerate.utils import align_module_device

    path, _, weight = name.rpartition(".")
    module = network.get_submodule(path)
    with align_module_device(module, torch.device("cpu")):
        tensor: Tensor = getattr(module, weight)
        return tensor


_OF_THE_FILE = {"_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype"}
"""What transformers notes in a configuration when it saves or loads; class and dtypes are hashed by themselves."""
