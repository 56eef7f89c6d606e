"""A fitted scikit-learn classifier or pipeline as a teacher, and what all estimators read.

What this file does not know: scikit-learn itself, the objective.
"""

import hashlib
import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from limbeck.errors import DataError, ModelError
from limbeck.losses.targets import DenseTargets
from limbeck.networks.asking import Batch, inputs_of, teacher_view
from limbeck.networks.outputs import MULTI_LABEL, Task
from limbeck.networks.positions import Positions
from limbeck.teachers.protocol import BaseTeacher, HasProbabilities


class FittedTeacher(BaseTeacher):
    """A fitted scikit-learn estimator as a teacher: what it reads of a batch, and its fingerprint.

    It reads what it was fitted on. Fitted on a DataFrame (`feature_names_in_`): the columns of these names, in its
    order, as they are in the table, whatever the student reads. A pipeline fitted on texts: the texts. These need
    batches with `table_rows`, as those of `limbeck.table` have. Fitted on arrays: the batch's single input column, each
    example flattened to a row.

    estimator: a fitted one.
    """

    def __init__(self, estimator: Any):
        self.estimator = estimator
        names = getattr(estimator, "feature_names_in_", None)
        self._names = None if names is None else [str(name) for name in names]
        width = getattr(estimator, "n_features_in_", None)
        self._width = None if width is None else int(width)

    @property
    def reads_rows(self) -> bool:
        """Whether it reads columns by name, or texts, and so needs batches with `table_rows`."""
        return self._names is not None or self._width is None

    def fingerprint(self) -> str:
        """SHA-256 of the class's name and every fitted array that can be reached from it."""
        digest = hashlib.sha256(type(self.estimator).__qualname__.encode())
        _digest_value(digest, self.estimator, {})
        return digest.hexdigest()

    def _read(self, batch: Batch) -> Any:
        """The examples of a batch as the estimator was fitted on them."""
        rows: Any = batch.get("table_rows")
        name = type(self.estimator).__name__
        if rows is None:
            array = _only_input(batch).detach().cpu().flatten(1).numpy()
            if self._names is None:
                return self._checked(array)
            if array.shape[1] != len(self._names):
                raise DataError(
                    f"This {name} reads the columns {_some(self._names)} by name, but the batch has {array.shape[1]} "
                    "numbers without names; read the table with limbeck.table(..., with_rows=True)."
                )
            return pd.DataFrame(array, columns=self._names)
        if self._names is not None:
            if missing := [column for column in self._names if column not in rows.column_names]:
                raise DataError(
                    f"This {name} was fitted on the column {missing[0]!r}, which the data does not have; it has "
                    f"{_some(rows.column_names)}."
                )
            return rows.frame(self._names)
        if self._width is None:
            if len(rows.texts) != 1:
                raise DataError(
                    f"This {name} reads texts, but the data has {len(rows.texts)} columns of text; name one by "
                    "text_column (--text_column)."
                )
            return rows.frame(rows.texts)[rows.texts[0]].tolist()
        return self._checked(_only_input(batch).detach().cpu().flatten(1).numpy())

    def _checked(self, array: np.ndarray) -> np.ndarray:
        if self._width is not None and array.shape[1] != self._width:
            raise DataError(
                f"This {type(self.estimator).__name__} was fitted on {self._width} numbers per example, but the batch "
                f"has {array.shape[1]}; fit it on a DataFrame, so that it reads columns by name."
            )
        return array


class ClassifierTeacher(FittedTeacher):
    """A fitted scikit-learn classifier as a teacher, through `predict_proba`; a probability of 0 becomes -inf.

    Fit it on the transfer set's labels, 0 to C - 1; or on names, which then must be the transfer set's, in sorted order
    as scikit-learn has them. Fitted on several labels of 0 and 1 per example (a tree or forest, MultiOutputClassifier,
    OneVsRestClassifier), it gives a row of two probabilities for each label.

    classifier: a fitted one. What it reads: `FittedTeacher`.
    """

    def __init__(self, classifier: HasProbabilities):
        if not hasattr(classifier, "predict_proba"):
            raise ModelError(f"{type(classifier).__name__} has no predict_proba, which a teacher of this kind needs.")
        if not hasattr(classifier, "classes_"):
            raise ModelError(f"This {type(classifier).__name__} has not been fitted; call fit before it teaches.")
        super().__init__(classifier)
        self._labels = _number_of_labels(classifier)
        self._label_names = None if self._labels else _names_of_classes(np.asarray(self.estimator.classes_))

    def __call__(self, batch: Batch, positions: Positions | None = None) -> DenseTargets:
        """log of the class probabilities, `[n, C]`; of L labels, those of 0 and 1, `[n * L, 2]`."""
        view = teacher_view(batch)
        probs = self.estimator.predict_proba(self._read(view))
        device = next((values.device for values in view.values() if isinstance(values, Tensor)), torch.device("cpu"))
        if self._labels:
            probs = _of_labels(probs, self._labels, type(self.estimator).__name__)
        return DenseTargets.from_probs(torch.as_tensor(np.asarray(probs), dtype=torch.float32)).to(device)

    @property
    def task(self) -> Task:
        """Classes, or several labels."""
        return Task(MULTI_LABEL, outputs=self._labels) if self._labels else Task()

    @property
    def label_names(self) -> tuple[str, ...] | None:
        """The names that the classifier was fitted on; None where it was fitted on numbers."""
        return self._label_names


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


def last_step(estimator: Any) -> Any:
    """The last step of a pipeline; any other estimator itself."""
    return estimator.steps[-1][1] if hasattr(estimator, "steps") else estimator


def _number_of_labels(classifier: Any) -> int | None:
    """The number of labels of 0 and 1 that a classifier was fitted on; None where it was fitted on one label."""
    last = last_step(classifier)
    last = getattr(last, "best_estimator_", last)  # of a search
    classes = last.classes_
    if isinstance(classes, list):  # one array of classes per label
        for i, each in enumerate(classes):
            if not set(np.asarray(each).tolist()) <= {0, 1}:
                raise ModelError(
                    f"A teacher of several labels is fitted on labels of 0 and 1, but label {i} of this "
                    f"{type(last).__name__} has the classes {np.asarray(each)[:10].tolist()}."
                )
        return len(classes)
    binarizer = getattr(last, "label_binarizer_", getattr(last, "_label_binarizer", None))
    if getattr(binarizer, "y_type_", "") == "multilabel-indicator":
        return len(classes)
    return None


def _of_labels(probs: Any, labels: int, name: str) -> np.ndarray:
    """Probabilities of 0 and 1, `[n * L, 2]`, of `[n, L]` or of a list with `[n, 1 or 2]` for each label."""
    if isinstance(probs, list):
        columns = [np.asarray(each) for each in probs]
        if any(each.shape[1] == 1 for each in columns):
            place = next(i for i, each in enumerate(columns) if each.shape[1] == 1)
            raise ModelError(
                f"Label {place} of this {name} had one value in all examples that it was fitted on, so it gives no "
                "probability of the other; leave the label out, or fit it on more examples."
            )
        return np.stack([each[:, :2] for each in columns], 1).reshape(-1, 2)
    array = np.asarray(probs)
    if array.ndim != 2 or array.shape[1] != labels:
        raise ModelError(f"This {name} gave probabilities {list(array.shape)}, but has {labels} labels.")
    return np.stack([1 - array, array], -1).reshape(-1, 2)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


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
    elif isinstance(value, type) or inspect.isroutine(value):
        digest.update(f"{value.__module__}.{value.__qualname__}".encode())
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
