"""What the outputs of a network mean: classes, labels that may all be true, classes of pixels, numbers.

    student = with_task(network, Task("regression", outputs=2, variance=True))
    logits_of(student, batch)           # [n, 2, 2]: mean and log-variance of two numbers, in the units of the labels

A network returns what its kind usually does; `as_positions` lays that out as positions, `[*positions, C]`, so that one
objective serves all tasks:

    classification     [n, C] and, of tokens, [n, L, C] stay; one logit [n] or [n, 1] -> [n, 2], the logits (0, z)
    multi_label        [n, L] -> [n, L, 2], (0, z) for each label: its softmax is (1 - sigmoid(z), sigmoid(z))
    segmentation       [n, C, h, w] -> [n, H, W, C], resized to the labels or to the image; one channel as one logit
    regression         [n], [n, D], or [n, 2 D] with variance (means, then log-variances) -> [n, D, 1 or 2]

What this file does not know: losses, data, how a network is trained.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.errors import ConfigError, DataError, ModelError, ShapeError, TargetError
from limbeck.networks.pixels import PIXELS, innermost

CLASSIFICATION, MULTI_LABEL, SEGMENTATION, REGRESSION = "classification", "multi_label", "segmentation", "regression"
KINDS = (CLASSIFICATION, MULTI_LABEL, SEGMENTATION, REGRESSION)

FILE = "task.json"
ENOUGH_OUTPUTS = 16
"""The fewest outputs of which "all lie between 0 and 1" shows that they are probabilities."""

N = TypeVar("N", bound=nn.Module)


@dataclass(frozen=True)
class Task:
    """What the outputs of a network mean.

    kind: "classification", "multi_label", "segmentation" or "regression".
    outputs: how many labels or numbers an example has, for multi_label and regression; None for the others.
    variance: of regression: whether the network gives a log-variance for each number too.
    center, scale: of regression, one per number: a network whose outputs are in standard units gives `center + scale *
        output`; empty where its outputs are in the units of the labels.
    """

    kind: str = CLASSIFICATION
    outputs: int | None = None
    variance: bool = False
    center: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"A task is one of {', '.join(KINDS)}, not {self.kind!r}.")
        counted = self.kind in (MULTI_LABEL, REGRESSION)
        if counted != (self.outputs is not None) or (self.outputs is not None and self.outputs < 1):
            number = "the number of labels or numbers of an example, 1 or more" if counted else "None"
            raise ConfigError(f"outputs of the task {self.kind} must be {number}, but is {self.outputs}.")
        if self.kind != REGRESSION and (self.variance or self.center or self.scale):
            raise ConfigError(f"variance, center and scale belong to regression, not to {self.kind}.")
        for name in ("center", "scale"):
            values = tuple(float(value) for value in getattr(self, name))
            object.__setattr__(self, name, values)
            if values and len(values) != self.outputs:
                raise ConfigError(f"{name} must have one value per number, {self.outputs}, but has {len(values)}.")
        if len(self.center) != len(self.scale) or not all(0 < value < float("inf") for value in self.scale):
            raise ConfigError("center and scale go together, and each scale must be a finite number above 0.")

    @property
    def is_regression(self) -> bool:
        """Whether outputs are numbers, and not logits of classes."""
        return self.kind == REGRESSION


CLASSES = Task()


def with_task(network: N, task: Task) -> N:
    """The network, whose outputs from now on mean this; its folder says so too."""
    vars(innermost(network))["output_task"] = task
    return network


def task_of(model: object) -> Task | None:
    """What the outputs of a network mean, by `with_task`, its folder, or transformers' configuration; None if unknown.

    Where none of them says, what `settle_task` noted last. Of a teacher that is no network: its own `task`.
    """
    settled = getattr(innermost(model), "settled_task", None)
    return _own_task(model) or (settled if isinstance(settled, Task) else None)


def settle_task(models: Iterable[tuple[str, object]], examples: object) -> Task:
    """The one task of models and data; it is noted on the models that do not say what their outputs mean.

    models: pairs of a role, such as "student", and a network, or a teacher that is none.
    examples: the data, whose labels may tell.
    ConfigError or ShapeError where two of them have different tasks.
    """
    given = getattr(examples, "task", None)
    found: dict[str, Task] = {"data": given} if isinstance(given, Task) else {}
    silent: list[Any] = []
    for role, model in models:
        known = _own_task(model)
        if known is None:
            silent.append(innermost(model))
            continue
        _require_same(found, role, known)
        found.setdefault(role, known)
    task = next(iter(found.values()), None)
    for model in silent:
        if isinstance(model, nn.Module) or hasattr(model, "settled_task"):
            model.settled_task = None if task is None else Task(task.kind, task.outputs)
    return CLASSES if task is None else task


def as_positions(outputs: Tensor, task: Task | None, batch: Mapping[str, Any], name: str) -> Tensor:
    """The outputs of a network by position, `[*positions, C]`; see the head of this file.

    task: None where nothing says what they mean: classes then. batch: its labels or images give the size of segments.
    name: the network's class, for messages.
    """
    if task is None or task.kind == CLASSIFICATION:
        if outputs.ndim == 0:
            raise ShapeError(f"{name} must return a row of outputs for each example, but returned one number.")
        one = outputs.ndim == 1 or outputs.shape[-1] == 1
        if one and task is not None:
            return _of_one_logit(outputs if outputs.ndim == 1 else outputs.squeeze(-1))
        if one:
            raise ShapeError(
                f"{name} has one output per example, which is the logit of the second of two classes, or a number: say "
                'which by labels of two classes, or by task="classification" or "regression" (--task).'
            )
        return outputs
    if task.kind == MULTI_LABEL:
        if outputs.ndim != 2 or outputs.shape[1] != task.outputs:
            raise ShapeError(
                f"{name} must give a logit for each of {task.outputs} labels, [n, {task.outputs}], but gave "
                f"{list(outputs.shape)}."
            )
        return _of_one_logit(outputs)
    if task.kind == SEGMENTATION:
        return _of_pixels(outputs, batch, name)
    return _of_numbers(outputs, task, name)


def in_label_units(outputs: Tensor, task: Task | None, name: str) -> Tensor:
    """The outputs, numbers `[n, D]` or `[n, 2 D]` in the units of the labels.

    Those of other tasks are returned as they are. name: the network's class, for messages.
    """
    if task is None or not task.scale:
        return outputs
    return _of_numbers(outputs, task, name).movedim(-1, 1).flatten(1)


def positions_shape(task: Task, batch: Mapping[str, Any], examples: int) -> tuple[int, ...] | None:
    """The positions of a batch by its task, `(n, L)`, `(n, H, W)` or `(n, D)`; None for classes."""
    if task.kind == SEGMENTATION:
        return (examples, *_pixel_size(batch))
    return None if task.outputs is None else (examples, task.outputs)


def refuse_sigmoid(logits: Tensor, who: str) -> None:
    """TargetError where what should be single logits are all between 0 and 1, as after a sigmoid.

    logits: by position, `[..., 2]`, (0, z) where they come from single logits. who: their model's role.
    """
    if logits.shape[-1] != 2 or logits.numel() < 2 * ENOUGH_OUTPUTS or bool((logits[..., 0] != 0).any()):
        return
    single = logits[..., 1].float()
    if bool((single >= 0).all() and (single <= 1).all() and single.std() > 0):
        raise TargetError(
            f"The {who} returns probabilities (every output is between 0 and 1), but logits are needed: remove its "
            "sigmoid."
        )


def write_task(model: object, folder: Path) -> None:
    """Writes what the outputs of a network mean into its folder; nothing where they are classes, more than one."""
    task = task_of(model)
    if task is not None and (task != CLASSES or _own_task(model) is not None):
        (folder / FILE).write_text(json.dumps(asdict(task), indent=1) + "\n", encoding="utf-8")


def read_task(folder: Path) -> Task | None:
    """What the folder of a network says of its outputs; None where it says nothing, ModelError where it is damaged."""
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return Task(**values)
    except (ValueError, TypeError, AttributeError, RecursionError, OSError) as error:
        raise ModelError(f"{path} does not say what the outputs of a network mean: {error}.") from error


def _own_task(model: object) -> Task | None:
    inner = innermost(model)
    noted = getattr(inner, "output_task" if isinstance(inner, nn.Module) else "task", None)
    return noted if isinstance(noted, Task) else _of_transformers(inner)


def _of_transformers(model: object) -> Task | None:
    """The task that transformers' class or configuration names; None where it leaves that to the labels."""
    config = getattr(model, "config", None)
    if config is None:
        return None
    if type(model).__name__.endswith("ForSemanticSegmentation"):
        return Task(SEGMENTATION)
    kind = {"regression": REGRESSION, "multi_label_classification": MULTI_LABEL}.get(
        str(getattr(config, "problem_type", None))
    )
    if kind is not None:
        return Task(kind, outputs=int(config.num_labels))
    return CLASSES if getattr(config, "problem_type", None) == "single_label_classification" else None


