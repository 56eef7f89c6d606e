"""The files of a labelled transfer set, local or behind an fsspec URL: each is written whole or not at all.

What this file does not know: what is in them.
"""

import hashlib
import io
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec

from limbeck.errors import DataError
from limbeck.files import TEMPORARY, whole_file

UNFINISHED = "unfinished"
"""The folder inside of what is not whole yet; gone once everything is."""


class Folder:
    """path: a local folder, or a URL that fsspec opens (`s3://...`, `memory://...`)."""

    def __init__(self, path: Any):
        self.path = str(path)
        self._files, self._root = fsspec.core.url_to_fs(os.path.expanduser(self.path))
        self.is_local = isinstance(self._files, fsspec.implementations.local.LocalFileSystem)

    def __repr__(self) -> str:
        return self.path

    def at(self, name: str) -> str:
        """Where a file is, for people and for readers of Parquet."""
        full = f"{self._root.rstrip('/')}/{name}" if name else self._root
        return full if self.is_local else str(self._files.unstrip_protocol(full))

    def size(self, name: str) -> int | None:
        """Bytes of a file; None where there is none."""
        try:
            return int(self._files.info(self.at(name))["size"])
        except FileNotFoundError:
            return None

    def names(self, inside: str = "") -> list[str]:
        """What is in the folder, or in one of its folders; none where it is not there."""
        self._files.invalidate_cache()
        try:
            return sorted(Path(found).name for found in self._files.ls(self.at(inside), detail=False))
        except FileNotFoundError:
            return []

    def open(self, name: str) -> Any:
        """A file to read, in bytes."""
        return self._files.open(self.at(name), "rb")

    def read(self, name: str) -> bytes:
        """All of a file."""
        with self.open(name) as file:
            content: bytes = file.read()
            return content

    def sha256(self, name: str) -> str:
        """The digest of the bytes on the disk."""
        with self.open(name) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def write(self, name: str, fill: Callable[[io.RawIOBase], Any]) -> dict[str, Any]:
        """A new file, filled by `fill(stream)`; its `bytes` and `sha256`. DataError where the disk does not take it.

        It is written under another name, brought to the disk, and only then given its own.
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
                f"{self.at(name)} could not be written: {error}. What is whole stays; make room, or see to what is "
                "wrong there, and the same call goes on."
            ) from error
        return {"bytes": stream.written, "sha256": stream.digest.hexdigest()}

    @contextmanager
    def _remote_file(self, path: str, temporary: str) -> Iterator[Any]:
        """As `files.whole_file`, as far as the remote service allows."""
        with self._files.open(temporary, "wb") as file:
            yield file
        self._files.mv(temporary, path)

    def remove(self, name: str) -> None:
        """A file, or a folder and all in it."""
        if self._files.exists(self.at(name)):
            self._files.rm(self.at(name), recursive=True)

    def free(self) -> int | None:
        """Bytes that the disk has left; None where that is not known."""
        if not self.is_local:
            return None
        there = Path(self.at("")).absolute()
        while not there.exists():
            there = there.parent
        return shutil.disk_usage(there).free


class _Hashed(io.RawIOBase):
    """Counts and hashes what it passes on."""

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
