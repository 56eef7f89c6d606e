"""Runs a teacher on the rows of a transfer set and adds its targets to them as columns.

What this file does not know: files, resuming, other processes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env

from limbeck.errors import ConfigError, ShapeError, TargetError
from limbeck.losses.divergences import forward_kl
from limbeck.losses.targets import Head, SoftTargets, hidden_states
from limbeck.networks.asking import TARGET_PREFIX, Batch, device_of, is_placed, networks_of
from limbeck.networks.positions import Positions, next_token_positions
from limbeck.networks.tasks import require_several_classes
from limbeck.store.columns import ColumnFormat, to_arrow, to_numpy
from limbeck.store.kinds import Kind
from limbeck.store.manifest import NEXT_TOKENS, Plan, target_columns
from limbeck.store.opened import batch_of
from limbeck.store.rows import Rows
from limbeck.teachers import BaseTeacher
from limbeck.teachers.protocol import Augment
from limbeck.transfer import draws


@dataclass(frozen=True)
class AnswerFormat:
    """What the first batch shows of all: the classes and dtype of the teacher's targets, and the columns they take.

    row_bytes: the mean size of a row without targets.
    """

    classes: int
    hidden_size: int | None
    dtype: str
    positions_are: str
    columns: dict[str, ColumnFormat]
    row_bytes: float


@dataclass(frozen=True)
class Answers:
    """Some rows, the targets of each view of them, and the number of positions of each row, `counts [n]`."""

    table: pa.Table
    views: list[SoftTargets]
    counts: np.ndarray


class Labeller:
    """Gives the rows of a transfer set the targets of a teacher.

    augment, views: as for `label`. seed: of the draws. device: where batches go.
    """

    def __init__(
        self,
        teacher: BaseTeacher,
        kind: Kind,
        rows: Rows,
        augment: Augment | None,
        views: int,
        seed: int,
        device: torch.device,
    ):
        self.teacher, self.kind, self.rows, self.augment = teacher, kind, rows, augment
        self.views, self.seed, self.device = views, seed, device
        self.head: Head | None = None  # to be stored too, where hidden states are
        self._cached: tuple[range, SoftTargets] | None = None  # the answer of `first`, until those rows are next

    def first(self, batch_size: int) -> AnswerFormat:
        """Runs the teacher on the first rows. The answer is cached, in case they are a batch of the first shard."""
        places = range(min(batch_size, len(self.rows)))
        table = self.rows.table(places)
        batch = self._batch(table, places)
        positions = self._positions(batch)
        targets = self._answer(batch, 0, positions)
        require_several_classes(targets.num_classes, "teacher")
        positions_are = NEXT_TOKENS if self.rows.is_language else "examples"
        if not self.rows.is_language and len(targets) != len(table):
            positions_are = "tokens"
            if self.augment is not None:
                raise ConfigError(
                    "Views are stored for whole examples, but this teacher classifies each token; remove augment "
                    "(--jitter)."
                )
        self._require_all(targets, batch, table, positions_are, positions)
        self._cached = places, targets
        given, head = hidden_states(targets) or (getattr(targets, "logits", torch.empty(0)), None)
        if self.kind.name == "hidden":
            self.head = head
        hidden_size = None if head is None else head.weight.shape[1]
        views = None if self.augment is None else self.views
        return AnswerFormat(
            targets.num_classes,
            hidden_size,
            str(given.dtype).removeprefix("torch."),
            positions_are,
            target_columns(self.kind, targets.num_classes, hidden_size, positions_are, views),
            table.nbytes / len(table),
        )

    def answers(self, places: range, plan: Plan | AnswerFormat, batch_size: int) -> Iterator[Answers]:
        """The answers for the rows at these places, batch by batch; ShapeError where the number of classes changes."""
        for start in range(places.start, places.stop, batch_size):
            some = range(start, min(start + batch_size, places.stop))
            table = self.rows.table(some)
            batch = self._batch(table, some)
            positions, views = self._positions(batch), []
            for view in range(self.views):
                targets = self._cached_or_new(some, batch, view, positions)
                counts = self._require_all(targets, batch, table, plan.positions_are, positions)
                if targets.num_classes != plan.classes:
                    raise ShapeError(
                        f"The teacher gives {targets.num_classes} classes in the batch that begins with row "
                        f"{some.start}, but gave {plan.classes} before; the number must be the same in all batches."
                    )
                real = np.ones(len(targets), np.bool_)
                if plan.positions_are == "tokens":  # without padding
                    real = (np.arange(len(targets) // len(table)) < counts[:, None]).reshape(-1)
                views.append(targets[torch.from_numpy(real)])  # a copy: the next answer may reuse the memory
            yield Answers(table, views, counts)

    def encode(self, answers: Answers, plan: Plan, generator: torch.Generator, shard: "ShardRows") -> None:
        """Adds the rows and their encoded targets to the shard.

        generator: the shard's, used batch after batch.
        """
        views: list[dict[str, np.ndarray]] = []
        table, counts = answers.table, answers.counts
        for targets in answers.views:
            try:
                views.append(self.kind.encode(targets, generator))
            except TargetError:
                self._require_distributions(targets, table, counts)
                raise
        for name, values in views[0].items():
            stacked = values if self.augment is None else np.stack([view[name] for view in views], 1)
            column = plan.columns[TARGET_PREFIX + name]
            lengths = counts if column.is_list else None
            table = table.append_column(TARGET_PREFIX + name, to_arrow(stacked, column, lengths))
        shard.add(table, int(counts.sum()))

    def generator(self, shard: int) -> torch.Generator:
        """The generator of a shard's draws."""
        stream = draws.bits(self.seed, draws.BEFORE_TRAINING, torch.tensor([shard]), 1)
        return torch.Generator(self.device).manual_seed(int(stream))

    def _cached_or_new(self, places: range, batch: Batch, view: int, positions: Positions | None) -> SoftTargets:
        """The targets for a view of the batch, from `first` where these are its rows."""
        cached, self._cached = self._cached, None
        if cached is not None and (places, 0) == (cached[0], view):
            return cached[1]
        return self._answer(batch, view, positions)

    def _answer(self, batch: Batch, view: int, positions: Positions | None) -> SoftTargets:
        """The teacher's targets for a view of the batch."""
        return self.teacher(batch if self.augment is None else self.augment(batch, view), positions)

    def _positions(self, batch: Batch) -> Positions | None:
        """The positions of a language model's batch; None for others."""
        return next_token_positions(batch) if self.rows.is_language else None

    def _batch(self, table: pa.Table, places: range) -> Batch:
        columns = self.rows.columns
        batch = batch_of(lambda name: to_numpy(table.column(name), columns[name]), columns)
        rows = self.rows.rows_of_table(places)
        moved: dict[str, Any] = {name: values.to(self.device) for name, values in batch.items()}
        return moved if rows is None else moved | {"table_rows": rows}

    def _require_all(
        self, targets: SoftTargets, batch: Batch, table: pa.Table, positions_are: str, positions: Positions | None
    ) -> np.ndarray:
        """The number of positions of each row, `[n]`; ShapeError unless the targets have as many in all."""
        counts = self.rows.positions(table, positions_are)
        expected = int(counts.sum())
        if positions is not None and positions.rows is not None:
            of_row = positions.rows // batch["labels"].shape[1]
            counts = torch.bincount(of_row, minlength=len(table)).cpu().numpy()
            expected = len(of_row)
        elif positions_are == "tokens":
            expected = len(table) * int(next(iter(batch.values())).shape[1])
        if len(targets) != expected:
            raise ShapeError(
                f"The teacher gave targets for {len(targets)} positions, but the batch has {expected}; it must return "
                "one row per position."
            )
        return counts

    def _require_distributions(self, targets: SoftTargets, table: pa.Table, counts: np.ndarray) -> None:
        """TargetError that names the example of the first row that is not a probability distribution."""
        bad = targets.bad_rows(forward_kl).cpu().numpy()
        if bad.any():
            row = np.repeat(table.column("row_id").to_numpy(), counts)[bad.argmax()]
            raise TargetError(
                f"The teacher gave nan, infinity or an impossible distribution for the example with row_id {row} "
                f"({int(bad.sum())} of {len(bad)} positions of its batch); look at that example, or at the teacher's "
                "dtype. The shards written before remain."
            )


