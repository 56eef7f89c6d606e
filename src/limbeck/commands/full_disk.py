"""What a command prints where a file could not be written: which one, why, and how to go on; None for other exceptions.

Limbeck, Trainer, safetensors, torch and datasets write files, and each raises an exception of its own. The system's
error number is in the exception, in one that it was raised from, or in its text; the path is in the exception or among
the variables of the functions that were writing.

What this file does not know: what is written.
"""

import errno
import os
import re
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

from limbeck.commands.signals import SAME_COMMAND
from limbeck.files import final_name, why_unwritable

UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG}
"""Errors of the system that only writing meets."""

EITHER = {errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.EISDIR}
"""Errors that reading meets too; they count as writing's where the path is in the place for the command's files."""

WRITES_TO_OUTPUT = ("evaluate", "report")
"""Commands whose flag for the file that they write is --output; that of the others is --output_dir."""


def message_of_unwritable(error: Exception, command: str, words: Sequence[str]) -> str | None:
    """One line about a file or folder that could not be written; None for an exception about anything else.

    command: the subcommand. words: its arguments.
    """
    for cause in _chain(error):
        failure = _failure(cause)
        path = None if failure is None else _path(cause, failure)
        if failure is not None and (failure.errno in UNWRITABLE or _is_output(path, command, words)):
            name = "A file" if path is None else str(path)
            reason = why_unwritable(path or Path.cwd(), failure)
            return (
                f"{name} could not be written: {reason}. {_advice(_setting_of(path, command, words), failure, command)}"
            )
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An exception, the one that it was raised from or while handling, and so on."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _failure(error: BaseException) -> OSError | None:
    """The system's error that an exception is, or has in its text; None where it is about no place on the disk."""
    if isinstance(error, OSError) and error.errno is not None:
        return error if error.errno in UNWRITABLE | EITHER else None
    text = str(error)
    number = re.search(r"\b(?:os error|errno) (\d+)", text, re.IGNORECASE)
    if number is not None and int(number[1]) in UNWRITABLE | EITHER:
        return OSError(int(number[1]), os.strerror(int(number[1])))
    if "Not enough disk space" in text:  # datasets, before it downloads
        return OSError(errno.ENOSPC, text)
    if isinstance(error, RuntimeError) and re.search("inline_container|StreamWriter|iostream", text) and _saves(error):
        return OSError(errno.ENOSPC, text)  # torch.save lost the error's number: short of room, in all likelihood
    return None


def _saves(error: BaseException) -> bool:
    """Whether torch.save is on the stack of an exception."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return ("torch.serialization", "save") in [(f.f_globals.get("__name__"), f.f_code.co_name) for f in frames]


def _path(error: BaseException, failure: OSError) -> Path | None:
    """The final name of the file that could not be written."""
    found = failure.filename2 or failure.filename
    if not isinstance(found, str | os.PathLike):
        found = next(_paths_on_stack(error), None)
    if found is None:
        return None
    path = Path(found)
    return Path(*(final_name(part) for part in path.parts))


def _paths_on_stack(error: BaseException) -> Iterator[str | Path]:
    """The paths among the variables of the functions in which an exception was raised, the innermost first."""
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        for name, value in frame.f_locals.items():
            is_path = isinstance(value, Path) or (isinstance(value, str) and os.sep in value and "://" not in value)
            if is_path and (name == "f" or re.search("path|file|folder|dir", name)):
                yield value


def _advice(setting: str, failure: OSError, command: str) -> str:
    """How to go on: what to change, and which command continues."""
    change = "Make room" if failure.errno in (errno.ENOSPC, errno.EDQUOT) else "Change that"
    again = "continues" if command in SAME_COMMAND else "can be run again"
    if command == "distill":
        again = "with --resume continues"
    return f"{change}, and the same command {again}; or set {setting} to another place."


def _output_flag(command: str) -> str:
    return "--output" if command in WRITES_TO_OUTPUT else "--output_dir"


def _is_output(path: Path | None, command: str, words: Sequence[str]) -> bool:
    """Whether a path lies where the command was told to write, or where commands write by default."""
    flag = _output_flag(command)
    places = ["runs", *(word.partition("=")[2] for word in words if word.startswith(f"{flag}="))]
    places += [after for word, after in pairwise(words) if word == flag]
    return path is not None and any(path.absolute().is_relative_to(Path(place).absolute()) for place in places)


def _setting_of(path: Path | None, command: str, words: Sequence[str]) -> str:
    """The option or the environment variable that says where the path is."""
    if path is None or not path.is_absolute() or _is_output(path, command, words):
        return _output_flag(command)
    caches = {"HF_HOME": os.environ.get("HF_HOME", "~/.cache/huggingface"), "TMPDIR": tempfile.gettempdir()}
    if "datasets" in sys.modules:
        caches = {"HF_DATASETS_CACHE": str(sys.modules["datasets"].config.HF_DATASETS_CACHE), **caches}
    holds = (name for name, cache in caches.items() if path.is_relative_to(Path(cache).expanduser()))
    return next(holds, _output_flag(command))
