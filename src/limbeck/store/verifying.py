"""Verification of the files of a stored set: every byte, every row, every target.

What this file does not know: teachers.
"""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from limbeck.errors import LimbeckError
from limbeck.losses.divergences import forward_kl
from limbeck.losses.targets import Head
from limbeck.networks.asking import TARGET_PREFIX
from limbeck.store.columns import to_numpy
from limbeck.store.folder import Folder
from limbeck.store.kinds import Kind, kind_of
from limbeck.store.manifest import Manifest, Shard
from limbeck.store.reading import OTHER_BYTES, files, read_head
from limbeck.store.writing import HEAD

AT_ONCE = 2**13  # positions that are decoded at a time


def damage(folder: Folder, manifest: Manifest) -> list[str]:
    """The problems of the files, one sentence each, which names the file; empty where all are as written."""
    found, kind, head = [], kind_of(manifest.kind), None
    hashes = {shard.name: shard.sha256 for shard in manifest.shards}
    if manifest.head is not None:
        hashes[HEAD] = manifest.head["sha256"]
    whole = set()
    for name, size in files(manifest).items():
        if problem := _problem(folder, name, size, hashes[name]):
            found.append(f"{folder.at(name)} {problem}.")
        else:
            whole.add(name)
    if HEAD in whole:
        try:
            head = read_head(folder, manifest)
        except LimbeckError as error:
            found.append(str(error))
    ids = []
    for shard in manifest.shards:
        if shard.name not in whole:
            continue
        try:
            with folder.open(shard.name) as file:
                table = pq.read_table(file, page_checksum_verification=True)
            wrong = _wrong_rows(table, shard, manifest, kind, head)
            ids.append(table.column("row_id").to_numpy().astype(np.int64))
        except Exception as error:  # of whatever reads a file that is not what its manifest describes
            wrong = [f"it cannot be read: {type(error).__name__}: {error}."]
        found += [f"{folder.at(shard.name)}: {what}" for what in wrong]
    known, times = np.unique(np.concatenate(ids or [np.empty(0, np.int64)]), return_counts=True)
    if (times > 1).any():
        found.append(f"{folder}: row_id {known[times > 1][0]} occurs in several rows ({(times > 1).sum()} such ids).")
    return found


def _problem(folder: Folder, name: str, size: int, sha256: str) -> str | None:
    """What is wrong with the bytes of a file, in words."""
    if problem := folder.problem(name, size):
        return problem
    try:
        return None if folder.sha256(name) == sha256 else OTHER_BYTES
    except OSError as error:
        return f"cannot be read: {error}"


def _wrong_rows(table: pa.Table, shard: Shard, manifest: Manifest, kind: Kind, head: Head | None) -> list[str]:
    """The first problem of a shard's rows: missing ones, or targets that are not a probability distribution."""
    if missing := [name for name in manifest.columns if name not in table.column_names]:
        return [f"the column {missing[0]!r} is missing."]
    if len(table) != shard.rows:
        return [f"{len(table)} rows, but the manifest has {shard.rows}."]
    if kind.name == "hidden" and head is None:
        return []  # the missing output layer is reported already
    columns, counts = {}, np.ones(len(table), np.int64)
    for name, column in manifest.targets.items():
        values, lengths = to_numpy(table.column(name), column)
        counts = counts if lengths is None else lengths
        width = 1 if column.shape in ((), (None,)) else values.shape[-1]
        columns[name.removeprefix(TARGET_PREFIX)] = values.reshape(-1, width)
    of_row = np.repeat(np.arange(len(table)), counts * manifest.views)
    lengths_of = {len(values) for values in columns.values()}
    if lengths_of != {len(of_row)} or counts.sum() != shard.positions:
        return [f"targets of {sorted(lengths_of)} positions, but the manifest has {shard.positions}."]
    for start in range(0, len(of_row), AT_ONCE):
        some = {name: torch.from_numpy(np.array(v[start : start + AT_ONCE])) for name, v in columns.items()}
        try:
            bad = kind.decode(some, manifest.classes, head).bad_rows(forward_kl).numpy()
        except (LimbeckError, RuntimeError) as error:
            return [f"its targets cannot be read: {error}"]
        if bad.any():
            row = table.column("row_id")[int(of_row[start + bad.argmax()])]
            return [f"the targets of row_id {row} are not a probability distribution over {manifest.classes} classes."]
    return []
