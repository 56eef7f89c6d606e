"""Why a transformers model could not be built from its config.json: the weights that do not fit, the odd fields.

What this file does not know: loading.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from limbeck.files import JsonView
from limbeck.networks.configs import saved_shapes, shown

_COMMON = dict.fromkeys(("torch_dtype", "dtype", "architectures", "model_type", "transformers_version", "auto_map"))
"""Fields of any configuration, whether or not its class has a default for them."""


def describe_misfit(folder: Path, kind: Any) -> str | None:
    """The first weight whose shape in the folder is not the network's, and the fields that may be why; None if none.

    kind: the class of the network.
    """
    try:
        with torch.device("meta"):
            network = kind(kind.config_class.from_pretrained(folder))
        saved = saved_shapes(folder)
    except Exception:  # a network of such sizes may not even be built
        return None
    for name, weight in network.state_dict().items():
        there, here = saved.get(name), list(weight.shape)
        if there is not None and there != here:
            strange = [a for a, b in zip(here, there, strict=False) if a != b] if len(here) == len(there) else here
            numbers = _numbers(network.config.to_dict())
            fields = [f"{field} = {value}" for field, value in numbers if value in strange]
            if network.config.num_labels in strange:
                fields.insert(0, f"num_labels (the names in id2label) = {network.config.num_labels}")
            why = f", which is {', '.join(fields[:4])}" if fields else ""
            return f"{name} is {there} in the file of weights and {here} in {kind.__name__}{why}"
    return None


def odd_fields(config: JsonView, kind: Any, message: str) -> list[str]:
    """`name = value` of the fields that may be why a network could not be built.

    Their value stands in the message of the error, is of another kind than the default of the class, or out of bounds.
    """
    try:
        expected = kind.config_class().to_dict()
    except Exception:  # without defaults
        expected = {}
    found = list(_odd(config, expected, message))
    found += [
        f"{name} = {shown(v)} (unknown to it)" for name, v in config.items() if name not in {**expected, **_COMMON}
    ]
    absent = [name for name in expected if name not in config and re.search(r"size|head|layer|labels", name)]
    return found + [f"{name} (missing)" for name in absent if expected[name]]


def _odd(config: JsonView, expected: JsonView, message: str, before: str = "") -> Iterator[str]:
    for name, value in config.items():
        default = expected.get(name)
        if isinstance(value, Mapping) and isinstance(default, Mapping) and value:
            yield from _odd(value, default, message, f"{before}{name}.")
        elif name not in _COMMON and _is_odd(name, value, default, message):
            yield f"{before}{name} = {shown(value)}"


def _is_odd(name: str, value: Any, default: Any, message: str) -> bool:
    """Whether a value may be why: see `odd_fields`."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if f"'{name}" in message or f"`{name}`" in message or (isinstance(value, str) and repr(value) in message):
        return True
    if is_number and "drop" in name and not 0 <= value <= 1:
        return True
    if default is None:
        return is_number and not 0 <= value < 1e9
    if isinstance(default, bool):
        return value is not default
    if isinstance(default, int | float):
        return not is_number or (value <= 0) != (default <= 0) or abs(value) > 1e6 + 100 * abs(default)
    return type(value) is not type(default)


def _numbers(value: Any, name: str = "") -> Iterator[tuple[str, int]]:
    """The whole numbers in a nested configuration by name."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _numbers(part, f"{name}.{key}" if name else str(key))
    elif isinstance(value, int) and not isinstance(value, bool) and not re.search("token_id|label2id|chunk", name):
        yield name, value
