"""Whether labels, teacher and student number the classes in the same order, where no names can tell.

What this file does not know: training, and what the classes are.
"""

import logging
from collections.abc import Mapping, Sequence

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from limbeck.errors import DataError
from limbeck.losses.numbers import NO_LABEL

log = logging.getLogger("limbeck")

FEWEST = 16
"""Labels from which on the order of the classes is compared."""
GOOD, GAIN = 0.6, 0.4
"""The agreement that another order of the classes must give, and how much better it must be than the present one."""
ERRORS = 3.0
"""The gain must also be so many times 1 / sqrt(n), so that it is not a coincidence."""


def check_numbered_names(names: Mapping[str, Sequence[str]], numbered: Sequence[str]) -> None:
    """DataError where the classes of one side are called 0 to C - 1, but not in this order, and labels are numbers.

    Labels that were sorted as text, 0, 1, 10, 11, 2, are an example: there class 2 is called "10".

    names: the names of the classes in order, by who has them.
    numbered: the sets whose labels are numbers without names.
    """
    for who, given in names.items():
        in_order = [str(number) for number in range(len(given))]
        if numbered and list(given) != in_order and sorted(given) == sorted(in_order):
            place = next(place for place, name in enumerate(given) if name != str(place))
            raise DataError(
                f"Class {place} is called {given[place]!r} by {who}, but in {numbered[0]} the label {place} is class "
                f"{place}: the names are numbers in another order, perhaps sorted as text. Give the set label_names, "
                f"or reorder the classes of {who}."
            )


def warn_of_another_order(scores: Tensor, labels: Tensor) -> None:
    """Warns where the teacher's classes seem to be those of the labels in another order.

    scores: the teacher's log probabilities or logits `[n, C]`. labels: `[n]`, -100 where there is none.
    """
    known = labels != NO_LABEL
    predicted, labels = scores[known].argmax(-1), labels[known]
    order = better_order(predicted, labels, scores.shape[-1])
    if order is None:
        return
    moved = [f"{label} -> {place}" for label, place in enumerate(order) if place != label]
    log.warning(
        "The teacher agrees with %.0f%% of the labels of the first batch, but would with %.0f%% if its classes came in "
        "another order: its classes and those of the labels are probably not the same. By label -> class of the "
        "teacher: %s. Compare the names of the classes on both sides.",
        100 * float((predicted == labels).double().mean()),
        100 * _agreement_on_other_half(predicted, labels, scores.shape[-1]),
        ", ".join(moved[:10]) + (", ..." if len(moved) > 10 else ""),
    )


def better_order(predicted: Tensor, labels: Tensor, classes: int) -> list[int] | None:
    """The class of the teacher for each label, where another order than 0, 1, 2, ... fits far better; else None.

    An order is found on one half of the examples and judged on the other, so that none fits by chance.

    predicted, labels: `[n]`, int64 in [0, classes).
    """
    if len(labels) < FEWEST:
        return None
    agreement = float((predicted == labels).double().mean())
    better = _agreement_on_other_half(predicted, labels, classes)
    if better < GOOD or better - agreement < max(GAIN, ERRORS / len(labels) ** 0.5):
        return None
    order: list[int] = _assigned(predicted, labels, classes).tolist()
    return order


def _agreement_on_other_half(predicted: Tensor, labels: Tensor, classes: int) -> float:
    """The agreement of each half of the examples, in the order that fits the other half best."""
    first = torch.arange(len(labels), device=labels.device) % 2 == 0
    right = 0
    for half in (first, ~first):
        order = _assigned(predicted[half], labels[half], classes)
        right += int((order[labels[~half].cpu()] == predicted[~half].cpu()).sum())
    return right / len(labels)


def _assigned(predicted: Tensor, labels: Tensor, classes: int) -> Tensor:
    """The class of the teacher for each label `[C]`, one to one, with the highest agreement; ties keep their place."""
    counts = torch.bincount(labels.cpu() * classes + predicted.cpu(), minlength=classes**2).view(classes, classes)
    scores = counts.double() + 0.5 / classes * torch.eye(classes, dtype=torch.float64)
    _, columns = linear_sum_assignment(scores.numpy(), maximize=True)
    return torch.as_tensor(columns)
