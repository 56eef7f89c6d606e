"""A trained classifier as an ONNX file, checked against the network that it was made of.

    report = limbeck.export_onnx(student, "runs/distill/student.onnx", batch, int8=True)
    report["onnx"]["largest_difference"]               # of its logits from torch's

What this file does not know: runs, transfer sets, words of a command line.
"""

import copy
import inspect
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.errors import ConfigError, ModelError, ShapeError
from limbeck.files import publish
from limbeck.losses.numbers import NO_LABEL
from limbeck.networks.asking import Batch, inputs_of, label_names_of, outputs_of
from limbeck.networks.cost import latency_ms, size_of
from limbeck.networks.halves import is_language_model
from limbeck.networks.outputs import CLASSES, as_positions, in_label_units, task_of
from limbeck.networks.pixels import innermost, with_processed_pixels
from limbeck.networks.table import table_encoder_of
from limbeck.results import EXPORT, Json, header
from limbeck.teachers import fingerprint_of

TOLERANCE = 1e-4
"""How far a logit of the file may be from torch's, as a share of the largest logit, or of 1 if that is less."""

TIMED = (1, 32)
"""Batch sizes that are timed."""
SECONDS = 0.5

INT8 = ".int8.onnx"
"""What the name of the file in 8 bits ends with."""

EXAMPLES = 16
"""How many examples are drawn where none are given."""

Feed = dict[str, Tensor]
"""The columns that the network reads, by name."""


def export_onnx(
    model: nn.Module, path: str | Path, batch: Batch | None = None, *, int8: bool = False, tolerance: float = TOLERANCE
) -> Json:
    """Writes a classifier as ONNX, once the file is shown to predict what the network does (docs/export.md).

    model: a network as DistillTrainer takes it; a copy of it is exported, in eval mode, in float32, on the CPU.
    path: the file. int8: also write `NAME.int8.onnx` beside it, the weights of linear layers in 8 bits.
    batch: examples as a transfer set gathers them, at least two; columns that the network does not read are left out.
        Without any, examples are drawn at random where the network's settings say what it reads. `labels`, where there
        are any, serve to count how many are right.
    tolerance: the largest difference of a logit that is let pass, as a share of the largest logit or of 1.

    The batch axis is free, and so is the length of texts: the file is checked at other sizes than it was traced with.
    Returns sizes, milliseconds per example, and differences, JSON-ready. ModelError where the network cannot be
    exported or the file's logits are not torch's, and then nothing is written; ConfigError without the extra `export`.
    """
    runtime = _runtime()
    if is_language_model(model):
        raise ModelError(
            f"{type(model).__name__} writes text, and its ONNX file needs a cache of what it has read as inputs; save "
            "it and use Optimum: optimum-cli export onnx --model FOLDER OUTPUT (pip install optimum-onnx)."
        )
    path = Path(path)
    own: Any = copy.deepcopy(model).cpu().float().eval()
    feed = _read_columns(own, example_batch(own) if batch is None else batch)
    if batch is not None:
        feed = with_processed_pixels(own, feed)
    vars(innermost(own))["image_processor"] = None  # the file reads pixels that were processed
    count = len(next(iter(feed.values())))
    names = label_names_of(model)
    labels = None if batch is None or "labels" not in batch else batch["labels"].cpu()
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as made, torch.no_grad():
        new = Path(made) / path.name
        outputs, by_position = partial(_outputs, own), partial(_positions, own)
        wanted = outputs(feed)
        opset = _write(own, feed, new)
        ask = _session(runtime, new)
        for part in (feed, *_other_sizes(feed)):
            _check(outputs(part), ask(part), tolerance, partial(by_position, part))
        report: Json = {
            **header(EXPORT),
            "student": fingerprint_of(model),
            "inputs": {
                name: {"type": str(x.dtype).removeprefix("torch."), "shape": _shape(x)} for name, x in feed.items()
            },
            "features": _features(own),
            "classes": None if (positions := by_position(feed, wanted)) is None else positions.shape[-1],
            "task": (task_of(own) or CLASSES).kind,
            "label_names": None if names is None else list(names),
            "opset": opset,
            "examples": count,
            "drawn": batch is None,
            "tolerance": tolerance,
            "threads": torch.get_num_threads(),
        }
        report["torch"] = {"bytes": size_of(own)["bytes"]} | _judged(outputs, by_position, feed, wanted, labels)
        report["onnx"] = {"file": path.name, "bytes": _size(new)} | _judged(ask, by_position, feed, wanted, labels)
        if int8:
            small = new.with_suffix(INT8)
            _quantise(new, small)
            ask = _session(runtime, small)
            report["int8"] = {"file": small.name, "bytes": _size(small)} | _judged(
                ask, by_position, feed, wanted, labels
            )
        for old in files_of(path):  # none of another student may stay
            old.unlink(missing_ok=True)
        for file in Path(made).iterdir():
            publish(file, path.parent / file.name)
    return report


