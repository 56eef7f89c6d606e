"""Files and folders that are written whole or not at all: a reader, or a run after a crash, never meets half of one.

    write_whole("runs/demo/report.html", page)

    with whole_file("runs/demo/log.jsonl") as file:      # a stream of bytes
        file.write(line)

    digests(folder, ["model.safetensors", "config.json"])   # whether they still hold what was written

    with in_use(folder):                                    # by this process alone, even if it is killed

New content goes to a temporary name on the same disk, is flushed to the disk, and only then takes its final name.

What this file does not know: what is written.
"""

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import xxhash

from limbeck.errors import ConfigError

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

Json: TypeAlias = dict[str, Any]
"""A JSON object; its schema tells what its values are."""

JsonView: TypeAlias = Mapping[str, Any]
"""A JSON object that is only read."""

DIGEST = "xxh3_128"
"""The hash of `digest`: it finds damage at the speed of memory, and is no protection against an attacker."""

TEMPORARY = ".partial"
"""What the names of unfinished files and folders end with."""


def write_whole(path: str | Path, text: str) -> None:
    """Writes a text file (UTF-8), and its folder where there is none.

    path: the file to create or to replace. text: all of its content.
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file:
        file.write(text.encode("utf-8"))


@contextmanager
def whole_file(path: str | Path, temporary: str | Path | None = None) -> Iterator[BinaryIO]:
    """Yields a stream of bytes that becomes the file `path` where the block ends, and nothing where the block raises.

    path: the file to create or to replace, in a folder that exists; a device or a pipe is written to as it is.
    temporary: where the bytes are until then, on the same disk; by default beside `path`, under a name that no other
        process on this machine uses.
    """
    path = Path(path)
    if path.exists() and not path.is_file() and not path.is_dir():  # a device or a pipe, such as /dev/stdout
        with open(path, "wb") as file:
            yield file
        return
    temporary = path.with_name(f"{path.name}.{os.getpid()}{TEMPORARY}") if temporary is None else Path(temporary)
    try:
        with open(temporary, "wb") as file:
            yield file
        publish(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def publish(temporary: Path, path: Path) -> None:
    """Gives a finished file its final name, once its content is on the disk; an older file there is replaced."""
    with open(temporary, "rb+") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)
    _sync_folder(path.parent)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yields an empty folder that takes the name `path` where the block ends; an older folder there is replaced.

    Where the block raises, the older folder stays, and the unfinished one is left beside it until the next attempt.
    """
    new, old = path.with_name(path.name + TEMPORARY), path.with_name(path.name + ".replaced")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    yield new
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        path.rename(old)
    new.rename(path)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def in_use(folder: str | Path) -> Iterator[None]:
    """Holds a local folder, which is created if need be, for this process; ConfigError where another one holds it.

    The lock is on the open folder: it ends with the process, however that ends, and leaves no file behind. Where the
    file system has no such locks (some network file systems, Windows), nothing is held. A folder that was created and
    is still empty is removed where the block raises.
    """
    is_new = not Path(folder).exists()
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(_refusal(folder, error, "--output_dir")) from error
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    _held.add(handle)
    try:
        _lock(handle, folder)
        yield
    except BaseException:
        if is_new:
            with suppress(OSError):  # it is no longer empty
                os.rmdir(folder)
        raise
    finally:
        if handle in _held:  # a forked child has closed its copy
            _held.remove(handle)
            os.close(handle)


def require_writable(folder: str | Path, flag: str = "--output_dir") -> None:
    """ConfigError where no file can be created in a folder, or, as long as it does not exist, in the one above it.

    Nothing is left behind. flag: the option of the command line that names the folder.
    """
    try:
        above = _existing(Path(folder))
        if not above.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        with tempfile.TemporaryFile(dir=above):
            pass
    except OSError as error:
        raise ConfigError(_refusal(folder, error, flag)) from error


def _refusal(folder: str | Path, error: OSError, flag: str) -> str:
    reason = why_unwritable(folder, error)
    return f"{folder} cannot be a folder to write to: {reason}. Change that, or pass another folder ({flag})."


def _existing(path: Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    return next(place for place in (path, *path.parents) if os.path.exists(place))  # where nothing may be listed, too


def why_unwritable(path: str | Path, error: OSError) -> str:
    """Why a file or a folder could not be written or created, in words without a full stop.

    path: its final name. error: what the system raised.
    """
    path = Path(path)
    exists = _existing(path)
    if error.errno in (errno.ENOTDIR, errno.EEXIST) and not exists.is_dir():
        return f"{exists} is a file, where a folder is needed"
    if error.errno == errno.EISDIR:
        return f"{path} is a folder, where a file is needed"
    if error.errno == errno.ENOSPC:
        return f"the disk is full ({_size(shutil.disk_usage(exists).free)} free)"
    if error.errno == errno.EDQUOT:
        return "the disk quota of this user is used up"
    if error.errno == errno.EROFS:
        return "its disk can only be read (it is mounted read-only)"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"this user may not write to {exists if exists.name else exists.absolute()}"
    return (error.strerror or str(error)).rstrip(".")


def _size(number: float) -> str:
    """A number of bytes, with the unit that leaves it below 1,000."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} TB"


def digest(path: str | Path) -> str:
    """The XXH3-128 of a file's bytes, in hexadecimal; OSError where it cannot be read."""
    found, chunk = xxhash.xxh3_128(), memoryview(bytearray(2**22))
    with open(path, "rb", buffering=0) as file:
        while size := file.readinto(chunk):
            found.update(chunk[:size])
    return found.hexdigest()


def digests(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """The `digest` of each of these files in a folder, by name; several files are read at a time."""
    names = list(names)
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        return dict(zip(names, pool.map(lambda name: digest(folder / name), names), strict=True))


def final_name(name: str) -> str:
    """The name that an unfinished file or folder would have got; other names as they are."""
    return re.sub(rf"(\.\d+)?{re.escape(TEMPORARY)}$", "", name)


def _lock(handle: int, folder: str | Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ConfigError(
            f"{folder} is in use by another process that writes there; wait until that one has ended, or give another "
            "folder (--output_dir)."
        ) from error
    except OSError:
        pass  # no locks on this file system


_held: set[int] = set()
"""Handles of the folders that this process holds."""


def _let_go() -> None:
    """In a forked child, such as a worker that loads data: the lock is its parent's, and ends with that."""
    while _held:
        os.close(_held.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


def _sync_folder(folder: Path) -> None:
    """A new name is on the disk only after its folder is."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems sync files only
            os.fsync(handle)
    finally:
        os.close(handle)
