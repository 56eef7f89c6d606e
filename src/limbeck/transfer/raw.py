"""Files that would end the process or fill its memory inside the libraries that read them, found before they do.

What this file does not know: what the files describe.
"""

import bz2
import gzip
import json
import lzma
import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from limbeck.errors import DataError

MOST_TIMES = 100
"""A file that unpacks to more than this many times its size, and more than ENOUGH bytes, is refused."""
ENOUGH = 2**28

_STREAMS: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
_OTHERS = {b"\x28\xb5\x2f\xfd": "zstandard", b"\x04\x22\x4d\x18": "lz4", b"Rar!": "rar", b"7z\xbc\xaf\x27\x1c": "7z"}
"""Kinds of packed files by their first bytes, which is how `datasets` tells them."""
_ZIP = b"PK\x03\x04"
_CHUNK = 2**22

_NULL_FIRST = re.compile(rb"\A(?:\xef\xbb\xbf)?\s*null")
_NULL_LINE = re.compile(rb"(?m)^[ \t\r\x0b\x0c]*null")
_BAD = (OSError, EOFError, zlib.error, lzma.LZMAError)


def refuse_bombs(files: Iterable[Path]) -> None:
    """DataError for packed files that unpack to far more than their size, or are packed in a way that is not read."""
    for path in files:
        if not path.is_file():
            continue
        with path.open("rb") as file:
            start = file.read(8)
        for magic, kind in _OTHERS.items():
            if start.startswith(magic):
                raise DataError(f"{path} is packed as {kind}; unpack it first.")
        most = max(ENOUGH, MOST_TIMES * path.stat().st_size)
        if start.startswith(_ZIP):
            unpacked = _size_of_members(path)
        elif any(start.startswith(magic) for magic in _STREAMS):
            unpacked = 0
            for chunk in _chunks(path):
                unpacked += len(chunk)
                if unpacked > most:
                    break
        else:
            continue
        if unpacked > most:
            raise DataError(
                f"{path} has {path.stat().st_size:,} bytes and unpacks to more than {most:,}; if that is right, unpack "
                "it yourself."
            )


def _size_of_members(path: Path) -> int:
    """The size of the files in a ZIP archive; its reader stops at the size that each declares."""
    try:
        with zipfile.ZipFile(path) as archive:
            return sum(member.file_size for member in archive.infolist())
    except (zipfile.BadZipFile, *_BAD) as error:
        raise DataError(f"{path} cannot be unpacked: {error}.") from error


def beginning(path: Path, size: int) -> bytes:
    """The first bytes of a file, unpacked."""
    found = b""
    for chunk in _chunks(path):
        found += chunk
        if len(found) >= size:
            break
    return found[:size]


def refuse_null_records(files: Iterable[Path]) -> None:
    """DataError for records that are `null` in JSON files: they end the process within the reader of `datasets`."""
    for path in files:
        line, start = 1, True
        for lines in _whole_lines(path):
            if start and _first_byte(lines) == b"[":
                _refuse_null_elements(path)
                break
            if start and not _is_json_lines(lines):
                found = _NULL_FIRST.search(lines)
                if found is None:
                    break
            else:
                found = _NULL_FIRST.search(lines) if start else None
                found = found or _NULL_LINE.search(lines)
            if found is not None:
                line += lines[: found.end()].count(b"\n")
                raise DataError(f"Each line of {path} must be an object, but line {line} is null; remove it.")
            line, start = line + lines.count(b"\n"), False


def _refuse_null_elements(path: Path) -> None:
    content = b"".join(_chunks(path))
    if b"null" not in content:
        return
    try:
        records = json.loads(content)
    except (ValueError, RecursionError):  # the reader says what is wrong with it
        return
    if None in records:
        place = next(i for i, record in enumerate(records) if record is None)
        raise DataError(f"Each element of {path} must be an object, but element {place} is null; remove it.")


def _first_byte(lines: bytes) -> bytes:
    return lines.removeprefix(b"\xef\xbb\xbf").lstrip()[:1]


def _is_json_lines(lines: bytes) -> bool:
    """Whether the first line that is not blank is JSON, and not the begin of a value over several lines."""
    first = next((line for line in lines.removeprefix(b"\xef\xbb\xbf").split(b"\n") if line.strip()), b"")
    try:
        json.loads(first)
    except (ValueError, RecursionError):
        return False
    return True


def _whole_lines(path: Path) -> Iterator[bytes]:
    """The unpacked content in pieces that end with a line."""
    rest = b""
    for chunk in _chunks(path):
        head, newline, rest_of_chunk = chunk.rpartition(b"\n")
        if newline:
            yield rest + head + newline
            rest = rest_of_chunk
        else:
            rest += chunk
    if rest:
        yield rest


def _chunks(path: Path) -> Iterator[bytes]:
    """The unpacked content of a file in pieces; DataError where it cannot be unpacked, or is an archive of files."""
    with path.open("rb") as file:
        start = file.read(8)
    if start.startswith(_ZIP):
        raise DataError(f"{path} is a ZIP archive; unpack it first.")
    opener = next((opened for magic, opened in _STREAMS.items() if start.startswith(magic)), None)
    try:
        with path.open("rb") as file, opener(file) if opener else file as stream:
            while chunk := stream.read(_CHUNK):
                yield chunk
    except _BAD as error:
        raise DataError(f"{path} cannot be unpacked: {error}.") from error