def _features(model: nn.Module) -> list[Json] | None:
    """The columns of a table in the file's inputs, in order, with the numbers of their categories; None for others."""
    encoder = table_encoder_of(model)
    return None if encoder is None else [asdict(feature) for feature in encoder.features]


def files_of(path: Path) -> list[Path]:
    """Every file that an export to this path may write."""
    return [*_with_weights(path), *_with_weights(path.with_suffix(INT8))]


def _with_weights(path: Path) -> list[Path]:
    """An ONNX file, and the weights that are kept beside it where they are many."""
    return [path, path.with_name(f"{path.name}.data")]


def example_batch(model: nn.Module, examples: int = EXAMPLES) -> dict[str, Tensor]:
    """Random inputs of a network whose settings say what it reads: an mlp, a transformers model of text or images."""
    drawn = torch.Generator().manual_seed(0)
    settings: Any = getattr(model, "settings", None)
    config: Any = getattr(model, "config", None)
    encoder = table_encoder_of(model)
    if encoder is not None:
        return {"inputs": encoder.example(examples)}
    if isinstance(settings, dict) and "sizes" in settings:
        return {"inputs": torch.rand(examples, settings["sizes"][0], generator=drawn)}
    main = getattr(model, "main_input_name", None)
    if main == "input_ids" and getattr(config, "vocab_size", None):
        length = min(16, getattr(config, "max_position_embeddings", None) or 16)
        ids = torch.randint(config.vocab_size, (examples, length), generator=drawn)
        lengths = torch.randint(1, length + 1, (examples, 1), generator=drawn)
        return {"input_ids": ids, "attention_mask": (torch.arange(length) < lengths).long()}
    if main == "pixel_values" and getattr(config, "image_size", None):
        height, width = config.image_size if isinstance(config.image_size, list | tuple) else [config.image_size] * 2
        return {
            "pixel_values": torch.rand(examples, getattr(config, "num_channels", 3), height, width, generator=drawn)
        }
    raise ConfigError(
        f"The inputs of {type(model).__name__} are not known; pass examples, such as a batch of a transfer set (on the "
        "command line, --data)."
    )


def _read_columns(model: nn.Module, batch: Batch) -> Feed:
    """The columns that the network reads, on the CPU."""
    inputs = {name: values.cpu() for name, values in inputs_of(batch).items() if isinstance(values, Tensor)}
    parameters = inspect.signature(model.forward).parameters
    takes_all = any(p.kind == p.VAR_KEYWORD for p in parameters.values()) and not hasattr(model, "save_pretrained")
    named = {name: values for name, values in inputs.items() if name in parameters}
    feed = inputs if takes_all or not named else named
    if not feed or len(next(iter(feed.values()))) < 2:
        raise ShapeError("An export needs a batch of at least two examples, to see that their number is free.")
    return feed


class _ByPlace(nn.Module):
    """A network that takes its columns by their place, as an exporter gives them, and returns its outputs."""

    def __init__(self, model: nn.Module, names: tuple[str, ...]):
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *columns: Tensor) -> Tensor:
        """The outputs for these columns."""
        return _outputs(self.model, dict(zip(self.names, columns, strict=True)))


def _outputs(model: nn.Module, feed: Feed) -> Tensor:
    """What the file returns: the network's outputs; numbers in the units of the labels."""
    return in_label_units(outputs_of(model, feed), task_of(model), type(model).__name__)


def _positions(model: nn.Module, feed: Feed, outputs: Tensor) -> Tensor | None:
    """The logits by position of what the file returned, `[*positions, C]`; None where it returned numbers."""
    task = task_of(model)
    if task is not None and task.is_regression:
        return None
    return as_positions(outputs, task, feed, type(model).__name__)


def _write(model: nn.Module, feed: Feed, path: Path) -> int:
    """Exports the network; returns the version of ONNX's operators that it uses."""
    free = tuple({axis: size for axis, size in enumerate(_shape(x)) if isinstance(size, str)} for x in feed.values())
    with _silent():
        try:
            program: Any = torch.onnx.export(
                _ByPlace(model, tuple(feed)).eval(),
                tuple(feed.values()),
                input_names=list(feed),
                output_names=["logits"],
                dynamic_shapes=(free,),
                dynamo=True,
                verbose=False,
            )
        except Exception as error:  # whatever the network does that cannot be traced
            cause = error.__cause__ or error
            reason = (str(cause).strip() or type(cause).__name__).splitlines()[0]
            raise ModelError(f"torch.onnx.export cannot export this {type(model).__name__}: {reason}") from error
        from onnx_ir.passes.common import ClearMetadataAndDocStringPass

        ClearMetadataAndDocStringPass()(program.model)  # which line of which file on this machine made each node
        program.save(str(path))
    return int(program.model.graph.opset_imports[""])


