"""The files of a stored set, local or behind an fsspec URL, each written atomically.

What this file does not know: their contents.
"""

import hashlib
import io
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import fsspec

from limbeck.errors import DataError
from limbeck.files import TEMPORARY, whole_file

UNFINISHED = "unfinished"
"""The subfolder of files that are not complete; removed once all are."""


Location: TypeAlias = str | os.PathLike[str]
"""A folder here, or a URL that fsspec opens."""


class Folder:
    """The folder of a stored set.

    path: a local folder, or a URL that fsspec opens (`s3://...`, `memory://...`).
    """

    def __init__(self, path: Location):
        self.path = str(path)
        self._files, self._root = fsspec.core.url_to_fs(os.path.expanduser(self.path))
        self.is_local = isinstance(self._files, fsspec.implementations.local.LocalFileSystem)

    def __repr__(self) -> str:
        return self.path

    def at(self, name: str) -> str:
        """The full path of a file, for messages and readers of Parquet."""
        full = f"{self._root.rstrip('/')}/{name}" if name else self._root
        return full if self.is_local else str(self._files.unstrip_protocol(full))

    def size(self, name: str) -> int | None:
        """The size of a file in bytes; None where it does not exist, -1 where it cannot be read."""
        try:
            return int(self._files.info(self.at(name))["size"])
        except FileNotFoundError:
            return None
        except OSError:  # such as a link to itself
            return -1

    def names(self, inside: str = "") -> list[str]:
        """The names in the folder, or in one of its subfolders, sorted; empty where it does not exist."""
        self._files.invalidate_cache()
        try:
            return sorted(Path(found).name for found in self._files.ls(self.at(inside), detail=False))
        except FileNotFoundError:
            return []

    def open(self, name: str) -> io.BufferedIOBase:
        """Opens a file to read its bytes; OSError for what is no file, such as a pipe, which would never end."""
        if self.is_local and self._files.info(self.at(name)).get("type") not in ("file", "directory"):
            raise OSError(f"{self.at(name)} is not a regular file")
        opened: io.BufferedIOBase = self._files.open(self.at(name), "rb")
        return opened

    def read(self, name: str) -> bytes:
        """The bytes of a file; DataError where it cannot be read: a folder, a link to itself, a disk that fails."""
        try:
            with self.open(name) as file:
                content: bytes = file.read()
                return content
        except OSError as error:
            raise DataError(f"{self.at(name)} cannot be read: {error}; restore it, or give another path.") from error

    def problem(self, name: str, size: int) -> str | None:
        """What is wrong with a file that had this size, in words; None if nothing is. Its bytes are not looked at."""
        try:
            found = self._files.info(self.at(name))
        except FileNotFoundError:
            return "is missing"
        except OSError as error:
            return f"cannot be read: {error}"
        if found.get("type") == "directory":
            return "is a folder where a file was written"
        if self.is_local and found.get("type") != "file":
            return "is not a regular file"
        if found["size"] != size:
            return f"has {found['size']:,} bytes and had {size:,} when it was written"
        return None

    def sha256(self, name: str) -> str:
        """The SHA-256 of a file's bytes."""
        with self.open(name) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def write(self, name: str, fill: Callable[[io.RawIOBase], Any]) -> dict[str, Any]:
        """Writes a file by `fill(stream)` and returns its `bytes` and `sha256`; DataError where the disk refuses it.

        It is written under a temporary name, flushed to the disk, and then renamed.
        """
        temporary = self.at(f"{UNFINISHED}/{name.rpartition('/')[2]}{TEMPORARY}")
        try:
            self._files.makedirs(self.at(UNFINISHED), exist_ok=True)
            remote = None if self.is_local else self._remote_file(self.at(name), temporary)
            with remote or whole_file(self.at(name), temporary) as file:
                stream = _Hashed(file)
                fill(stream)
        except OSError as error:
            raise DataError(
                f"{self.at(name)} could not be written: {error}. Complete files stay; make room, or repair what is "
                "wrong there, and repeat the call to resume."
            ) from error
        return {"bytes": stream.written, "sha256": stream.digest.hexdigest()}

    @contextmanager
    def _remote_file(self, path: str, temporary: str) -> Iterator[Any]:
        """Like `files.whole_file`, as far as the remote service allows."""
        with self._files.open(temporary, "wb") as file:
            yield file
        self._files.mv(temporary, path)

    def remove(self, name: str) -> None:
        """Removes a file, or a folder with its contents."""
        if self._files.exists(self.at(name)):
            self._files.rm(self.at(name), recursive=True)

    def free(self) -> int | None:
        """The free bytes of the disk; None where they are not known."""
        if not self.is_local:
            return None
        existing = Path(self.at("")).absolute()
        while not existing.exists():
            existing = existing.parent
        return shutil.disk_usage(existing).free


class _Hashed(io.RawIOBase):
    """A stream that counts and hashes the bytes it passes on."""

    def __init__(self, file: Any):
        self.file, self.digest, self.written = file, hashlib.sha256(), 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.file.write(data)
        self.digest.update(data)
        size = memoryview(data).nbytes
        self.written += size
        return size

    def tell(self) -> int:
        return self.written
