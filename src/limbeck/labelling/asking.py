"""A teacher asked about rows: the same rows come back with columns of what it said about them.

What this file does not know: files, resuming, who else is asking.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env

from limbeck.divergences import forward_kl
from limbeck.errors import ConfigError, ShapeError, TargetError
from limbeck.labelled import Batch, batch_of
from limbeck.labelling.rows import Rows
from limbeck.language.positions import next_tokens
from limbeck.models import TARGET_PREFIX, device_of, is_placed, networks_of
from limbeck.store.columns import Kept, to_arrow, to_numpy
from limbeck.store.kinds import Kind
from limbeck.store.manifest import Plan, target_columns
from limbeck.targets import Head, HiddenTargets, SoftTargets
from limbeck.teachers.model import Teacher
from limbeck.transfer import draws


@dataclass(frozen=True)
class Said:
    """What the first batch tells of all: how the teacher speaks, and the columns in which that is kept."""

    classes: int
    hidden_size: int | None
    dtype: str
    positions_are: str
    columns: dict[str, Kept]
    row_bytes: float


class Asking:
    """Who is asked about which rows, and what is kept of it. device: where batches go."""

    def __init__(
        self, teacher: Teacher, kind: Kind, rows: Rows, augment: Any, views: int, seed: int, device: torch.device
    ):
        self.teacher, self.kind, self.rows, self.augment = teacher, kind, rows, augment
        self.views, self.seed, self.device = views, seed, device
        self.head: Head | None = None  # to be kept too, where hidden states are

    def first(self, batch_size: int) -> Said:
        """Asks about the first rows, of which nothing is kept."""
        table = self.rows.table(range(min(batch_size, len(self.rows))))
        batch = self._batch(table)
        targets = self.teacher(batch if self.augment is None else self.augment(batch, 0))
        positions_are = "next tokens" if self.rows.is_language else "examples"
        if not self.rows.is_language and len(targets) != len(table):
            positions_are = "tokens"
            if self.augment is not None:
                raise ConfigError(
                    "Views are labelled of whole examples, but this teacher speaks of each token; leave augment out."
                )
        self._require_all(targets, batch, table, positions_are)
        head = targets.head if isinstance(targets, HiddenTargets) else None
        if self.kind.name == "hidden":
            self.head = head
        hidden_size = None if head is None else head.weight.shape[1]
        views = None if self.augment is None else self.views
        spoken = targets.hidden if isinstance(targets, HiddenTargets) else getattr(targets, "logits", torch.empty(0))
        return Said(
            targets.num_classes,
            hidden_size,
            str(spoken.dtype).removeprefix("torch."),
            positions_are,
            target_columns(self.kind, targets.num_classes, hidden_size, positions_are, views),
            table.nbytes / len(table),
        )

    def shard(self, shard: int, plan: Plan, batch_size: int, done: Callable[[int], Any]) -> tuple[pa.Table, int]:
        """The rows of a shard with their targets, and on how many positions the teacher spoke. `done(n)` counts."""
        places, tables, positions = plan.rows_of(shard), [], 0
        stream = draws.bits(self.seed, draws.BEFORE_TRAINING, torch.tensor([shard]), 1)
        generator = torch.Generator(self.device).manual_seed(int(stream))
        for start in range(places.start, places.stop, batch_size):
            table = self.rows.table(range(start, min(start + batch_size, places.stop)))
            said, counts = self._ask(table, plan, generator)
            for name, values in said.items():
                kept = plan.columns[name]
                table = table.append_column(name, to_arrow(values, kept, counts if kept.is_list else None))
            positions += int(counts.sum())
            tables.append(table)
            done(len(table))
        return pa.concat_tables(tables).combine_chunks(), positions

    def _ask(self, table: pa.Table, plan: Plan, generator: torch.Generator) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """The target columns of these rows, position by position, and how many positions each row has."""
        batch = self._batch(table)
        views: list[dict[str, np.ndarray]] = []
        for view in range(self.views):
            targets = self.teacher(batch if self.augment is None else self.augment(batch, view))
            counts = self._require_all(targets, batch, table, plan.positions_are)
            if plan.positions_are == "tokens":  # not those of padding
                width = len(targets) // len(table)
                targets = targets[torch.from_numpy((np.arange(width) < counts[:, None]).reshape(-1)).to(self.device)]
            self._require_distributions(targets, table, counts)
            views.append(self.kind.encode(targets, generator))
        if self.augment is None:
            return {TARGET_PREFIX + name: values for name, values in views[0].items()}, counts
        return {TARGET_PREFIX + name: np.stack([said[name] for said in views], 1) for name in views[0]}, counts

    def _batch(self, table: pa.Table) -> Batch:
        columns = self.rows.columns
        batch = batch_of(lambda name: to_numpy(table.column(name), columns[name]), columns)
        return {name: values.to(self.device) for name, values in batch.items()}

    def _require_all(self, targets: SoftTargets, batch: Batch, table: pa.Table, positions_are: str) -> np.ndarray:
        """How many positions each row has, `[n]`; ShapeError unless the teacher spoke of them all."""
        counts = self.rows.positions(table, positions_are)
        spoken = int(counts.sum())
        if positions_are == "next tokens":
            of_row = next_tokens(batch).rows // batch["labels"].shape[1]
            counts = torch.bincount(of_row, minlength=len(table)).cpu().numpy()
            spoken = len(of_row)
        elif positions_are == "tokens":
            spoken = len(table) * int(next(iter(batch.values())).shape[1])
        if len(targets) != spoken:
            raise ShapeError(
                f"The teacher spoke of {len(targets)} positions, but the batch has {spoken}; the teacher must return "
                "one row per position."
            )
        return counts

    def _require_distributions(self, targets: SoftTargets, table: pa.Table, counts: np.ndarray) -> None:
        bad = targets.bad_rows(forward_kl).cpu().numpy()
        if bad.any():
            row = np.repeat(table.column("row_id").to_numpy(), counts)[bad.argmax()]
            raise TargetError(
                f"The teacher gave nan, infinity or an impossible distribution for the example with row_id {row} "
                f"({int(bad.sum())} of {len(bad)} positions of its batch); look at that example, or at the teacher's "
                "dtype. What was written before stays."
            )


def this_process() -> PartialState:
    """One of how many this is, and its own device."""
    on_cpu = not torch.accelerator.is_available() or parse_flag_from_env("ACCELERATE_USE_CPU")
    return PartialState(cpu=on_cpu)  # without, it takes one of several on the CPU for the only one


def settle(teacher: Teacher, device: torch.device) -> torch.device:
    """Where batches go: where the teacher is. One that is still on the CPU is moved to the process's own device."""
    networks = [network for network in networks_of(teacher) or [] if not is_placed(network)]
    where = next(filter(None, map(device_of, networks)), device)
    if where.type == "cpu" and device.type != "cpu" and hasattr(teacher, "to"):
        teacher.to(device)
        return device
    return where
