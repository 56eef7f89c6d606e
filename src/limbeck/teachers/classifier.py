"""A fitted scikit-learn classifier as a teacher.

What this file does not know: scikit-learn itself, the objective.
"""

import hashlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

from limbeck.errors import ModelError
from limbeck.losses.targets import DenseTargets
from limbeck.networks.asking import Batch, inputs_of, teacher_view
from limbeck.networks.positions import Positions
from limbeck.teachers.protocol import BaseTeacher


class ClassifierTeacher(BaseTeacher):
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
        self._label_names = _names_of_classes(classifier.classes_)

    def __call__(self, batch: Batch, positions: Positions | None = None) -> DenseTargets:
        """log of the class probabilities, `[n, C]`."""
        features = _only_input(teacher_view(batch))
        probs = self.classifier.predict_proba(features.detach().cpu().flatten(1).numpy())
        return DenseTargets.from_probs(torch.as_tensor(probs, dtype=torch.float32)).to(features.device)

    @property
    def label_names(self) -> tuple[str, ...] | None:
        """The names that the classifier was fitted on; None where it was fitted on numbers."""
        return self._label_names

    def fingerprint(self) -> str:
        """SHA-256 of the class's name and every fitted array that can be reached from it."""
        digest = hashlib.sha256(type(self.classifier).__qualname__.encode())
        _digest_value(digest, self.classifier, {})
        return digest.hexdigest()


def _names_of_classes(classes: np.ndarray) -> tuple[str, ...] | None:
    """The names of the columns of predict_proba; None where they are the labels 0 to C - 1 themselves."""
    if classes.dtype.kind in "USO":
        return tuple(str(name) for name in classes)
    if not np.array_equal(classes, np.arange(len(classes))):
        raise ModelError(
            f"The classifier's classes are {classes[:10].tolist()}, but those of a transfer set are the labels 0 to "
            f"{len(classes) - 1}; fit it on all labels of the transfer set."
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

    seen: the objects visited so far, by id; holding them keeps their ids from being reused.
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