def _require_same(found: Mapping[str, Task], role: str, known: Task) -> None:
    for other, task in found.items():
        if task.kind != known.kind:
            raise ConfigError(
                f"The {role} is for {known.kind}, and the {other} {'has labels of' if other == 'data' else 'is for'} "
                f"{task.kind}; both must have the same task (--task says what the labels are)."
            )
        if task.outputs != known.outputs:
            raise ShapeError(
                f"The {role} has {known.outputs} {'numbers' if known.is_regression else 'labels'} per example, and "
                f"the {other} {task.outputs}; both must have the same."
            )


def _of_one_logit(logits: Tensor) -> Tensor:
    """(0, z): two logits whose softmax is that of one logit's sigmoid, at any temperature."""
    return torch.stack([torch.zeros_like(logits), logits], -1)


def _of_pixels(outputs: Tensor, batch: Mapping[str, Any], name: str) -> Tensor:
    if outputs.ndim != 4:
        raise ShapeError(f"{name} must give a map of logits per class, [n, C, h, w], but gave {list(outputs.shape)}.")
    height, width = _pixel_size(batch)
    if outputs.shape[-2:] != (height, width):  # as transformers does for its loss
        outputs = F.interpolate(outputs.float(), (height, width), mode="bilinear", align_corners=False)
    if outputs.shape[1] == 1:
        return _of_one_logit(outputs[:, 0])
    return outputs.movedim(1, -1)


