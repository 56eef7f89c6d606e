"""The types and bounds of a manifest's fields: what is not as `label` writes it is named, and never used.

What this file does not know: files, what the fields are for.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

from limbeck.files import JsonView

DEEPEST = 8  # a manifest has four levels
MOST_CLASSES = 2**31 - 1  # ids are int32
MOST = 2**53


def is_deep(values: Any) -> bool:
    """Whether JSON values are nested deeper than any manifest is; without recursion."""
    level = [values]
    for _ in range(DEEPEST):
        inner = [value.values() if isinstance(value, dict) else value for value in level]
        level = [x for value in inner if not isinstance(value, str) and hasattr(value, "__iter__") for x in value]
        level = [x for x in level if isinstance(x, dict | list)]
    return bool(level)


def wrong_field(values: JsonView) -> str | None:
    """What is wrong with the fields of a plan or manifest, as JSON has them, in words; None where nothing is."""
    for name, value in values.items():
        expected, holds = FIELDS.get(name, ("", None))
        if holds is not None and not holds(value):
            return f"{name} must be {expected}, but is {_short(value)}"
    if "shards" in values:
        return _wrong_shards(values)
    return None


def _wrong_shards(values: JsonView) -> str | None:
    """Whether the shards are those that `rows` and `rows_per_shard` make, in order, by their names."""
    rows, size, shards = values["rows"], values["rows_per_shard"], values["shards"]
    count = -(-rows // size)
    if len(shards) != count:
        return f"{rows:,} rows by {size:,} make {count:,} shards, but {len(shards):,} are listed"
    for place, shard in enumerate(shards):
        name, held = f"part-{place:05}-of-{count:05}.parquet", min(size, rows - place * size)
        if shard["name"] != name:
            return f"shard {place} must have the name {name}, but has {_short(shard['name'])}"
        if shard["rows"] != held:
            return f"{name} must have {held:,} rows, but has {shard['rows']:,}"
    return None


def _short(value: Any) -> str:
    """A value for a message."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."


def _whole(value: Any, least: int = 0, most: int = MOST) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _or_none(holds: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or holds(value)


def _column(value: Any) -> bool:
    """As ColumnFormat is written."""
    if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "padding"}:
        return False
    shape = isinstance(value["shape"], list) and all(x is None or _whole(x, 0, MOST_CLASSES) for x in value["shape"])
    return shape and _text(value["dtype"]) and (value["padding"] is None or _whole(value["padding"], -MOST))


def _shard(value: Any) -> bool:
    """As Shard is written."""
    if not isinstance(value, dict) or value.keys() != {"name", "rows", "positions", "bytes", "sha256"}:
        return False
    counts = all(_whole(value[name]) for name in ("rows", "positions", "bytes"))
    return counts and _text(value["name"]) and _text(value["sha256"])


def _head(value: Any) -> bool:
    """As the record of the output layer is written."""
    if not isinstance(value, dict) or not {"bytes", "sha256", "logit_scale", "softcap"} <= value.keys():
        return False
    numbers = _number(value["logit_scale"]) and (value["softcap"] is None or _number(value["softcap"]))
    return numbers and _whole(value["bytes"]) and _text(value["sha256"])


_POSITIVE: tuple[str, Callable[[Any], bool]] = ("a whole number above 0", lambda value: _whole(value, 1))
_TEXT: tuple[str, Callable[[Any], bool]] = ("text", _text)
_TEXT_OR_NONE = ("text or null", _or_none(_text))

FIELDS: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "kind": ("an object", lambda value: isinstance(value, dict)),
    "classes": (f"a whole number from 1 to {MOST_CLASSES:,}", lambda value: _whole(value, 1, MOST_CLASSES)),
    "hidden_size": ("a whole number above 0 or null", _or_none(lambda value: _whole(value, 1, MOST_CLASSES))),
    "dtype": _TEXT,
    "positions_are": _TEXT,
    "columns": (
        "an object of dtype, shape and padding by column",
        lambda value: isinstance(value, dict) and all(map(_column, value.values())),
    ),
    "rows": _POSITIVE,
    "rows_per_shard": _POSITIVE,
    "teacher": _TEXT,
    "dataset": _TEXT,
    "features": (
        "null or the columns of a table, each with name, kind and categories",
        _or_none(lambda value: isinstance(value, list) and all(isinstance(one, dict) for one in value)),
    ),
    "label_names": (
        "a list of texts or null",
        _or_none(lambda value: isinstance(value, list) and all(map(_text, value))),
    ),
    "tokenizer": _TEXT_OR_NONE,
    "chat_template": _TEXT_OR_NONE,
    "augmentation": _TEXT_OR_NONE,
    "augmentation_seed": ("a whole number or null", _or_none(lambda value: _whole(value, -(2**64), 2**64))),
    "views": _POSITIVE,
    "seed": ("a whole number", lambda value: _whole(value, -(2**64), 2**64)),
    "temperature": _TEXT,
    "shards": (
        "a list of name, rows, positions, bytes and sha256 by file",
        lambda value: isinstance(value, list) and all(map(_shard, value)),
    ),
    "head": ("an object of bytes, sha256, logit_scale and softcap, or null", _or_none(_head)),
    "versions": (
        "an object of versions by library",
        lambda value: isinstance(value, dict) and all(map(_text, value.values())),
    ),
}
"""Field -> what it must be, in words, and whether a value is that."""