def _shape(values: Tensor) -> list[int | str]:
    """The sizes of a column's axes, by name where they are free: the batch, and the length of texts."""
    return ["batch", *(["length"] if _is_text(values) else []), *values.shape[1 + _is_text(values) :]]


def _is_text(values: Tensor) -> bool:
    return values.ndim == 2 and not values.is_floating_point()


def _other_sizes(feed: Feed) -> list[Feed]:
    """The same examples one alone, all twice, and texts of half the length."""
    parts = [{name: x[:1] for name, x in feed.items()}, {name: torch.cat([x, x]) for name, x in feed.items()}]
    lengths = {x.shape[1] for x in feed.values() if _is_text(x)}
    if lengths and (half := max(lengths) // 2):
        padded_left = "attention_mask" in feed and not bool(feed["attention_mask"][:, 0].all())
        kept = slice(-half, None) if padded_left else slice(half)
        parts.append({name: x[:, kept] if _is_text(x) else x for name, x in feed.items()})
    return parts


def _check(wanted: Tensor, logits: Tensor, tolerance: float, by_position: Callable[[Tensor], Tensor | None]) -> None:
    """ModelError where outputs are not those that are wanted, or another class comes out that was not level with it."""
    if wanted.shape != logits.shape:
        raise ModelError(f"The ONNX file gives logits {list(logits.shape)} where torch gives {list(wanted.shape)}.")
    allowed = tolerance * max(1.0, float(wanted.abs().max()))
    apart = _largest_difference(logits, wanted)
    if not apart <= allowed:  # nan too
        raise ModelError(
            f"The ONNX file's logits are {apart:.2g} from torch's, and {allowed:.2g} is let pass, so nothing was "
            "written. Does the network draw random numbers, or depend on the values of its inputs?"
        )
    ours, theirs = by_position(wanted), by_position(logits)
    if ours is None or theirs is None:
        return
    top = ours.amax(-1) - ours.gather(-1, theirs.argmax(-1, keepdim=True)).squeeze(-1)
    if bool((top > 2 * allowed).any()):
        raise ModelError("The ONNX file predicts other classes than torch does, so nothing was written.")


def _largest_difference(logits: Tensor, wanted: Tensor) -> float:
    return float((logits - wanted).abs().max())


def _judged(
    ask: Callable[[Feed], Tensor],
    by_position: Callable[[Feed, Tensor], Tensor | None],
    feed: Feed,
    wanted: Tensor,
    labels: Tensor | None,
) -> Json:
    """Returns the difference from torch on these examples, the accuracy (None for numbers), and the latency."""
    logits = ask(feed)
    ours, theirs = by_position(feed, wanted), by_position(feed, logits)
    predicted = torch.empty(0) if theirs is None else theirs.argmax(-1)
    accuracy = same = None
    if labels is not None and labels.shape == predicted.shape and bool((known := labels != NO_LABEL).any()):
        accuracy = float((predicted == labels)[known].double().mean())
    if ours is not None:
        same = float((predicted == ours.argmax(-1)).double().mean())
    timed = {n: {name: x[torch.arange(n) % len(x)] for name, x in feed.items()} for n in TIMED}
    return {
        "largest_difference": _largest_difference(logits, wanted),
        "same_prediction": same,
        "accuracy": accuracy,
        "latency_ms": {f"batch_{n}": latency_ms(ask, part, n, SECONDS) for n, part in timed.items()},
    }


def _session(runtime: Any, path: Path) -> Callable[[Feed], Tensor]:
    """The file as a function of columns, on as many threads as torch has here."""
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    read = [one.name for one in session.get_inputs()]

    def ask(feed: Feed) -> Tensor:
        return torch.from_numpy(session.run(["logits"], {name: feed[name].numpy() for name in read})[0])

    return ask


def _quantise(path: Path, small: Path) -> None:
    """Dynamic quantisation: weights of matrix products in 8 bits, one scale per tensor; the rest stays as it is."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(str(path))
    del model.graph.value_info[:]  # shapes that were inferred, wrong once the weights are turned round
    products = ["MatMul", "Gemm"]
    with _silent():
        # 7 of the 8 bits: processors without VNNI add products in 16 bits, which full 8 bits overflow
        quantize_dynamic(
            model, str(small), weight_type=QuantType.QInt8, op_types_to_quantize=products, reduce_range=True
        )


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in _with_weights(path) if file.exists())


def _runtime() -> Any:
    for needed in ("onnx", "onnxscript", "onnxruntime"):
        if find_spec(needed) is None:
            raise ConfigError(
                f"An export needs onnx, onnxscript and onnxruntime, and {needed} is not installed; "
                "pip install 'limbeck[export]'."
            )
    return import_module("onnxruntime")


@contextmanager
def _silent() -> Iterator[None]:
    """Without the exporter's notes on what it was not installed with."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "root", "")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