def _pixel_size(batch: Mapping[str, Any]) -> tuple[int, int]:
    """The height and width of the labels `[n, H, W]`, or else of the images of a batch."""
    labels = batch.get("labels")
    if isinstance(labels, Tensor) and labels.ndim == 3:
        return int(labels.shape[1]), int(labels.shape[2])
    images = [x for name, x in batch.items() if isinstance(x, Tensor) and x.ndim in (3, 4) and name != "labels"]
    pixels = batch.get(PIXELS, images[0] if len(images) == 1 else None)
    if pixels is None:
        raise DataError("Segmentation needs one column of images, [n, C, H, W], or labels [n, H, W].")
    return int(pixels.shape[-2]), int(pixels.shape[-1])


def _of_numbers(outputs: Tensor, task: Task, name: str) -> Tensor:
    assert task.outputs is not None
    outputs = outputs[:, None] if outputs.ndim == 1 else outputs
    width = task.outputs * (2 if task.variance else 1)
    if outputs.ndim != 2 or outputs.shape[1] != width:
        what = "a mean and a log-variance for each of" if task.variance else "one output for each of"
        hint = ""
        if outputs.ndim == 2 and outputs.shape[1] == 2 * task.outputs:
            hint = " If these are means and log-variances, say so: --variance, or limbeck.Task(..., variance=True)."
        raise ShapeError(
            f"{name} must give {what} {task.outputs} numbers, [n, {width}], but gave {list(outputs.shape)}.{hint}"
        )
    values = outputs.reshape(len(outputs), -1, task.outputs).movedim(1, -1)  # [n, D, 1 or 2]
    if not task.scale:
        return values
    center, scale = (torch.tensor(x, device=values.device, dtype=torch.float32) for x in (task.center, task.scale))
    natural = [center + scale * values[..., 0].float()]
    if task.variance:
        natural.append(values[..., 1].float() + 2 * scale.log())
    return torch.stack(natural, -1)
