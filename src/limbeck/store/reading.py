"""Opening a stored set: its manifest, the presence of its files, its rows and its output layer.

What this file does not know: teachers, batches.
"""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import datasets
import pyarrow as pa
from safetensors import SafetensorError
from safetensors.torch import load

from limbeck.errors import DataError, LimbeckError
from limbeck.losses.targets import Head
from limbeck.store.folder import UNFINISHED, Folder
from limbeck.store.kinds import kind_of
from limbeck.store.manifest import NAME, Manifest, target_columns
from limbeck.store.writing import HEAD, PLAN

OTHER_BYTES = "has other bytes than were written: its SHA-256 differs"


def read_manifest(folder: Folder) -> Manifest:
    """The manifest of the set; DataError where it is missing, unfinished, too new or damaged.

    A manifest with an unknown kind, or with other columns than its kind has, counts as damaged.
    """
    if folder.size(NAME) is None:
        if folder.size(PLAN) is not None:
            complete = [
                name for name in folder.names(UNFINISHED) if name.startswith("part-") and name.endswith(".json")
            ]
            raise DataError(
                f"{folder} is not finished: {len(complete)} shards are complete, but there is no {NAME}; repeat "
                "the limbeck.label call to resume it."
            )
        raise DataError(f"{folder} is not a stored set: there is no {NAME}; limbeck.label creates one.")
    manifest = Manifest.from_json(folder.read(NAME), folder.at(NAME))
    _require_columns_of_kind(manifest, folder.at(NAME))
    return manifest


def _require_columns_of_kind(manifest: Manifest, file: str) -> None:
    views = None if manifest.augmentation is None else manifest.views
    try:
        kind = kind_of(manifest.kind)
        wanted = target_columns(kind, manifest.classes, manifest.hidden_size, manifest.positions_are, views)
    except (LimbeckError, TypeError, ValueError, OverflowError) as error:
        why = str(error).rstrip(".")
        raise DataError(f"{file} cannot be read: {why}; the stored set is damaged.") from error
    for name in wanted | manifest.targets:
        named, expected = manifest.targets.get(name), wanted.get(name)
        if named != expected:
            raise DataError(
                f"{file} has {name!r} as {named}, but {kind} over {manifest.classes} classes has it as {expected}; the "
                "stored set is damaged."
            )


def require_files(folder: Folder, manifest: Manifest) -> None:
    """DataError for a file that is missing or has another length; bytes are checked where the file is read."""
    for name, size in files(manifest).items():
        if problem := folder.problem(name, size):
            raise DataError(f"{folder.at(name)} {problem}; restore the whole file, or label the transfer set again.")


def files(manifest: Manifest) -> dict[str, int]:
    """The names of the set's files, and their sizes in bytes."""
    shards = {shard.name: shard.bytes for shard in manifest.shards}
    return shards if manifest.head is None else shards | {HEAD: manifest.head["bytes"]}


def read_rows(folder: Folder, manifest: Manifest, cache_dir: str | None = None) -> datasets.Dataset:
    """All rows, in order, as a `datasets.Dataset` that is mapped into memory.

    Where datasets has no copy of them yet, every byte of the shards is checked before one is made.
    """
    # named after the content: datasets would otherwise open what it cached of other files at the same path
    name = "labelled-" + hashlib.sha256(manifest.to_json()).hexdigest()[:16]
    paths = [folder.at(shard.name) for shard in manifest.shards]
    source = {"path": "parquet", "name": name, "data_files": paths, "cache_dir": cache_dir}
    quiet = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        if not Path(datasets.load_dataset_builder(**source).cache_dir).exists():
            require_bytes(folder, manifest)
        rows = datasets.load_dataset(**source, split="train")
    except (datasets.exceptions.DatasetGenerationError, pa.ArrowException, OSError) as error:
        raise DataError(
            f"The shards of {folder} cannot be read: {error.__cause__ or error}; limbeck.verify names the damaged file."
        ) from error
    finally:
        if not quiet:
            datasets.enable_progress_bars()
    missing = [column for column in manifest.columns if column not in rows.column_names]
    if missing or len(rows) != manifest.rows:
        have = f"no column {missing[0]!r}" if missing else f"{len(rows):,} rows"
        raise DataError(f"The shards of {folder} have {have}, unlike their {NAME}; limbeck.verify names the file.")
    return rows


def require_bytes(folder: Folder, manifest: Manifest) -> None:
    """DataError for a shard whose bytes are not those that were written; several are read at a time."""
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        found = pool.map(lambda shard: folder.sha256(shard.name), manifest.shards)
        for shard, digest in zip(manifest.shards, found, strict=True):
            if digest != shard.sha256:
                raise DataError(f"{folder.at(shard.name)} {OTHER_BYTES}; restore it, or label the transfer set again.")


def read_head(folder: Folder, manifest: Manifest) -> Head | None:
    """The teacher's output layer, where it is stored; None elsewhere. DataError where its bytes were changed."""
    if manifest.head is None:
        return None
    content = folder.read(HEAD)
    if hashlib.sha256(content).hexdigest() != manifest.head["sha256"]:
        raise DataError(f"{folder.at(HEAD)} {OTHER_BYTES}; restore it, or label the transfer set again.")
    try:
        tensors = load(content)
        return Head(tensors["weight"], tensors.get("bias"), manifest.head["logit_scale"], manifest.head["softcap"])
    except (SafetensorError, KeyError, ValueError) as error:
        raise DataError(f"{folder.at(HEAD)} is damaged: {error}; restore it, or label again.") from error
