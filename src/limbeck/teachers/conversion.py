"""A teacher made from a network, a classifier or a function of the batch.

What this file does not know: how each kind of teacher answers.
"""

from typing import Any

from torch import nn

from limbeck.errors import ModelError
from limbeck.teachers.classifier import ClassifierTeacher
from limbeck.teachers.function import FunctionTeacher
from limbeck.teachers.model import ModelTeacher, network_fingerprint
from limbeck.teachers.protocol import Teacher


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
        return network_fingerprint(model, model.state_dict())
    try:
        return as_teacher(model).fingerprint()
    except ModelError:
        return None
