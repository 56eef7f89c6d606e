"""The YAML files that --config names: what is in them, and which value has the wrong type.

What this file does not know: which options a command has.
"""

from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin

import yaml
from jsonargparse import ArgumentParser

from limbeck.errors import ConfigError

VALUE_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "text", dict: "a mapping"}
"""The types of options, as error messages name them."""

LISTS = {int: "whole numbers", float: "numbers", str: "texts"}
"""What a list of such values is a list of."""


def config_files(words: Sequence[str]) -> list[Path]:
    """The files that `--config FILE` or `--config=FILE` names among the arguments of a command, those that exist."""
    named = [word.partition("=")[2] for word in words if word.startswith("--config=")]
    named += [words[i + 1] for i, word in enumerate(words[:-1]) if word == "--config"]
    return [path for path in map(Path, named) if path.is_file()]


def settings_in(path: Path) -> Mapping[str, Any]:
    """The options in a YAML file by name, none for an empty file; ConfigError for one that holds anything else."""
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(f"{path} is not valid YAML: {error.problem}{where}.") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read as YAML: {error}; --config takes a text file of options.") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from error
    if found is None:
        return {}
    if not isinstance(found, Mapping) or not all(isinstance(key, str) for key in found):
        raise ConfigError(
            f"{path} must hold options, a line `name: value` for each, but holds a {type(found).__name__}."
        )
    return found


def wrong_value(parser: ArgumentParser, words: Sequence[str]) -> str | None:
    """A sentence about the first value in a --config file that an option cannot have; None where there is none."""
    actions = {action.dest: action for action in parser._actions}
    for path in config_files(words):
        for key, value in settings_in(path).items():
            action = actions.get(key)
            if action is not None and not _fits(parser, action, key, value):
                return f"{path}: {key} must be {expected_by(action)}, but is {value!r}"
    return None


def expected_by(action: Any) -> str:
    """What the value of a parser's option must be, in words; a switch takes true or false in a file."""
    if action.nargs == 0:
        return VALUE_NAMES[bool]
    kind: Any = getattr(action, "_typehint", None)
    if action.nargs == "+":
        return f"a list of {LISTS[kind]}"
    kinds = [kind for kind in get_args(kind) or [kind] if kind is not NoneType]
    names = [_name_of(kind) for kind in kinds if not (isinstance(kind, type) and issubclass(kind, Enum))]
    return " or ".join(dict.fromkeys(names)) or "another value"


def _name_of(kind: Any) -> str:
    origin = get_origin(kind) or kind
    return "a list" if origin is list else VALUE_NAMES.get(origin, getattr(origin, "__name__", str(origin)))


def _fits(parser: ArgumentParser, action: Any, key: str, value: Any) -> bool:
    """Whether an option can have a value; the parser itself takes anything for a switch, and None for a list."""
    if action.nargs == 0:
        return isinstance(value, bool)
    if action.nargs == "+" and not isinstance(value, list):
        return False
    try:
        parser.parse_object({key: value}, defaults=False)
    except Exception:  # whatever a conversion raises
        return False
    return True
