"""A student in a folder: model.safetensors and config.json, and nothing that names code to import.

What this file does not know: checkpoints of a run in progress (those are the trainer's).
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from safetensors import SafetensorError
from safetensors.torch import load_model, save_file, save_model
from torch import Tensor, nn

from limbeck._version import __version__
from limbeck.errors import ModelError
from limbeck.files import whole_folder
from limbeck.networks.asking import label_names_of
from limbeck.networks.mlp import MLP
from limbeck.networks.processors import attach_processor, read_own_processor, write_processor

ARCHITECTURES: dict[str, type[nn.Module]] = {"mlp": MLP}

WEIGHTS = "model.safetensors"
CONFIG = "config.json"


@runtime_checkable
class SavesItself(Protocol):
    """A model that writes its own folder (transformers, PEFT)."""

    def save_pretrained(self, folder: str, **options: Any) -> Any:
        """Writes weights and configuration to the folder."""


def load(folder: str | Path, into: nn.Module | None = None) -> nn.Module:
    """A student (or any model) from its folder, in eval mode.

    folder: what `save`, a run of Limbeck or transformers' `save_pretrained` wrote; a name that is no folder is
        looked up on the Hugging Face hub.
    into: the module to load the weights into, for a network of the user's class; folders never name code to import.
    Raises ModelError where the folder is not a model, or not the one of `into`.
    """
    path = Path(folder)
    if not path.is_dir():
        text = str(folder)
        near = "/" in text and path.parent.is_dir()  # no owner/name of the hub, but a slip of the pen
        if path.exists() or near or text.startswith((".", "/", "~")) or text.count("/") > 1:
            raise ModelError(f"{folder} is not a folder; a model is a folder with {CONFIG} and {WEIGHTS}.")
        return _from_transformers(str(folder))
    config = _read_config(path)
    if into is None and "limbeck" not in config:
        return _from_transformers(str(path), config)
    described = config.get("limbeck", {})
    if into is None:
        architecture = ARCHITECTURES.get(described.get("architecture"))
        if architecture is None:
            raise ModelError(
                f"{path} holds the weights of {described.get('class', 'a network')}, which Limbeck cannot "
                f"build: build that network and pass it, limbeck.load({str(folder)!r}, into=network)."
            )
        try:
            into = architecture(**config["settings"])
        except (KeyError, TypeError) as error:
            raise ModelError(f"{path / CONFIG} does not describe the network that it names: {error}.") from error
    try:
        load_model(into, str(path / WEIGHTS))
    except (RuntimeError, SafetensorError, OSError) as error:
        raise ModelError(f"{path / WEIGHTS} does not fit into {type(into).__name__}: {error}") from error
    processor = read_own_processor(path)
    if processor is not None:
        vars(into)["image_processor"] = processor
    if described.get("label_names"):
        named: Any = into  # a module of any class may have label_names, which mypy cannot know
        named.label_names = tuple(described["label_names"])
    return into.eval()


def save(
    student: nn.Module, folder: str | Path, *, label_names: Sequence[str] | None = None, tokenizer: Any = None
) -> Path:
    """Writes a student to a folder that `load` opens again; an older one there is replaced as a whole.

    label_names: the names of the classes in order; by default those that the student carries.
    tokenizer: a text model's tokenizer, written beside it.
    Raises ModelError where the folder holds anything that is no model, which would be lost.
    """
    path = Path(folder).absolute()
    is_model = (path / CONFIG).is_file() and any(path.glob("*.safetensors"))
    if path.is_file() or (path.is_dir() and any(path.iterdir()) and not is_model):
        raise ModelError(
            f"{folder} is not the folder of a model, and saving there would replace it; give a new folder, "
            f"such as {Path(folder) / 'student'}."
        )
    with whole_folder(path) as new:
        write_model(student, new, label_names=label_names, tokenizer=tokenizer)
    return Path(folder)


def write_model(
    student: nn.Module,
    folder: Path,
    *,
    label_names: Sequence[str] | None = None,
    tokenizer: Any = None,
    weights: dict[str, Tensor] | None = None,
) -> None:
    """Writes the files of `save` into an existing folder.

    weights: the student's whole weights by name, where this process holds only shards of them.
    """
    names = list(label_names) if label_names else list(label_names_of(student) or [])
    if isinstance(student, SavesItself):
        config: Any = getattr(student, "config", None)
        if names and config is not None:
            config.id2label = dict(enumerate(names))
            config.label2id = {name: i for i, name in enumerate(names)}
        student.save_pretrained(str(folder), **({} if weights is None else {"state_dict": weights}))
    else:
        architecture = next((name for name, kind in ARCHITECTURES.items() if type(student) is kind), None)
        described = {
            "version": __version__,
            "architecture": architecture,
            "class": type(student).__qualname__,
            "label_names": names or None,
        }
        config = {"limbeck": described} | ({"settings": student.settings} if architecture else {})
        if weights is None:
            save_model(student, str(folder / WEIGHTS), metadata={"format": "pt"})
        else:
            once = {tensor.data_ptr() or name: name for name, tensor in reversed(weights.items())}  # tied ones too
            untied = {name: weights[name].contiguous() for name in once.values()}
            save_file(untied, str(folder / WEIGHTS), metadata={"format": "pt"})
        (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    write_processor(student, folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(str(folder))


def _read_config(path: Path) -> dict[str, Any]:
    found = sorted(p.name for p in path.iterdir())[:8]
    if not (path / CONFIG).is_file():
        inside = [p.parent.name for p in sorted(path.glob(f"*/{CONFIG}"))]
        hint = f" Did you mean {path / inside[0]}?" if inside else ""
        raise ModelError(f"{path} is not a model: it has no {CONFIG} (found: {', '.join(found) or 'nothing'}).{hint}")
    if not any(path.glob("*.safetensors")):
        raise ModelError(f"{path} is not a model: it has no .safetensors file (found: {', '.join(found)}).")
    try:
        config = json.loads((path / CONFIG).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"{path / CONFIG} is not JSON: {error}.") from error
    if not isinstance(config, dict):
        raise ModelError(f"{path / CONFIG} must hold an object with the model's settings.")
    return config


def _from_transformers(name: str, config: dict[str, Any] | None = None) -> nn.Module:
    import transformers

    try:
        if config is None:
            config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=False).to_dict()
        architectures = config.get("architectures") or []
        kind = getattr(transformers, architectures[0], None) if architectures else None
        if not (isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel)):
            raise ModelError(
                f"{name} names the architecture {architectures or 'none'}, which transformers "
                f"{transformers.__version__} does not have; make the network and pass it as `into`."
            )
        pretrained: Any = kind
        model, report = pretrained.from_pretrained(name, output_loading_info=True)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        if isinstance(error, ModelError):
            raise
        where = "" if Path(name).is_dir() else "is no folder here, and "
        raise ModelError(f"{name} {where}could not be loaded as a transformers model: {error}") from error
    if report.get("missing_keys"):
        missing = sorted(report["missing_keys"])
        raise ModelError(
            f"{name} lacks weights that {type(model).__name__} needs ({', '.join(missing[:3])}; {len(missing)} in "
            "all): they would be random. Give a folder of the fine-tuned model."
        )
    for part in model.modules():  # states and logits are read by name
        if getattr(getattr(part, "config", None), "return_dict", True) is False:
            part.config.return_dict = True
    attach_processor(model, name)
    loaded: nn.Module = model.eval()
    return loaded
