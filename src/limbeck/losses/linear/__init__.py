"""The objective of `hidden @ weight.T`, without ever storing the `[n, C]` logits."""

from torch import Tensor

from limbeck.errors import ObjectiveError, ShapeError
from limbeck.losses.linear import chunked, reference, triton
from limbeck.losses.linear.problem import Problem
from limbeck.losses.numbers import autocast_dtype
from limbeck.losses.objective import Counts, Loss, Objective
from limbeck.losses.targets import Head, SoftTargets

__all__ = ["linear_divergence"]

IMPLEMENTATIONS = ("auto", "reference", "chunked", "compiled", "triton")


def linear_divergence(
    hidden: Tensor,
    weight: Tensor | Head,
    targets: SoftTargets | Tensor | None,
    objective: Objective,
    labels: Tensor | None = None,
    *,
    mask: Tensor | None = None,
    weights: Tensor | None = None,
    counts: Counts | None = None,
    bias: Tensor | None = None,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    precision: str = "exact",
    impl: str = "auto",
) -> Loss:
    """The loss of an objective on the logits `hidden @ weight.T`, in the memory of a few rows of them.

    Returns the value, and gives the gradients, of these lines without ever storing the logits `[n, C]`:

        logits = Head(weight, bias, logit_scale, softcap, precision)(hidden)
        return objective(logits, targets, labels, mask=mask, weights=weights, counts=counts)

    Matmuls multiply in the inputs' dtype, or autocast's. Logits, softmax, logarithms and sums, and the sum of the
    weight's gradient over chunks, are in float32 (float64 for float64).

    Parameters
    ----------
    hidden : Tensor `[..., H]`
        The student's last hidden states; leading axes are positions, n in all.
    weight : Tensor `[C, H]` or Head
        The weight of the student's output layer, with `bias [C]`, `logit_scale`, `softcap` and `precision` as in
        `Head`; or the whole layer as a Head, which includes these four. Hidden, weight and bias get a gradient, in one
        backward: a second one raises an error. The teacher gets none.
    targets, labels, mask, weights, counts
        As in `Objective.__call__`. With `HiddenTargets`, the teacher's logits are not stored either. Positions with
        neither a soft nor a hard term are dropped before the matmul.
    objective : Objective
        The terms of the loss.
    impl : str
        "reference", the lines above; "chunked", chunks of rows whose gradients are computed in the forward pass, so
        that nothing is computed twice; "compiled", the same with torch.compile for the elementwise work; "triton", the
        same with a Triton kernel for it, where the divergence is built in and the targets are logits or hidden states,
        and "compiled" for others. "auto" takes "triton" on CUDA where Triton works; elsewhere, and for what its kernel
        does not support, "compiled" for 16,384 classes and more where torch.compile works, else "chunked".

    Returns
    -------
    Loss
        As `Objective.__call__` returns it; `loss.mean.backward()` computes the gradients.

    Examples
    --------
    >>> import torch
    >>> from limbeck import Objective, linear_divergence
    >>> hidden = torch.eye(2).requires_grad_()
    >>> loss = linear_divergence(hidden, torch.eye(2), torch.zeros(2, 2), Objective(temperature=1.0))
    >>> round(loss.mean.item(), 4)
    0.1201
    >>> loss.mean.backward()
    >>> hidden.grad.shape
    torch.Size([2, 2])
    """
    if impl not in IMPLEMENTATIONS:
        raise ObjectiveError(f"impl is one of {', '.join(IMPLEMENTATIONS)}, not {impl!r}.")
    if isinstance(weight, Head):
        head = weight
        if bias is not None or logit_scale != 1 or softcap is not None or precision != "exact":
            raise ObjectiveError(
                "A Head includes bias, logit_scale, softcap and precision, but some of them were given beside it; pass "
                "either the Head alone or its weight with them."
            )
    else:
        head = Head(weight, bias, logit_scale, softcap, precision)
    weight = head.weight
    if hidden.ndim < 2 or hidden.shape[-1] != weight.shape[1]:
        raise ShapeError(
            f"hidden is {list(hidden.shape)} and the output layer's weight is [C, H] = {list(weight.shape)}; the last "
            "axis of hidden must be H, so give the states that this layer reads, or weight.T if it is stored [H, C]."
        )
    if hidden.dtype != weight.dtype and autocast_dtype(hidden.device.type) is None:
        raise ShapeError(
            f"hidden is {hidden.dtype} and weight {weight.dtype}; cast one of them, or call this under torch.autocast."
        )
    problem = Problem(hidden, head, targets, objective, labels, mask, weights, counts)
    if impl == "reference":
        return reference.linear_divergence(problem)
    if impl == "triton":
        triton.require(hidden.device)
    fused = impl == "triton" or (impl == "auto" and hidden.is_cuda and triton.works_on(hidden.device))
    compiled = impl in ("compiled", "triton") or (impl == "auto" and len(weight) >= chunked.WORTH_COMPILING)
    return chunked.linear_divergence(problem, compiled, fused)
