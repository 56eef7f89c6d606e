"""Preflight: refuses sets, labels, teachers and students that do not belong together, and returns the plan of a run.

One batch is passed through teacher and student, each on the device where it is at that time, without gradient and
without changing the random state.

What this file does not know: how training continues after that.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sized
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate.utils import send_to_device
from torch import Tensor, nn

from limbeck.errors import ConfigError, DataError, ModelError, ShapeError, TargetError
from limbeck.losses.divergences import forward_kl
from limbeck.losses.numbers import has_label
from limbeck.losses.objective import Objective
from limbeck.losses.targets import SoftTargets, given_logits, is_complete
from limbeck.losses.targets.gaussian import require_gaussian
from limbeck.networks.asking import Batch, label_names_of, logits_of, networks_of, teacher_view
from limbeck.networks.causal import require_causal
from limbeck.networks.checks import check_label_names, check_labels, check_rows, refuse_probabilities
from limbeck.networks.decoding import is_encoder_decoder, require_pairs
from limbeck.networks.halves import base_of, is_language_model, keeps_apart, logits_are_heads
from limbeck.networks.modes import evaluating
from limbeck.networks.outputs import CLASSES, CLASSIFICATION, Task, refuse_sigmoid
from limbeck.networks.positions import (
    Positions,
    next_token_positions,
    packed_examples,
    positions_of,
    require_same_completions,
)
from limbeck.networks.router import checked_router_weight
from limbeck.networks.tasks import require_several_classes, require_supported_task, require_supported_tasks
from limbeck.networks.texts import check_texts
from limbeck.teachers import BaseTeacher
from limbeck.training.class_order import check_numbered_names, warn_of_another_order

log = logging.getLogger("limbeck")

MOST_ORDERED = 1000
"""Classes up to which their order is compared with that of the labels."""
HALF = {torch.float16, torch.bfloat16}


@dataclass(frozen=True)
class Plan:
    """The properties of a run that follow from its student and a first batch.

    next_tokens: whether the student is a language model, whose positions are the tokens that predict a next one.
    classes: the number of classes that both output layers are cut to; None where they are not cut.
    position_axes: 1 where an example is a position, 2 where every token is one.
    in_halves: whether a language model is read as last states and output layer, without the logits of a whole batch.
    router_weight: the weight of the student's auxiliary loss of its routers; 0 where that is not added.
    task: what the outputs of other models mean.
    checked: whether position_axes and in_halves were found with a batch; otherwise they are the defaults.
    """

    next_tokens: bool
    classes: int | None = None
    position_axes: int = 1
    in_halves: bool = False
    checked: bool = False
    router_weight: float = 0.0
    task: Task = CLASSES


def preflight(
    student: nn.Module,
    teacher: BaseTeacher | None,
    objective: Objective,
    sets: Mapping[str, Sized],
    first_batch: Callable[[str], Batch],
    plan: Plan,
) -> Plan:
    """The checked plan; a LimbeckError where student, teacher, objective and sets do not fit together.

    student: in any mode, on any device.
    teacher: None where the objective does not use one.
    objective: the objective to be trained on.
    sets: "transfer" and the evaluation sets, as `named_sets` returns them.
    first_batch: returns the first batch of the set with that name.
    plan: the plan before any batch is read.
    """
    check_student(student, teacher, sets)
    if not plan.next_tokens:
        batch = first_batch("transfer")
        for examples in sets.values():
            check_texts(student, teacher, examples)
        logits = check_batch(student, teacher, objective, batch, plan.task)
        check_classes(logits.shape[-1], objective, batch, sets, plan.task)
        return replace(plan, position_axes=logits.ndim - 1, checked=True)
    classes = plan.classes or len(base_of(student).get_output_embeddings().weight)
    for examples in sets.values():
        stored: Any = examples
        rows = stored.dataset if hasattr(stored, "manifest") else examples
        check_rows(student, teacher, rows, classes)
    batch = first_batch("transfer")
    in_halves = check_language_batch(student, teacher, objective, batch, plan.classes)
    router = checked_router_weight(student, lambda: on_device_of(student, batch))
    for name, examples in sets.items():
        if name != "transfer" and "position_ids" in getattr(examples, "column_names", ()):
            check_packing(student, teacher, first_batch(name))
    return replace(plan, in_halves=in_halves, router_weight=router, checked=True)


def plan_of_evaluation(student: nn.Module, teacher: BaseTeacher | None, batch: Batch, plan: Plan) -> Plan:
    """The checked plan of a language model that is evaluated before training.

    batch: the first batch of the evaluation.
    """
    check_packing(student, teacher, batch)
    return replace(plan, in_halves=logits_are_heads(student, batch), checked=True)


def named_sets(transfer_set: object, evaluation: object) -> dict[str, Any]:
    """The sets of a run by the names that messages use: "transfer", "evaluation", or "'name' evaluation".

    transfer_set: the set that is trained on, or None. evaluation: a set, a dict of sets, or None.
    """
    if isinstance(evaluation, Mapping):
        evaluated = {f"{name!r} evaluation": examples for name, examples in evaluation.items()}
    else:
        evaluated = {"evaluation": evaluation}
    return {who: examples for who, examples in ({"transfer": transfer_set} | evaluated).items() if examples is not None}


def check_student(student: nn.Module, teacher: BaseTeacher | None, sets: Mapping[str, Sized]) -> None:
    """Raises an error unless the student can be trained, on at least one example, and the classes have the same names.

    sets: as `named_sets` returns them.
    """
    require_supported_task(student, "student")
    require_supported_tasks(networks_of(teacher) or [], "teacher")
    if len(sets["transfer"]) == 0:
        raise DataError("The transfer set is empty; training needs at least one example.")
    apart = None if teacher is None or teacher.shares_student else teacher  # a PEFT model without its adapter
    shared = {id(p) for model in networks_of(apart) or [] for p in model.parameters()} & {
        id(p) for p in student.parameters()
    }
    if shared:
        raise ModelError(
            "Teacher and student share parameters, and a teacher is frozen; pass copy.deepcopy(model) as one of them."
        )
    if not any(p.requires_grad for p in student.parameters()):
        raise ModelError(
            "No parameter of the student requires a gradient, so nothing could be learned; call "
            "student.requires_grad_() on what is to be trained. (A model that once was a teacher has been frozen.)"
        )
    half = sorted({str(p.dtype) for p in student.parameters() if p.requires_grad and p.dtype in HALF})
    if half:
        log.warning(
            "The student's weights are %s, where steps of less than about a 256th of a weight are lost; train "
            "student.float(), with bf16=True to multiply in bfloat16 all the same.",
            " and ".join(half),
        )
    known = {
        "the teacher": None if teacher is None else teacher.label_names,
        "the student": label_names_of(student),
        **{f"the {who} set": getattr(examples, "label_names", None) for who, examples in sets.items()},
    }
    named = {who: names for who, names in known.items() if names}
    check_label_names(named)
    check_numbered_names(
        named,
        numbered=[
            f"the {who} set"
            for who, examples in sets.items()
            if getattr(examples, "labels", None) is not None and not getattr(examples, "label_names", None)
        ],
    )


def check_classes(
    classes: int, objective: Objective, batch: Batch, sets: Mapping[str, Sized], task: Task = CLASSES
) -> None:
    """Raises an error unless the sets have one class per output of the student, and labels where a term needs them.

    classes: the student's outputs.
    task: several labels have two classes each, and the names of a set are theirs; numbers have no classes.
    objective: the objective to be trained on.
    batch: the first one of the transfer set.
    sets: as `named_sets` returns them.
    """
    for who, examples in sets.items():
        names, labels = getattr(examples, "label_names", None), getattr(examples, "labels", None)
        if names and task.outputs is None and len(names) != classes:
            raise ShapeError(
                f"The {who} set has {len(names)} classes and the student {classes} outputs; it needs one output per "
                "class. Change the student's last layer."
            )
        if isinstance(labels, Tensor) and not task.is_regression:
            check_labels(labels, classes, f" of the {who} set")
    labels = getattr(sets["transfer"], "labels", None)
    if objective.hard_weight and isinstance(labels, Tensor) and not has_label(labels).any():
        raise ConfigError("hard_weight is above 0 but no example has a label; pass labels, or hard_weight=0.")
    if "labels" in batch and not task.is_regression:
        check_labels(batch["labels"], classes)  # for sets without an attribute `labels`
    elif objective.hard_weight and "labels" not in batch:
        raise ConfigError(
            "hard_weight is above 0 but the batches have no labels; pass labels, or hard_weight=0 and a teacher."
        )


def check_batch(
    student: nn.Module, teacher: BaseTeacher | None, objective: Objective, batch: Batch, task: Task = CLASSES
) -> Tensor:
    """The student's logits for a batch; an error unless they are finite and the teacher's targets fit them.

    task: of student and teacher.
    """
    with _unchanged(student):
        logits = logits_of(student, on_device_of(student, batch))
        targets = teacher(on_device_of(teacher, batch)) if teacher is not None and objective.soft_weight else None
    if logits.ndim < 2:
        raise ShapeError(f"The student must return logits [n, C], but returned the shape {list(logits.shape)}.")
    if not task.is_regression:
        require_several_classes(logits.shape[-1], "student")
    if not logits.isfinite().all():
        raise ModelError("The student's logits are not finite for the first batch; look at its weights or its inputs.")
    if not task.is_regression:
        refuse_probabilities(logits, "student", "remove its softmax")
        refuse_sigmoid(logits, "student")
    elif "labels" in batch:
        require_labels_of(task, batch["labels"])
    if (weights := batch.get("weights")) is not None and not (weights >= 0).all():
        raise DataError("The weights of positions must be 0 or more, but the first batch has others; correct them.")
    if targets is not None:
        _check_targets(objective, logits.shape[-1], positions_of(batch, logits.ndim - 1, task), targets, batch)
        if (
            task.kind == CLASSIFICATION
            and "labels" in batch
            and is_complete(targets)
            and logits.shape[-1] <= MOST_ORDERED
        ):
            scores = targets.all_log_probs(1.0)
            labels = batch["labels"].reshape(-1).to(scores.device)
            known = (labels >= 0) & (labels < scores.shape[-1])  # labels out of range are refused by check_classes
            warn_of_another_order(scores[known], labels[known])
    return logits


def require_labels_of(task: Task, labels: Tensor) -> None:
    """ShapeError or DataError unless the labels of a batch are the numbers of a regression, `[n]` or `[n, D]`."""
    if not labels.is_floating_point():
        raise DataError(f"The labels of a regression are numbers in floating point, but are {labels.dtype}.")
    width = labels.numel() // max(1, len(labels))
    if width != task.outputs:
        raise ShapeError(f"The student gives {task.outputs} numbers for an example, but the labels have {width}.")


def check_language_batch(
    student: nn.Module, teacher: BaseTeacher | None, objective: Objective, batch: Batch, classes: int | None = None
) -> bool:
    """Whether a language model can be read as last states and output layer; an error unless the targets fit it.

    classes: the number of classes that student and teacher are cut to; None where they are not cut.
    """
    if is_encoder_decoder(student):
        _check_encoded(type(student).__name__, batch)
    positions = next_token_positions(batch)
    if not len(positions.row_ids(batch)):
        raise DataError("No token of the transfer set is to be predicted: every label is -100, or stands first.")
    classes = classes or len(base_of(student).get_output_embeddings().weight)
    check_labels(batch["labels"], classes)
    if "teacher_labels" in batch:
        require_same_completions(batch, teacher_view(batch))
    check_packing(student, teacher if objective.soft_weight else None, batch)
    require_causal(student, batch["labels"], "student")
    if objective.soft_weight:
        require_causal(teacher, teacher_view(batch)["labels"], "teacher")
    with _unchanged(student):
        in_halves = logits_are_heads(student, on_device_of(student, batch))
        targets = None
        if teacher is not None and objective.soft_weight:
            there = on_device_of(teacher, batch)
            targets = teacher(there, next_token_positions(there))
    if not in_halves:
        log.warning(
            "The logits of the student, %s, are not a product of its last states and its output layer, so those of a "
            "whole batch will be in memory.",
            type(student).__name__,
        )
    if targets is not None:
        _check_targets(objective, classes, positions, targets, batch)
    return in_halves


def _check_encoded(name: str, batch: Batch) -> None:
    """DataError where an encoder-decoder has nothing to decode, or its encoder reads what its decoder must predict."""
    if "decoder_input_ids" not in batch:
        raise DataError(
            f"{name} is an encoder-decoder, and its batches need labels, or decoder_input_ids beside them; these have "
            f"{sorted(batch)}. Make rows by limbeck.tokenise(records, tokenizer, encoder_decoder=True)."
        )
    require_pairs(name, batch)


def check_packing(student: nn.Module, teacher: BaseTeacher | None, batch: Batch) -> None:
    """ConfigError unless student and teacher read the examples of packed rows apart; other batches always pass."""
    _require_apart("student", student, batch)
    for network in networks_of(teacher) or []:
        if is_language_model(network):
            _require_apart("teacher", network, teacher_view(batch))


def _require_apart(who: str, model: nn.Module, batch: Batch) -> None:
    """ConfigError if a model lets the examples of packed rows attend to each other."""
    examples = packed_examples(batch)
    if not examples:
        return
    why = "it reads them as one text"
    try:
        with _unchanged(model):
            if keeps_apart(model, on_device_of(model, batch), examples):
                return
    except (TypeError, ValueError) as error:  # a forward without position_ids
        why = f"reading them fails with {str(error)!r}"
    inner = base_of(model)
    raise ConfigError(
        f"The rows are packed, and the {who} must read their examples apart, but {type(inner).__name__} with "
        f"attn_implementation={getattr(inner.config, '_attn_implementation', None)!r} does not: {why}. Load it with "
        'attn_implementation="sdpa" or "eager" (flash attention reads packed rows in batches of one row only), or '
        "train without packing (limbeck.pack, --packing), which recurrent models and models with custom masks need."
    )


def on_device_of(model: object, batch: Batch) -> Batch:
    """The batch on the device of a model, or of a teacher's networks; unchanged where there are no weights.

    Trainer leaves the student on the CPU until training starts under FSDP, DeepSpeed and bf16_full_eval.
    """
    parameters = (parameter for network in networks_of(model) or [] for parameter in network.parameters())
    devices = (parameter.device for parameter in parameters if not parameter.is_meta)  # meta: offloaded by hooks
    device = next(devices, None)
    return batch if device is None else send_to_device(batch, device)


@contextmanager
def _unchanged(model: nn.Module) -> Iterator[None]:
    """Runs a model in eval mode and without gradient; its modes and the random state are restored."""
    with torch.random.fork_rng(), evaluating([model]):
        yield


def _check_targets(objective: Objective, classes: int, compared: Positions, targets: SoftTargets, batch: Batch) -> None:
    positions = torch.Size(compared.shape).numel()
    if objective.of_values:
        require_gaussian(targets)
    elif compared.rows is not None and targets.num_classes != classes:
        raise ShapeError(
            f"The teacher's output layer has {targets.num_classes} classes and the student's {classes}. If both have "
            "the same tokenizer and a padded output layer, give it (--tokenizer; in Python processing_class and "
            "teacher_tokenizer): both layers are cut to the tokens that exist."
        )
    elif targets.num_classes != classes:
        raise ShapeError(
            f"The teacher has {targets.num_classes} classes and the student {classes}; both need one output per class "
            "of the same set of classes. Change the student's last layer, or give another teacher."
        )
    if len(targets) != positions:
        raise ShapeError(
            f"The teacher returned {len(targets)} rows, but the batch has {positions} positions for the student; the "
            "teacher must return one row per position of the batch."
        )
    for logits in [] if objective.of_values else given_logits(targets):
        refuse_probabilities(
            logits, "teacher", "return probs.log(), or DenseTargets.from_probs(probs), or remove its softmax"
        )
        refuse_sigmoid(logits, "teacher")
    bad = compared.compared(targets.bad_rows(objective.divergence).to(compared.device))
    if bad.any():
        row = int(compared.row_ids(batch).cpu()[bad.cpu()][0])
        no_distribution = compared.compared(targets.bad_rows(forward_kl).to(compared.device))
        if no_distribution.any():  # forward_kl is finite wherever there is a distribution at all
            raise TargetError(
                f"The teacher gave nan, infinity or an impossible distribution for the example with row_id {row} "
                f"({int(bad.sum())} of {len(bad)} positions of the first batch); look at that example, or at the "
                "teacher's dtype."
            )
        raise TargetError(
            f"The teacher gives some class a probability of zero for the example with row_id {row}, where "
            f"{objective.divergence.name} is infinite; use skewed_reverse_kl, forward_kl or jensen_shannon."
        )
    if not objective.of_values:
        targets.compared_by(objective.divergence, objective.temperature)
