"""A teacher made from a network, a classifier, a regressor or a function of the batch.

What this file does not know: how each kind of teacher answers.
"""

from typing import Any

from torch import nn

from limbeck.errors import ModelError
from limbeck.teachers.classifier import ClassifierTeacher
from limbeck.teachers.function import FunctionTeacher
from limbeck.teachers.model import ModelTeacher, network_fingerprint
from limbeck.teachers.protocol import (
    BaseTeacher,
    Teacher,
    TeacherLike,
    WrappedTeacher,
)
from limbeck.teachers.regressor import RegressorTeacher


def as_teacher(model: TeacherLike) -> BaseTeacher:
    """Returns the teacher for a network, a classifier, a function or an object with a teacher's methods.

    model: one of
        a BaseTeacher, which is returned as it is;
        a network (nn.Module), which is put in eval mode and frozen;
        an object with `Teacher`'s two methods;
        a fitted scikit-learn classifier with `predict_proba`;
        a fitted scikit-learn regressor with `fit` and `predict`;
        a function `batch -> logits [n, C]` (or SoftTargets).

    ModelError where it is none of these.
    """
    if isinstance(model, BaseTeacher):
        return model
    if isinstance(model, nn.Module):
        return ModelTeacher(model)
    if isinstance(model, Teacher):
        return WrappedTeacher(model)
    found: Any = model  # a pipeline or a search has the methods of what it fitted: its class does not tell
    if hasattr(found, "predict_proba"):
        return ClassifierTeacher(found)
    if hasattr(found, "fit") and hasattr(found, "predict"):
        return RegressorTeacher(found)
    if callable(model):
        return FunctionTeacher(model)
    raise ModelError(
        "A teacher is a network, a classifier with predict_proba, a regressor, or a function of the batch that returns "
        "logits, "
        f"but got {type(model).__name__}."
    )


def fingerprint_of(model: TeacherLike) -> str | None:
    """The fingerprint of anything that as_teacher takes, which stays as it is; None for a function without a name."""
    if isinstance(model, nn.Module):
        return network_fingerprint(model, model.state_dict())
    try:
        return as_teacher(model).fingerprint()
    except ModelError:
        return None
