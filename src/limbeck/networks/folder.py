"""A student in a folder: model.safetensors, config.json and their seal, and nothing that names code to import.

What this file does not know: checkpoints of a run in progress (those are the trainer's).
"""

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from safetensors import SafetensorError
from safetensors.torch import load_model, save_file, save_model
from torch import Tensor, nn

from limbeck._version import __version__
from limbeck.errors import ModelError
from limbeck.files import whole_folder
from limbeck.networks.asking import label_names_of
from limbeck.networks.configs import (
    CONFIG,
    read_config,
    require_built_in,
    require_counts,
    require_model_folder,
    shapes_in,
)
from limbeck.networks.misfits import describe_misfit, odd_fields
from limbeck.networks.mlp import MLP
from limbeck.networks.outputs import read_task, with_task, write_task
from limbeck.networks.processors import attach_processor, read_saved_processor, write_processor
from limbeck.networks.seal import require_as_sealed, seal
from limbeck.networks.table import read_table_encoder, with_table_encoder, write_table_encoder
from limbeck.networks.trained import builder_of

ARCHITECTURES: dict[str, type[nn.Module]] = {"mlp": MLP}

WEIGHTS = "model.safetensors"

MOST_NAME = 200
"""How many characters of a name in a folder are read."""


@runtime_checkable
class SavesItself(Protocol):
    """A model that writes its own folder (transformers, PEFT)."""

    def save_pretrained(self, folder: str, **options: Any) -> object:
        """Writes weights and configuration to the folder."""


def load(folder: str | Path, into: nn.Module | None = None) -> nn.Module:
    """A student (or any model) from its folder, in eval mode.

    folder: what `save`, a run of Limbeck or transformers' `save_pretrained` wrote; a name that is no folder is
        looked up on the Hugging Face hub.
    into: the module to load the weights into, for a network of the user's class; folders never name code to import.
    Raises ModelError where the folder is not a model or not the one of `into`, where its files are not those that were
    saved, and where its configuration names code of the hub.
    """
    path = Path(folder)
    if not path.is_dir():
        text = str(folder)
        near = "/" in text and path.parent.is_dir()  # no owner/name of the hub, but a slip of the pen
        if path.exists() or near or text.startswith((".", "/", "~")) or text.count("/") > 1:
            raise ModelError(f"{folder} is not a folder; a model is a folder with {CONFIG} and {WEIGHTS}.")
        return _from_transformers(str(folder))
    require_model_folder(path)
    require_as_sealed(path)
    config = read_config(path)
    if into is None and "limbeck" not in config:
        return _from_transformers(str(path), config)
    described = config.get("limbeck", {})
    if not isinstance(described, Mapping):
        raise ModelError(f"{path / CONFIG}: limbeck must be an object, but is {described!r:.80}.")
    names = described.get("label_names")
    if not (names is None or (isinstance(names, list) and all(isinstance(name, str) for name in names))):
        raise ModelError(f"{path / CONFIG}: limbeck.label_names must be a list of names, but is {names!r:.80}.")
    if into is None:
        into = _limbeck_network(path, config, described)
    try:
        load_model(into, str(path / WEIGHTS))
    except (RuntimeError, SafetensorError, OSError) as error:
        raise ModelError(f"{path / WEIGHTS} does not fit into {type(into).__name__}: {error}") from error
    processor = read_saved_processor(path)
    if processor is not None:
        vars(into)["image_processor"] = processor
    with_table_encoder(into, read_table_encoder(path))
    if (task := read_task(path)) is not None:
        with_task(into, task)
    if names:
        named: Any = into  # a module of any class may have label_names, which mypy cannot know
        named.label_names = tuple(names)
    return into.eval()


def own_network(folder: str | Path) -> dict[str, Any] | None:
    """What a folder says of a network of the user's class: "class", and "network", the callable that built it, or None.

    None for any other folder, and where there is none. Both are words to show, and never code to import.
    """
    path = Path(folder)
    if not (path / CONFIG).is_file():
        return None
    described = read_config(path).get("limbeck")
    if not isinstance(described, Mapping) or described.get("architecture") is not None:
        return None
    texts = {name: described.get(name) for name in ("class", "network")}
    return {name: text[:MOST_NAME] if isinstance(text, str) else None for name, text in texts.items()}


