"""What is refused before training begins: sets, labels, teachers and students that do not belong together.

One batch is read and put through teacher and student, without gradient and without touching the random state.
What this file does not know: how training goes on after that.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.divergences import forward_kl
from limbeck.errors import ConfigError, DataError, ModelError, ShapeError, TargetError
from limbeck.models import Batch, label_names_of, logits_of, networks_of
from limbeck.objective import NO_LABEL, Objective
from limbeck.targets import DenseTargets, MixedTargets, SoftTargets
from limbeck.teachers.model import Teacher


def check_student(student: nn.Module, teacher: Teacher | None, transfer_set: Any) -> None:
    """Whether there is something to train, on some examples, with classes that are called alike."""
    if len(transfer_set) == 0:
        raise DataError("The transfer set is empty; training needs at least one example.")
    trainable = [p for p in student.parameters() if p.requires_grad]
    if not trainable:
        raise ModelError("No parameter of the student requires a gradient, so nothing could be learned.")
    shared = {id(p) for model in networks_of(teacher) or [] for p in model.parameters()} & {
        id(p) for p in student.parameters()
    }
    if shared:
        raise ModelError(
            "Teacher and student share parameters, and a teacher is frozen; pass copy.deepcopy(model) as one of them."
        )
    said = {
        "the teacher": getattr(teacher, "label_names", None),
        "the student": label_names_of(student),
        "the transfer set": getattr(transfer_set, "label_names", None),
    }
    check_label_names({who: names for who, names in said.items() if names})


def check_label_names(known: dict[str, Sequence[str]]) -> None:
    """The same classes in the same order, wherever their names are known."""
    (first, names), *others = list(known.items()) or [("", ())]
    for who, other in others:
        if len(other) != len(names):
            raise ShapeError(
                f"{first} has {len(names)} classes, {who} has {len(other)}; they must be the same classes."
            )
        for i, (a, b) in enumerate(zip(names, other, strict=True)):
            if a != b:
                raise DataError(
                    f"Class {i} is {a!r} for {first} and {b!r} for {who}: the classes must come in the same order, or "
                    "the student learns one class under another's name. Reorder the labels of one of them."
                )


def check_batch(
    student: nn.Module,
    teacher: Teacher | None,
    objective: Objective,
    batch: Batch,
    all_labels: Tensor | None = None,
) -> Tensor:
    """The student's logits for a batch, if teacher and student speak of the same classes in finite logits.

    all_labels: those of the whole transfer set, where they are at hand; they must be classes of the student.
    """
    was_training = student.training
    with torch.random.fork_rng(), torch.no_grad():
        logits = logits_of(student.eval(), batch)
        targets = teacher(batch) if teacher is not None and objective.soft_weight else None
    student.train(was_training)
    if logits.ndim < 2:
        raise ShapeError(f"The student must return logits [n, C], but returned the shape {list(logits.shape)}.")
    if not logits.isfinite().all():
        raise ModelError("The student's logits are not finite for the first batch; look at its weights or its inputs.")
    _refuse_probabilities(logits, "student", "leave its softmax out")
    rows = batch.get("row_id", torch.arange(len(logits)))
    _check_labels(objective, logits.shape[-1], batch.get("labels"), all_labels, rows)
    if targets is not None:
        _check_targets(objective, logits, targets, rows)
    return logits


def _check_targets(objective: Objective, logits: Tensor, targets: SoftTargets, rows: Tensor) -> None:
    classes, positions = logits.shape[-1], logits.shape[:-1].numel()
    if targets.num_classes != classes:
        raise ShapeError(
            f"The teacher speaks of {targets.num_classes} classes and the student of {classes}; both need one output "
            "per class of the same set of classes. Change the student's last layer, or give another teacher."
        )
    if len(targets) != positions:
        raise ShapeError(
            f"The teacher spoke of {len(targets)} positions, but the batch has {positions} for the student; the "
            "teacher must return one row per position of the batch."
        )
    members = targets.members if isinstance(targets, MixedTargets) else [targets]
    for member in members:
        if isinstance(member, DenseTargets):
            _refuse_probabilities(
                member.logits,
                "teacher",
                "return probs.log(), or DenseTargets.from_probs(probs), or leave its softmax out",
            )
    bad = targets.bad_rows(objective.divergence)
    if bad.any():
        row = int(rows.cpu().repeat_interleave(len(bad) // len(rows))[bad.cpu()][0])
        if targets.bad_rows(forward_kl).any():  # finite wherever there is a distribution at all
            raise TargetError(
                f"The teacher gave nan, infinity or an impossible distribution for the example with row_id {row} "
                f"({int(bad.sum())} of {len(bad)} positions of the first batch); look at that example, or at the "
                "teacher's dtype."
            )
        raise TargetError(
            f"The teacher gives some class a probability of zero for the example with row_id {row}, where "
            f"{objective.divergence.name} is infinite; use skewed_reverse_kl, forward_kl or jensen_shannon."
        )
    targets.compared_by(objective.divergence, objective.temperature)


def _check_labels(
    objective: Objective, classes: int, labels: Tensor | None, all_labels: Tensor | None, rows: Tensor
) -> None:
    if objective.hard_weight and labels is None:
        raise ConfigError("hard_weight is above 0 but the batches have no labels; give labels, or hard_weight=0.")
    known = all_labels if all_labels is not None else labels
    if known is None:
        return
    if objective.hard_weight and (known == NO_LABEL).all():
        raise ConfigError("hard_weight is above 0 but every label is -100; give labels, or hard_weight=0.")
    outside = (known != NO_LABEL) & ((known < 0) | (known >= classes))
    if outside.any():
        at = int(outside.reshape(len(known), -1).any(-1).int().argmax())
        wrong = int(known[outside][0])
        raise DataError(
            f"Label {wrong} of example {at} is outside the {classes} classes of the student, 0 to {classes - 1} (or "
            "-100 for none); correct the labels, or give the student more outputs."
        )


def _refuse_probabilities(logits: Tensor, who: str, mend: str) -> None:
    x = logits.float()
    if x.shape[-1] > 1 and (x >= 0).all() and ((x.sum(-1) - 1).abs() < 1e-3).all():
        raise TargetError(
            f"The {who} returns probabilities (every row is positive and sums to 1), but logits are needed: {mend}."
        )
