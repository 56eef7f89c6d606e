"""Folders of MNIST-format IDX files: MNIST, Fashion-MNIST, EMNIST and the like.

The format (LeCun, Cortes and Burges, "The MNIST database"): big-endian, a magic number whose last byte is the
number of axes, the length of each axis in 4 bytes, then the bytes themselves.
"""

import math
import re
import struct
import zlib
from pathlib import Path

import torch
from torch import Tensor

from limbeck.errors import DataError
from limbeck.transfer.rows import TransferSet, distinct_row_ids

_NAME = re.compile(r"(?P<set>.*)(?P<split>train|t10k|test)-(?P<kind>images|labels)[-.]idx[13]-ubyte(\.gz)?")
_AXES = {"images": 3, "labels": 1}

PIECE = 2**20
"""Bytes of a gzip file that are unpacked at once."""
MOST_EXPANDED = 1100
"""A gzip file expands to less than so many times its size (deflate reaches 1,032)."""


def idx(folder: str | Path) -> dict[str, TransferSet]:
    """The transfer sets of a folder, "train" and "test" where they exist: column "inputs", images `[N, H, W]` uint8.

    Files are named `train-images-idx3-ubyte`, `train-labels-idx1-ubyte`, `t10k-...`; with `.gz`, with a dot
    before idx, or with `test` for `t10k` they are found too. DataError, with the file's name, where a file is missing,
    truncated, corrupt or of another format.
    """
    folder = Path(folder)
    read = {}
    for split, (images_file, labels_file) in _find(folder).items():
        images, labels = _read(images_file, "images"), _read(labels_file, "labels")
        if len(images) != len(labels):
            raise DataError(
                f"Images and labels must be as many, but {images_file} has {len(images)} and {labels_file} "
                f"{len(labels)}."
            )
        if images.numel() == 0:
            raise DataError(f"{images_file} holds no images: its shape is {list(images.shape)}.")
        read[split] = images, labels
    num_classes = max(int(labels.max()) for _, labels in read.values()) + 1  # one number for all of the sets
    ids = distinct_row_ids({split: len(labels) for split, (_, labels) in read.items()})
    return {
        split: TransferSet({"inputs": images}, labels, num_classes=num_classes, row_ids=ids[split])
        for split, (images, labels) in read.items()
    }


def _find(folder: Path) -> dict[str, tuple[Path, Path]]:
    """split -> (file of images, file of labels)."""
    names = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else None
    found: dict[tuple[str, str], Path] = {}
    for match in filter(None, map(_NAME.fullmatch, names or [])):
        key = "train" if match["split"] == "train" else "test", match["kind"]
        other = found.get(key)
        if other is not None and other.name.removesuffix(".gz") != match[0].removesuffix(".gz"):
            raise DataError(f"{folder} has several files of {key[0]} {key[1]}, {other.name} and {match[0]}; keep one.")
        found.setdefault(key, folder / match[0])  # the plain file sorts before its .gz
    if not found:
        there = "there is no such folder" if names is None else f"the folder has {names[:10] or 'nothing in it'}"
        raise DataError(
            f"Looked in {folder} for train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and "
            f"t10k-labels-idx1-ubyte, plain or with .gz, but {there}."
        )
    pairs = {}
    for split in ("train", "test"):
        kinds = [kind for kind in _AXES if (split, kind) in found]
        if len(kinds) == 1:
            absent = "labels" if kinds == ["images"] else "images"
            raise DataError(f"{folder} has {found[split, kinds[0]].name}, but not the {absent} that belong to it.")
        if kinds:
            pairs[split] = found[split, "images"], found[split, "labels"]
    return pairs


def _read(file: Path, kind: str) -> Tensor:
    """The array in a file, uint8. No more of a gzip file is unpacked than its header promises."""
    axes = _AXES[kind]
    header = 4 + 4 * axes
    raw, _ = _unpacked(file, header)
    if len(raw) < header:
        raise DataError(f"{file} is cut off: a header of {header} bytes was expected, but it has {len(raw)} bytes.")
    magic, *shape = struct.unpack_from(f">{1 + axes}I", raw)
    if magic != 0x0800 + axes:
        raise DataError(
            f"{file} is not an IDX file of {kind}: it should start with the magic number {0x0800 + axes}, but starts "
            f"with {magic}."
        )
    expected = header + math.prod(shape)
    if expected > MOST_EXPANDED * file.stat().st_size:
        raise DataError(
            f"{file} is cut off: with its shape {shape} it should have {expected} bytes, which {file.stat().st_size} "
            "bytes cannot hold; download it again."
        )
    raw, has_end = _unpacked(file, expected + 1)
    if len(raw) != expected:
        has = f"has {len(raw)}" if len(raw) < expected else "has more"
        raise DataError(
            f"{file} is {'cut off' if len(raw) < expected else 'too long'}: with its shape {shape} it should have "
            f"{expected} bytes{' unpacked' if file.suffix == '.gz' else ''}, but {has}; download it again."
        )
    if not has_end:
        raise DataError(f"{file} is cut off within the checksum at its end; download it again.")
    return torch.frombuffer(bytearray(raw), dtype=torch.uint8)[header:].reshape(shape)


def _unpacked(file: Path, most: int) -> tuple[bytes, bool]:
    """At most `most` bytes of a file, unpacked where it is a gzip file, and whether that has its end.

    A gzip file that is cut off gives what it has: the IDX header then says how much is missing.
    """
    with file.open("rb") as opened:
        start = opened.read(2)
        opened.seek(0)
        if start != b"\x1f\x8b":
            return opened.read(most), True
        unpacker = zlib.decompressobj(wbits=31)  # gzip's format, with its checksum
        unpacked = bytearray()
        try:
            while len(unpacked) < most and not unpacker.eof:
                packed = unpacker.unconsumed_tail or opened.read(PIECE)
                if not packed:
                    break
                unpacked += unpacker.decompress(packed, most - len(unpacked))
        except zlib.error as error:
            raise DataError(f"{file} is a corrupt gzip file ({error}); download it again.") from error
        return bytes(unpacked), unpacker.eof
