"""One model as a teacher: a network, a scikit-learn classifier, or a function of the batch.

What this file does not know: the objective, temperatures, where batches come from.
"""

import hashlib
import json
import logging
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from limbeck.errors import ModelError
from limbeck.losses.targets import DenseTargets, HiddenTargets, SoftTargets, as_targets
from limbeck.networks.asking import Batch, inputs_of, is_placed, label_names_of, logits_of, teacher_view
from limbeck.networks.halves import head_of, hidden_of, is_language_model, logits_are_heads, require_positions
from limbeck.networks.modes import restored
from limbeck.networks.positions import next_tokens

log = logging.getLogger(__name__)


@runtime_checkable
class Teacher(Protocol):
    """One verb: what it believes about a batch. Its fingerprint tells one teacher from another."""

    def __call__(self, batch: Batch) -> SoftTargets: ...

    def fingerprint(self) -> str:
        """A hash of weights, configuration and dtype."""
        ...


def as_teacher(model: Any) -> Teacher:
    """A teacher made of what the user has.

    model: a teacher (returned as it is), an nn.Module, a fitted scikit-learn classifier with
        `predict_proba`, or a function `batch -> logits [n, C]` (or SoftTargets).
    """
    if isinstance(model, nn.Module):
        return ModelTeacher(model)
    if isinstance(model, Teacher):
        return model
    if hasattr(model, "predict_proba"):
        return ClassifierTeacher(model)
    if callable(model):
        return FunctionTeacher(model)
    raise ModelError(
        "A teacher is a network, a classifier with predict_proba, or a function of the batch that returns logits, "
        f"but got {type(model).__name__}."
    )


def fingerprint_of(model: Any) -> str | None:
    """The fingerprint of what as_teacher takes, which is left as it is; None of a function that was given no name."""
    if isinstance(model, nn.Module):
        return _fingerprint(model, model.state_dict())
    try:
        return as_teacher(model).fingerprint()
    except ModelError:
        return None


class ModelTeacher:
    """A network as a teacher: in eval mode, without gradient, frozen, and kept so.

    model: any nn.Module or transformers model; it is put in eval mode and its parameters stop requiring gradients.

    classes: only the first so many are spoken of, where an output layer is padded to more than its tokenizer has.

    A model that was loaded to several devices (device_map), offloaded or quantised stays where it is: each batch is
    moved to its first device, and what it says comes back to the batch's.

    Of a causal language model the last hidden states are kept, and its output layer: its logits never exist.
    """

    def __init__(self, model: nn.Module, classes: int | None = None):
        self.model, self.classes = model.eval().requires_grad_(False), classes
        self._in_halves: bool | None = None  # whether a language model's logits are its head's of its states

    @torch.no_grad()
    def __call__(self, batch: Batch) -> SoftTargets:
        """What the model says of each position: `[n, C]`.

        Positions are the examples; token classifiers give one row per token, example by example; language models one
        per token of `labels [B, L]` that is to be predicted, from the state before it.
        """
        self.model.eval()  # somebody may have called train() on it, or on a part of it
        view = teacher_view(batch)
        if not ("labels" in view and is_language_model(self.model)):
            logits = logits_of(self.model, view)[..., : self.classes]
            return DenseTargets(logits.reshape(-1, logits.shape[-1]))
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
    def label_names(self) -> tuple[str, ...] | None:
        """The names of the classes, where the model knows them."""
        return label_names_of(self.model)

    def to(self, device: torch.device | str) -> "ModelTeacher":
        """Moves the model, unless it is one that stays where it is."""
        if not is_placed(self.model):
            self.model.to(device)
        return self

    def fingerprint(self) -> str:
        """SHA-256 of the class's name, the configuration, and every tensor's name, dtype, shape and bytes."""
        return _fingerprint(self.model, self._weights())

    def _weights(self) -> dict[str, Tensor]:
        return self.model.state_dict()


