"""Writing a stored set shard by shard, so that an interrupted call can resume.

    unfinished/plan.json              first: what the set is
    part-00000-of-00010.parquet       under a temporary name until it is complete
    unfinished/part-00000-...json     after that: rows, bytes, SHA-256; a shard without its record does not count
    head.safetensors                  the teacher's output layer, where hidden states are stored
    manifest.json                     last; then `unfinished` is removed

What this file does not know: teachers, how rows are made.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from importlib.metadata import version
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.torch import save

from limbeck._version import __version__
from limbeck.errors import DataError
from limbeck.losses.targets import Head
from limbeck.networks.asking import TARGET_PREFIX
from limbeck.store.columns import ColumnFormat
from limbeck.store.folder import UNFINISHED, Folder
from limbeck.store.manifest import NAME, Manifest, Plan, Shard

PLAN = f"{UNFINISHED}/plan.json"
HEAD = "head.safetensors"
GROUP_BYTES = 2**20  # of a Parquet row group, uncompressed: its writer takes ten times as much memory
LIBRARIES = ("torch", "transformers", "datasets", "pyarrow")


def found_plan(folder: Folder) -> Plan | None:
    """Returns the manifest of a finished set, the plan of an unfinished one, or None for an empty folder.

    DataError where the folder has other files.
    """
    names = folder.names()
    if NAME in names:
        return Manifest.from_json(folder.read(NAME), folder.at(NAME))
    if UNFINISHED in names and folder.size(PLAN) is not None:
        return Plan.from_json(folder.read(PLAN), folder.at(PLAN))
    if set(names) - {UNFINISHED}:
        raise DataError(f"{folder} is not empty and is not a stored set; pass another path.")
    return None


class Writer:
    """Writes the files of a plan; several processes may share the work, each with different shards.

    encodings: Parquet's encoding of each target column that needs another than the dictionary.
    """

    def __init__(self, folder: Folder, plan: Plan, encodings: Mapping[str, str]):
        self.folder, self.plan = folder, plan
        pixels = [name for name, layout in plan.columns.items() if layout.dtype == "uint8" and layout.shape]
        self.encodings = {name: "BYTE_STREAM_SPLIT" for name in pixels if name not in plan.targets}
        self.encodings |= {TARGET_PREFIX + name: encoding for name, encoding in encodings.items()}

    def begin(self, head: Head | None) -> None:
        """Writes the plan and the output layer, where they are missing; called by one process.

        head: the teacher's output layer, where hidden states are stored.
        """
        if self.folder.size(PLAN) is None:
            self.folder.write(PLAN, lambda stream: stream.write(self.plan.to_json()))
        if head is not None and self._record(HEAD) is None:
            tensors = {"weight": head.weight.detach().cpu().contiguous()}
            if head.bias is not None:
                tensors["bias"] = head.bias.detach().cpu().contiguous()
            written = self.folder.write(HEAD, lambda stream: stream.write(save(tensors)))
            self._note(HEAD, {**written, "logit_scale": head.logit_scale, "softcap": head.softcap})

    def missing(self) -> list[int]:
        """The numbers of the shards that are not complete yet."""
        there = {name.removesuffix(".json") for name in self.folder.names(UNFINISHED)}
        names = self.plan.shard_names
        return [i for i, name in enumerate(names) if name not in there or self._record(name) is None]

    def write(self, shard: int, table: pa.Table, positions: int) -> None:
        """Writes a shard and its record. positions: how many positions of its rows have targets."""
        name = self.plan.shard_names[shard]
        written = self.folder.write(name, lambda stream: _write_parquet(stream, table, self.encodings))
        self._note(name, asdict(Shard(name, len(table), positions, **written)))

    def finish(self) -> Manifest:
        """Writes and returns the manifest; called by one process. DataError where a shard is missing."""
        if missing := self.missing():
            raise DataError(
                f"{self.folder} still lacks {self.plan.shard_names[missing[0]]} ({len(missing)} shards in all); repeat "
                "the call to write what is missing."
            )
        records = [self._record(name) for name in self.plan.shard_names]
        settings: dict[str, Any] = {f.name: getattr(self.plan, f.name) for f in fields(Plan)}
        manifest = Manifest(
            **settings,
            shards=tuple(Shard(**record) for record in records if record is not None),
            head=self._record(HEAD),
            versions={"limbeck": __version__} | {name: version(name) for name in LIBRARIES},
        )
        self.folder.write(NAME, lambda stream: stream.write(manifest.to_json()))
        self.folder.remove(UNFINISHED)
        return manifest

    def _note(self, name: str, record: Mapping[str, Any]) -> None:
        content = json.dumps(record).encode()
        self.folder.write(f"{UNFINISHED}/{name}.json", lambda stream: stream.write(content))

    def _record(self, name: str) -> dict[str, Any] | None:
        """The record of a file that is as long as when it was written; None for any other."""
        record_name = f"{UNFINISHED}/{name}.json"
        if self.folder.size(record_name) is None:
            return None
        try:
            record: dict[str, Any] = json.loads(self.folder.read(record_name))
            return record if self.folder.size(name) == record["bytes"] else None
        except (DataError, ValueError, KeyError, TypeError, RecursionError):
            return None  # as if it had not been written: the file is made again


def require_room(folder: Folder, plan: Plan, positions: int) -> None:
    """DataError where the disk has less room than the targets of this many positions take, uncompressed."""
    need, free = plan.views * positions * bytes_per_position(plan.targets), folder.free()
    if free is not None and need > free:
        raise DataError(
            f"{folder} needs about {need / 1e9:,.2f} GB ({need:,} bytes) for the targets of {positions:,} positions, "
            f"but {free / 1e9:,.2f} GB ({free:,} bytes) are free there; make room, keep less of each position, or give "
            "another path."
        )


def bytes_per_position(targets: Mapping[str, ColumnFormat]) -> int:
    """The uncompressed bytes of one row of one view."""
    return sum(layout.bytes for layout in targets.values())


def _write_parquet(stream: Any, table: pa.Table, encodings: Mapping[str, str]) -> None:
    """Writes the table with zstd; columns without a given encoding use a dictionary where it helps."""
    leaves = {name: _leaf(table.schema.field(name)) for name in encodings}
    others = [_leaf(field) for field in table.schema if field.name not in encodings]
    pq.write_table(
        table,
        stream,
        row_group_size=max(1, int(GROUP_BYTES * len(table) / max(1, table.nbytes))),
        compression="zstd",
        use_dictionary=others,
        column_encoding={leaves[name]: encoding for name, encoding in encodings.items()} or None,
        write_page_checksum=True,
    )


def _leaf(field: pa.Field) -> str:
    """The path of a column's values inside Parquet."""
    path, kind = str(field.name), field.type
    while pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        path, kind = f"{path}.list.element", kind.value_type
    return path