class ShardRows:
    """Collects the rows of a shard, and counts their positions.

    They are in one buffer of Arrow's. Small long-lived allocations between the temporaries of the teacher's passes
    would fragment the memory, so that each pass takes more of it.
    """

    def __init__(self) -> None:
        self.positions = 0
        self._memory: Any = pa.BufferOutputStream()
        self._stream: Any = None

    def add(self, table: pa.Table, positions: int) -> None:
        """Appends rows."""
        if self._stream is None:
            self._stream = pa.ipc.new_stream(self._memory, table.schema)
        self._stream.write_table(table)
        self.positions += positions

    def table(self) -> pa.Table:
        """All rows as one table."""
        self._stream.close()
        return pa.ipc.open_stream(self._memory.getvalue()).read_all().combine_chunks()


def this_process() -> PartialState:
    """The number and the device of this process."""
    on_cpu = not torch.accelerator.is_available() or parse_flag_from_env("ACCELERATE_USE_CPU")
    return PartialState(cpu=on_cpu)  # without it, one of several processes on the CPU takes itself for the only one


def make_current(device: torch.device) -> None:
    """Makes a CUDA device the current one of the calling thread; does nothing for another device.

    A new thread has no CUDA context until it calls the runtime, and cuBLAS warns where it is the first to need one.
    """
    if device.type == "cuda":
        torch.cuda.set_device(torch.cuda.current_device() if device.index is None else device)
        torch.cuda.synchronize()  # set_device may skip the call for the device that is the default


def settle(teacher: BaseTeacher, device: torch.device) -> torch.device:
    """The teacher's device, for the batches; a teacher on the CPU is first moved to the process's device."""
    networks = [network for network in networks_of(teacher) or [] if not is_placed(network)]
    where = next(filter(None, map(device_of, networks)), device)
    if where.type == "cpu" and device.type != "cpu":
        teacher.to(device)
        return next(filter(None, map(device_of, networks)), device)  # some teachers cannot be moved
    return where