class WithoutAdapter(ModelTeacher):
    """A student's own model as it is without its adapter (PEFT): teacher and student in one copy of the weights.

    model: a PEFT model whose adapter is trained. It is in eval mode, without gradient and without its adapter during
    the teacher's pass only; after it everything is as it was.
    """

    shares_student = True

    def __init__(self, model: nn.Module, classes: int | None = None):
        if not hasattr(model, "disable_adapter"):
            raise ModelError(
                f"{type(model).__name__} has no adapter that could be disabled; give a PEFT model (get_peft_model), "
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
    def __call__(self, batch: Batch) -> SoftTargets:
        """As `ModelTeacher`, with the adapter disabled meanwhile."""
        model: Any = self.model
        with restored([model]), model.disable_adapter():
            return super().__call__(batch)

    def to(self, device: torch.device | str) -> "WithoutAdapter":
        """Nothing: it is where the student is."""
        return self

    def _weights(self) -> dict[str, Tensor]:
        """Without the adapter's, which change while the student is trained."""
        return {name: x for name, x in super()._weights().items() if not name.startswith(self._adapter())}

    def _adapter(self) -> tuple[str, ...]:
        """What the names of its parameters begin with."""
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


def _fingerprint(network: nn.Module, weights: dict[str, Tensor]) -> str:
    config: Any = getattr(network, "config", None)
    described: Any = config.to_dict() if hasattr(config, "to_dict") else getattr(network, "settings", None)
    if isinstance(described, dict):
        described = {key: value for key, value in described.items() if key not in _OF_THE_FILE}
    digest = hashlib.sha256(type(network).__qualname__.encode())
    digest.update(json.dumps(described, sort_keys=True, default=str).encode())
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


class ClassifierTeacher:
    """A fitted scikit-learn classifier as a teacher, through `predict_proba`; a probability of 0 becomes -inf.

    It reads the batch's single input column, each example flattened to a row of features. Fit it on the transfer
    set's labels, 0 to C - 1; or on names, which then must be the transfer set's, in sorted order as scikit-learn has
    them.
    """

    def __init__(self, classifier: Any):
        if not hasattr(classifier, "predict_proba"):
            raise ModelError(f"{type(classifier).__name__} has no predict_proba, which a teacher of this kind needs.")
        if not hasattr(classifier, "classes_"):
            raise ModelError(f"This {type(classifier).__name__} has not been fitted; call fit before it teaches.")
        self.classifier = classifier
        self.label_names = _names_of_classes(classifier.classes_)

    def __call__(self, batch: Batch) -> DenseTargets:
        """log of the class probabilities, `[n, C]`."""
        features = _only_input(teacher_view(batch))
        probs = self.classifier.predict_proba(features.detach().cpu().flatten(1).numpy())
        return DenseTargets.from_probs(torch.as_tensor(probs, dtype=torch.float32)).to(features.device)

    def fingerprint(self) -> str:
        """SHA-256 of the class's name and every fitted array that can be reached from it."""
        digest = hashlib.sha256(type(self.classifier).__qualname__.encode())
        _digest_value(digest, self.classifier, {})
        return digest.hexdigest()


class FunctionTeacher:
    """A function of the batch as a teacher.

    function: `batch -> logits [n, C]`, or SoftTargets; called without gradient.
    fingerprint: a name for what the function computes; needed only where targets are stored.
    """

    def __init__(self, function: Callable[[Batch], Tensor | SoftTargets], fingerprint: str | None = None):
        self.function = function
        self._fingerprint = fingerprint

    @torch.no_grad()
    def __call__(self, batch: Batch) -> SoftTargets:
        """What the function said, as SoftTargets."""
        return as_targets(self.function(batch))

    def fingerprint(self) -> str:
        """The one it was given; a function cannot be hashed."""
        if self._fingerprint is None:
            raise ModelError(
                "A function cannot be told from another one; give it a name that changes when what it computes does: "
                'FunctionTeacher(function, fingerprint="...").'
            )
        return self._fingerprint


def _names_of_classes(classes: np.ndarray) -> tuple[str, ...] | None:
    """None where the columns of predict_proba are the labels 0 to C - 1 themselves."""
    if classes.dtype.kind in "USO":
        return tuple(str(name) for name in classes)
    if not np.array_equal(classes, np.arange(len(classes))):
        raise ModelError(
            f"The classifier's classes are {classes[:10].tolist()}, but those of a transfer set are the labels 0 to "
            f"{len(classes) - 1}; fit it on the transfer set's own labels, all of them."
        )
    return None


def _only_input(batch: Batch) -> Tensor:
    inputs = inputs_of(batch)
    if len(inputs) != 1:
        raise ModelError(f"A scikit-learn teacher reads one input column, but the batch has {sorted(inputs)}.")
    features: Tensor = next(iter(inputs.values()))
    return features


def _digest_value(digest: Any, value: Any, seen: dict[int, Any]) -> None:
    """Feeds arrays, numbers and texts below `value` to the digest, in a fixed order.

    seen: by id, and kept alive, or another object might get the id of one that is gone.
    """
    if isinstance(value, np.ndarray) and value.dtype.names:
        for name in value.dtype.names:  # field by field: what lies between them is not set
            _digest_value(digest, np.ascontiguousarray(value[name]), seen)
    elif isinstance(value, np.ndarray) and value.dtype != object:
        digest.update(f"{value.dtype} {value.shape}".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    elif isinstance(value, str | int | float | bool | bytes | None):
        digest.update(repr(value).encode())
    elif id(value) not in seen:
        seen[id(value)] = value
        if isinstance(value, dict):
            parts: Any = sorted(value.items(), key=lambda item: str(item[0]))
        elif isinstance(value, list | tuple | np.ndarray):
            parts = enumerate(value)
        elif hasattr(value, "__getstate__") and isinstance(state := value.__getstate__(), dict):
            parts = sorted((k, v) for k, v in state.items() if not k.startswith("_sklearn"))
        elif hasattr(value, "__reduce__") and hasattr(value, "__array__"):
            parts = [("array", np.asarray(value))]
        else:
            parts = []
        for name, part in parts:
            digest.update(str(name).encode())
            _digest_value(digest, part, seen)
