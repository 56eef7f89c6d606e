"""Correcting the prior that a student learned from a transfer set in which classes are missing or rare.

    offsets = match_prior(logits, prior, classes=[3])     # logits on unlabelled data, drawn as in deployment
    shift_bias(student, offsets)                          # adds them to the student's output layer

What this file does not know: teachers, transfer sets, how the student was trained.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.special import logsumexp
from torch import Tensor, nn

from limbeck.errors import ConfigError, DataError, ModelError, ShapeError

Prior = Tensor | np.ndarray | Sequence[float]


def match_prior(logits: Tensor, prior: Prior, classes: Sequence[int] | None = None) -> Tensor:
    """Returns the offsets to add to logits so that the mean predicted probability of each class equals its prior.

    The offsets b minimise the convex function mean_i logsumexp(z_i + b) - prior . b, whose gradient is the difference
    between the mean prediction and the prior. No label is used. This is the label-free form of the correction in arXiv
    1503.02531, section 3, where the bias of the class that the student has never seen was chosen on the test set.

    Parameters
    ----------
    logits : Tensor `[n, C]`
        Of unlabelled examples drawn as in deployment, all classes included; not of the test set.
    prior : array `[C]`
        The classes' true shares, which sum to 1, or a teacher's mean prediction on these examples.
    classes : sequence of int, optional
        The classes that get an offset; it is 0 for all others. By default all classes, with offsets of mean 0.

    Returns
    -------
    Tensor `[C]`
        float32, on the device of `logits`.

    Raises
    ------
    ShapeError, ConfigError, DataError
        For shapes that do not match, unknown classes, and a prior that no finite offsets reach.

    Examples
    --------
    >>> import torch
    >>> from limbeck import match_prior
    >>> logits = torch.tensor([[2.0, 0.0], [0.0, 0.0], [1.0, 0.0]])
    >>> logits.softmax(-1).mean(0)
    tensor([0.7040, 0.2960])
    >>> offsets = match_prior(logits, prior=[0.5, 0.5])
    >>> offsets
    tensor([-0.5000,  0.5000])
    >>> (logits + offsets).softmax(-1).mean(0)
    tensor([0.5000, 0.5000])
    """
    if logits.ndim != 2 or len(logits) == 0:
        raise ShapeError(f"match_prior needs the logits [n, C] of some examples, but got {list(logits.shape)}.")
    z = logits.detach().double().cpu().numpy()
    wanted = np.asarray(prior, dtype=np.float64).reshape(-1)
    chosen = np.arange(z.shape[1]) if classes is None else np.unique(np.asarray(classes, dtype=np.int64))
    if wanted.shape != (z.shape[1],):
        raise ShapeError(f"The prior needs one share per class, [{z.shape[1]}], but is {list(wanted.shape)}.")
    if not (wanted >= 0).all() or abs(wanted.sum() - 1) > 1e-3:
        raise DataError(f"The prior must be shares of 0 or more that sum to 1, but they sum to {wanted.sum():g}.")
    if len(chosen) == 0 or chosen[0] < 0 or chosen[-1] >= z.shape[1]:
        raise ConfigError(f"classes must be some of 0 to {z.shape[1] - 1}, but are {list(classes or [])}.")
    if not (wanted[chosen] > 0).all() or (len(chosen) < len(wanted) and not wanted[chosen].sum() < 1):
        raise DataError("A class whose prior is 0 or 1 would need an infinite offset; exclude it from classes.")

    def value(b: np.ndarray) -> float:
        return float(_predict(z, chosen, b)[0] - wanted[chosen] @ b)

    def gradient(b: np.ndarray) -> Any:
        return np.exp(_predict(z, chosen, b)[1]).mean(0) - wanted[chosen]

    def hessian(b: np.ndarray) -> Any:
        probs = np.exp(_predict(z, chosen, b)[1])
        return np.diag(probs.mean(0)) - probs.T @ probs / len(probs)

    start = np.zeros(len(chosen))
    for _ in range(20):  # proportional steps get near from any distance; the solver then converges
        log_mean = logsumexp(_predict(z, chosen, start)[1], axis=0) - np.log(len(z))
        start = start + np.log(wanted[chosen]) - log_mean
    found = minimize(value, start, jac=gradient, hess=hessian, method="trust-exact", options={"gtol": 1e-8})
    if np.abs(found.jac).max() > 1e-4:
        raise DataError(
            f"No offsets bring the mean predictions to the prior: they miss it by {np.abs(found.jac).max():.2g}. Are "
            "the logits finite, and do the examples hold every class?"
        )
    offsets = torch.zeros(z.shape[1], dtype=torch.float64)
    offsets[torch.as_tensor(chosen)] = torch.as_tensor(found.x)
    return (offsets - offsets.mean() if classes is None else offsets).to(logits.device, torch.float32)


def shift_bias(student: nn.Module, offsets: Tensor) -> nn.Module:
    """Adds offsets `[C]` to the bias of the student's last linear layer, in place; the student is returned."""
    layers = [m for m in student.modules() if isinstance(m, nn.Linear)]
    if not layers or layers[-1].bias is None or layers[-1].out_features != len(offsets):
        last = f"{layers[-1].out_features} outputs" if layers else "no linear layer"
        raise ModelError(
            f"The offsets are for {len(offsets)} classes, but the student ends in {last}, or has no bias there; add "
            "them to its logits instead."
        )
    with torch.no_grad():
        layers[-1].bias.add_(offsets.to(layers[-1].bias))
    return student


def _predict(z: Any, chosen: Any, b: Any) -> tuple[float, Any]:
    """mean_i logsumexp(z_i + b), and the log-probabilities `[n, K]` of the chosen classes."""
    offsets = np.zeros(z.shape[1])
    offsets[chosen] = b
    shifted = z + offsets
    totals = logsumexp(shifted, axis=1, keepdims=True)
    return float(totals.mean()), shifted[:, chosen] - totals