def save(
    student: nn.Module,
    folder: str | Path,
    *,
    label_names: Sequence[str] | None = None,
    tokenizer: SavesItself | None = None,
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
            f"{folder} is not the folder of a model, and saving there would replace it; pass a new folder, "
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
    tokenizer: SavesItself | None = None,
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
            "network": builder_of(student),
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
    write_table_encoder(student, folder)
    write_task(student, folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(str(folder))
    if (folder / CONFIG).is_file():  # adapters alone have none, and `load` does not read them
        seal(folder)


def _limbeck_network(path: Path, config: Mapping[str, Any], described: Mapping[str, Any]) -> nn.Module:
    """The network of an architecture of Limbeck's own, with fresh weights; it is as large as those in the file."""
    name = described.get("architecture")
    if not isinstance(name, str) or name not in ARCHITECTURES:
        of = described.get("class", "a network")
        raise ModelError(
            f"{path} holds the weights of {of!s:.80}, which Limbeck cannot build ({CONFIG}: limbeck.architecture is "
            f"{name!r:.80}): build that network and pass it, limbeck.load({str(path)!r}, into=network)."
        )
    settings = config.get("settings")
    try:
        if not isinstance(settings, Mapping):
            raise ModelError(f"settings must be an object, but is {settings!r:.80}")
        with torch.device("meta"):  # takes no memory, whatever the sizes
            shapes = {name: list(x.shape) for name, x in ARCHITECTURES[name](**settings).state_dict().items()}
    except (ModelError, KeyError, TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ModelError(f"{path / CONFIG} does not describe the network that it names (settings): {error}.") from error
    saved = shapes_in(path / WEIGHTS)
    if saved != shapes:
        other = next(n for n in sorted({*saved, *shapes}) if saved.get(n) != shapes.get(n))
        raise ModelError(
            f"{path / WEIGHTS} does not fit into {ARCHITECTURES[name].__name__} as {path / CONFIG} describes it: "
            f"{other} is {saved.get(other, 'missing')} in the file, and {shapes.get(other, 'missing')} by the settings "
            f"{', '.join(f'{key} = {value!r:.80}' for key, value in settings.items())}."
        )
    return ARCHITECTURES[name](**settings)


def _from_transformers(name: str, config: dict[str, Any] | None = None) -> nn.Module:
    """A model of transformers from its folder, whose config.json is given, or from the hub."""
    import transformers

    folder = None if config is None else Path(name)
    where = name if folder is None else str(folder / CONFIG)
    kind: Any = None
    try:
        if config is None:
            config = transformers.PretrainedConfig.get_config_dict(name)[0]
        architectures = config.get("architectures") or []
        if not isinstance(architectures, list) or not all(isinstance(given, str) for given in architectures):
            raise ModelError(f"{where}: architectures must be a list of names, but is {architectures!r:.80}.")
        kind = getattr(transformers, architectures[0], None) if architectures else None
        is_model = isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel)
        if not is_model or not kind.config_class:
            raise ModelError(
                f"{where} names the architecture {architectures or 'none'}, which transformers "
                f"{transformers.__version__} does not have (architectures); make the network and pass it as `into`."
            )
        require_built_in(config, where)
        _check_type(config.get("model_type"), kind, where)
        if folder is not None:
            require_counts(config, folder)
        model, report = kind.from_pretrained(name, output_loading_info=True)
    except ModelError:
        raise
    except Exception as error:  # a configuration of any content reaches code of every kind
        raise _not_loaded(name, config, kind, error) from error
    if report.get("missing_keys"):
        missing = sorted(report["missing_keys"])
        raise ModelError(
            f"{name} lacks weights that {type(model).__name__} needs ({', '.join(missing[:3])}; {len(missing)} in "
            f"all): they would be random. Give a folder of the fine-tuned model, whose {CONFIG} (architectures, number "
            "of layers) describes its weights."
        )
    if surplus := sorted(report.get("unexpected_keys") or ()):
        warnings.warn(
            f"{name} has weights that {type(model).__name__} as its {CONFIG} describes it has no place for "
            f"({', '.join(surplus[:3])}; {len(surplus)} in all); they are not used.",
            stacklevel=3,
        )
    for part in model.modules():  # states and logits are read by name
        if getattr(getattr(part, "config", None), "return_dict", True) is False:
            part.config.return_dict = True
    attach_processor(model, name)
    if folder is not None and (task := read_task(folder)) is not None:
        with_task(model, task)
    loaded: nn.Module = model.eval()
    return loaded


def _check_type(given: Any, kind: Any, where: str) -> None:
    """Warns where a configuration names another type of model than its class has; ModelError where it is no name."""
    if not isinstance(given, str | None):
        raise ModelError(f"{where}: model_type must be a name, but is {given!r:.80}.")
    if given not in (None, kind.config_class.model_type):
        warnings.warn(
            f"{where}: model_type is {given!r:.80}, but {kind.__name__} is of the type "
            f"{kind.config_class.model_type!r}; it is loaded as the latter.",
            stacklevel=4,
        )


def _not_loaded(name: str, config: Mapping[str, Any] | None, kind: Any, error: Exception) -> ModelError:
    """The error of a model that transformers could not build, with the fields of its config.json that may be why."""
    folder = Path(name)
    cause = " ".join(f"{type(error).__name__}: {error}".split())
    if not folder.is_dir():
        return ModelError(
            f"{name} is not a local folder, and could not be loaded as a transformers model: {cause:.600}"
        )
    at = f"{name} could not be loaded as a transformers model from its {CONFIG}: "
    if "mismatched" in cause:
        cause = describe_misfit(folder, kind) or "its weights have other shapes than the network"
    odd = odd_fields(dict(config or {}), kind, str(error))
    return ModelError(f"{at}{cause:.600}" + (f". These fields may be why: {', '.join(odd[:6])}." if odd else "."))
