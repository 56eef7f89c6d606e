"""A fitted scikit-learn regressor or pipeline as a teacher.

What this file does not know: scikit-learn itself, the objective.
"""

import inspect
from typing import Any

import numpy as np
import torch
from torch import Tensor

from limbeck.errors import ModelError
from limbeck.losses.targets import GaussianTargets
from limbeck.networks.asking import Batch, teacher_view
from limbeck.networks.outputs import REGRESSION, Task
from limbeck.networks.positions import Positions
from limbeck.teachers.classifier import FittedTeacher, last_step
from limbeck.teachers.protocol import HasPredictions


class RegressorTeacher(FittedTeacher):
    """A fitted scikit-learn regressor as a teacher, through `predict`, in the units of the labels.

    Where its predict takes `return_std` (GaussianProcessRegressor, BayesianRidge, ARDRegression), its variances are
    those; other regressors have none, and an `Ensemble` of several takes the spread of their numbers.

    regressor: a fitted one. What it reads: `FittedTeacher`.
    """

    def __init__(self, regressor: HasPredictions):
        estimator: Any = getattr(regressor, "best_estimator_", regressor)  # of a search, whose predict gives no std
        last = last_step(estimator)
        if getattr(last, "_estimator_type", "regressor") == "classifier" or hasattr(last, "classes_"):
            raise ModelError(
                f"{type(last).__name__} is a classifier without predict_proba, so it has no probabilities to teach; "
                "use one that has (SVC(probability=True), CalibratedClassifierCV)."
            )
        fitted = [name for name in vars(last) if name.endswith("_") and not name.startswith("__")]
        if not fitted and hasattr(last, "get_params"):
            raise ModelError(f"This {type(last).__name__} has not been fitted; call fit before it teaches.")
        super().__init__(estimator)
        self._has_std = "return_std" in inspect.signature(last.predict).parameters

    def __call__(self, batch: Batch, positions: Positions | None = None) -> GaussianTargets:
        """The numbers of each example, `[n * D]`, in natural order: the D of an example side by side."""
        view = teacher_view(batch)
        read = self._read(view)
        found = self.estimator.predict(read, return_std=True) if self._has_std else (self.estimator.predict(read), None)
        mean, std = (None if x is None else np.asarray(x, dtype=np.float64) for x in found)
        assert mean is not None
        device = next((values.device for values in view.values() if isinstance(values, Tensor)), torch.device("cpu"))
        log_variance = None
        if std is not None:
            log_variance = 2 * np.log(np.clip(std.reshape(-1), np.finfo(np.float32).tiny, None))
        return GaussianTargets(
            torch.as_tensor(mean.reshape(-1), dtype=torch.float32),
            None if log_variance is None else torch.as_tensor(log_variance, dtype=torch.float32),
        ).to(device)

    @property
    def task(self) -> Task:
        """Regression of as many numbers as it was fitted on, with a variance where its predict has one."""
        return Task(REGRESSION, outputs=self._number_of_outputs(), variance=self._has_std)

    def _number_of_outputs(self) -> int:
        """How many numbers it gives for an example, as its fitted attributes tell."""
        last = last_step(self.estimator)
        last = getattr(
            last, "best_estimator_", getattr(last, "regressor_", last)
        )  # of a search, of transformed targets
        if hasattr(last, "n_outputs_"):
            return int(last.n_outputs_)
        if hasattr(last, "estimators_") and type(last).__name__ == "MultiOutputRegressor":
            return len(last.estimators_)
        coefficients = getattr(last, "coef_", None)
        if coefficients is not None and np.ndim(coefficients) == 2:
            return int(np.shape(coefficients)[0])
        fitted_on = getattr(last, "_y", getattr(last, "y_train_", None))  # of neighbours, of a Gaussian process
        return int(np.shape(fitted_on)[1]) if fitted_on is not None and np.ndim(fitted_on) == 2 else 1
