"""Opening a labelled transfer set: its manifest, whether its files are there, its rows and its output layer.

What this file does not know: teachers, batches.
"""

import hashlib
from typing import Any

import datasets
from safetensors import SafetensorError
from safetensors.torch import load

from limbeck.errors import DataError, LimbeckError
from limbeck.losses.targets import Head
from limbeck.store.folder import UNFINISHED, Folder
from limbeck.store.kinds import kind_of
from limbeck.store.manifest import NAME, Manifest, target_columns
from limbeck.store.writing import HEAD, PLAN


def read_manifest(folder: Folder) -> Manifest:
    """What the set says of itself; DataError where it is unfinished, too new or damaged, or there is none.

    Damaged is also one whose kind is none that is known here, or keeps other columns than it names.
    """
    if folder.size(NAME) is None:
        if folder.size(PLAN) is not None:
            made = [name for name in folder.names(UNFINISHED) if name.startswith("part-") and name.endswith(".json")]
            raise DataError(
                f"{folder} is not finished: {len(made)} shards are there and no {NAME}; the same limbeck.label call "
                "goes on with it."
            )
        raise DataError(f"{folder} is no labelled transfer set: there is no {NAME}; limbeck.label makes one.")
    manifest = Manifest.from_json(folder.read(NAME), folder.at(NAME))
    _require_columns_of_kind(manifest, folder.at(NAME))
    return manifest


def _require_columns_of_kind(manifest: Manifest, file: str) -> None:
    views = None if manifest.augmentation is None else manifest.views
    try:
        kind = kind_of(manifest.kind)
        wanted = target_columns(kind, manifest.classes, manifest.hidden_size, manifest.positions_are, views)
    except (LimbeckError, TypeError, ValueError) as error:
        why = str(error).rstrip(".")
        raise DataError(f"{file} cannot be read: {why}; the labelled transfer set is damaged.") from error
    for name in wanted | manifest.targets:
        named, kept = manifest.targets.get(name), wanted.get(name)
        if named != kept:
            raise DataError(
                f"{file} has {name!r} as {named}, which {kind} over {manifest.classes} classes keeps as {kept}; the "
                "labelled transfer set is damaged."
            )


def require_files(folder: Folder, manifest: Manifest) -> None:
    """DataError that names a file that is missing, or is not as long as it was; what is in it is for `verify`."""
    for name, size in files(manifest).items():
        found = folder.size(name)
        if found is None:
            raise DataError(f"{folder.at(name)} is missing; bring it back, or label the transfer set again.")
        if found != size:
            raise DataError(
                f"{folder.at(name)} has {found:,} bytes and had {size:,} when it was written; bring back the whole "
                "file, or label the transfer set again."
            )


def files(manifest: Manifest) -> dict[str, int]:
    """The files that a set is made of, and their bytes."""
    shards = {shard.name: shard.bytes for shard in manifest.shards}
    return shards if manifest.head is None else shards | {HEAD: manifest.head["bytes"]}


def read_rows(folder: Folder, manifest: Manifest, cache_dir: str | None = None) -> Any:
    """All rows, in order, as a `datasets.Dataset` that is mapped into memory."""
    # named after what it holds: datasets would open what it cached of other files in the same place
    name = "labelled-" + hashlib.sha256(manifest.to_json()).hexdigest()[:16]
    quiet = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        return datasets.load_dataset(
            "parquet",
            name=name,
            data_files=[folder.at(shard.name) for shard in manifest.shards],
            split="train",
            cache_dir=cache_dir,
        )
    except datasets.exceptions.DatasetGenerationError as error:
        raise DataError(
            f"The shards of {folder} cannot be read: {error.__cause__ or error}; limbeck.verify says which."
        ) from error
    finally:
        if not quiet:
            datasets.enable_progress_bars()


def read_head(folder: Folder, manifest: Manifest) -> Head | None:
    """The teacher's output layer, where it is kept."""
    if manifest.head is None:
        return None
    try:
        tensors = load(folder.read(HEAD))
        return Head(tensors["weight"], tensors.get("bias"), manifest.head["logit_scale"], manifest.head["softcap"])
    except (SafetensorError, KeyError) as error:
        raise DataError(f"{folder.at(HEAD)} is damaged: {error}; bring it back, or label again.") from error
