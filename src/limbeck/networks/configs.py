"""config.json of a model's folder: read, and checked before anything is built from it.

A config.json comes with a model from anywhere. What it may not do: have transformers fetch code (attention kernels of
the hub are code), or ask for more layers or classes than its weights have.

What this file does not know: networks, and whether the weights fit.
"""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from limbeck.errors import ModelError
from limbeck.files import Json

CONFIG = "config.json"
DEEPEST = 32
"""How deep a config.json may be nested; those of transformers reach 5."""

IMPLEMENTATION = re.compile(r"(attn|attention|experts)_implementation")
"""What the names of fields contain whose value may name a kernel of the hub."""

BUILT_IN = {
    "attention": ("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flash_attention_4", "flex_attention"),
    "experts": ("eager", "grouped_mm", "batched_mm"),
}

COUNTED = re.compile(r"layer|depth|block|stage|group|expert|label|head")
"""What the names of fields contain that count parts of a network."""

NOT_COUNTED = re.compile(r"_(id|ids|index|idx|size|dim|dims|std|factor|chunk|length|range|scale|window|seed)s?$")

EPSILON = re.compile(r"(^|_)eps(ilon)?$")

DTYPES = ("auto", "float16", "bfloat16", "float32", "float64", "float8_e4m3fn", "float8_e5m2")


def require_model_folder(path: Path) -> None:
    """ModelError where a folder has no config.json, or no weights."""
    found = sorted(p.name for p in path.iterdir())[:8]
    if not (path / CONFIG).is_file():
        inside = [p.parent.name for p in sorted(path.glob(f"*/{CONFIG}"))]
        hint = f" Did you mean {path / inside[0]}?" if inside else ""
        raise ModelError(f"{path} is not a model: it has no {CONFIG} (found: {', '.join(found) or 'nothing'}).{hint}")
    if not any(weights.is_file() for weights in path.glob("*.safetensors")):
        raise ModelError(f"{path} is not a model: it has no .safetensors file (found: {', '.join(found)}).")


def read_config(path: Path) -> Json:
    """The config.json in a folder; ModelError where it is not a JSON object."""
    try:
        config = json.loads((path / CONFIG).read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:  # JSON, UTF-8, nesting
        raise ModelError(f"{path / CONFIG} is not JSON: {error}.") from error
    if not isinstance(config, dict):
        raise ModelError(f"{path / CONFIG} must hold an object with the model's settings.")
    return config


def require_built_in(config: Json, where: str) -> None:
    """ModelError where a configuration of transformers names code of the hub, a dtype that no network has, or NaN.

    where: the file or the name of the hub, for the message.
    """
    for names, value in _fields(config, where):
        field = ".".join(names)
        implementation = next((n for n in names if IMPLEMENTATION.search(n)), None)
        if implementation is not None and value is not None:
            allowed = BUILT_IN["experts" if "experts" in implementation else "attention"]
            if value not in allowed:
                raise ModelError(
                    f"{where}: {field} is {shown(value)}, which could be code of the hub, and Limbeck runs none. Set "
                    f"it to one of {', '.join(allowed)}, or remove it."
                )
            _require_installed(value, where, field)
        is_dtype = not {"dtype", "torch_dtype"}.isdisjoint(names) and "quantization_config" not in names
        if is_dtype and value is not None and value not in DTYPES:
            raise ModelError(f"{where}: {field} is {shown(value)}, but must be one of {', '.join(DTYPES)}.")
        if len(names) == 2 and names[0] == "id2label" and (isinstance(value, bool) or not isinstance(value, str | int)):
            raise ModelError(f"{where}: {field} is {shown(value)}, but must be the name of a class.")
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if names[-1] == "rope_theta" and value is not None and not (is_number and value > 0):
            raise ModelError(f"{where}: {field} is {shown(value)}, but must be a number above 0.")
        if EPSILON.search(names[-1]) and is_number and not 0 <= value < 1:
            raise ModelError(f"{where}: {field} is {shown(value)}, but must be a small number, such as 1e-6.")
        if isinstance(value, float) and value != value:
            raise ModelError(f"{where}: {field} is not a number (NaN); set it to the value of the trained model.")


def require_counts(config: Json, folder: Path) -> None:
    """ModelError where a configuration counts more layers, heads or classes than its weights can have.

    A network of so many parts would be built before its weights are seen not to fit.
    """
    shapes = saved_shapes(folder).values()
    tensors, largest = len(shapes), max((shape[0] for shape in shapes if shape), default=0)
    for names, value in _fields(config, str(folder / CONFIG)):
        name = next((n for n in reversed(names) if not n.isdigit()), "")
        if type(value) is not int or not COUNTED.search(name) or NOT_COUNTED.search(name):
            continue
        most = max(tensors, 1024) if "layer" in name or "depth" in name else max(tensors, largest, 1024)
        if name.startswith(("num_", "n_")) and value < (1 if name == "num_labels" else 0):
            raise ModelError(f"{folder / CONFIG}: {'.'.join(names)} is {value:,}; it must be a number of parts.")
        if value > most:
            raise ModelError(
                f"{folder / CONFIG}: {'.'.join(names)} is {value:,}, but the weights of this folder are {tensors:,} "
                f"tensors with at most {largest:,} rows; a network of that size was not saved here."
            )


def saved_shapes(folder: Path) -> dict[str, list[int]]:
    """The shapes of the weights in a folder by name, from the headers of its files; ModelError if one is damaged."""
    found: dict[str, list[int]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        found |= shapes_in(path)
    return found


def shapes_in(path: Path) -> dict[str, list[int]]:
    """The shapes of the weights in a .safetensors file by name, from its header; ModelError if it is damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: list(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} cannot be read as weights: {error}.") from error


def shown(value: object) -> str:
    """A value for a message, shortened."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _require_installed(value: str, where: str, field: str) -> None:
    """ModelError for flash attention that is not installed: transformers may fetch a kernel of the hub in its place."""
    if not value.startswith("flash_attention_"):
        return
    from transformers import utils

    is_available = getattr(utils, f"is_flash_attn_{value[-1]}_available", None)
    if is_available is None or not is_available():
        raise ModelError(
            f"{where}: {field} is {value}, which is not available here; install it, or set the field to sdpa or eager."
        )


def _fields(value: Any, where: str, names: Sequence[str] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Each value of a nested configuration that is neither an object nor a list, with the names that lead to it."""
    if len(names) > DEEPEST:
        raise ModelError(f"{where}: {'.'.join(names[:3])}... is nested more than {DEEPEST} deep.")
    if isinstance(value, dict | list) and value:
        for name, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _fields(part, where, (*names, str(name)))
    else:
        yield tuple(names), value
