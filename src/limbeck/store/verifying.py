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
from limbeck.store.reading import files, read_head
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
        there = folder.size(name)
        if there is None:
            found.append(f"{folder.at(name)} is missing.")
        elif there != size:
            found.append(f"{folder.at(name)} has {there:,} bytes and had {size:,} when it was written.")
        elif folder.sha256(name) != hashes[name]:
            found.append(f"{folder.at(name)} has other bytes than were written: its SHA-256 differs.")
        else:
            whole.add(name)
    if HEAD in whole:
        head = read_head(folder, manifest)
    ids = []
    for shard in manifest.shards:
        if shard.name in whole:
            with folder.open(shard.name) as file:
                table = pq.read_table(file)
            ids.append(table.column("row_id").to_numpy())
            found += [f"{folder.at(shard.name)}: {what}" for what in _wrong_rows(table, shard, manifest, kind, head)]
    known, times = np.unique(np.concatenate(ids or [np.empty(0, np.int64)]), return_counts=True)
    if (times > 1).any():
        found.append(f"{folder}: row_id {known[times > 1][0]} occurs in several rows ({(times > 1).sum()} such ids).")
    if sum(shard.rows for shard in manifest.shards) != manifest.rows:
        found.append(f"{folder}: the shards have {sum(s.rows for s in manifest.shards)} rows, not {manifest.rows}.")
    return found


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
