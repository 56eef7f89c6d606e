"""A teacher asked about rows, and the same rows with columns of what it said about them.

What this file does not know: files, resuming, who else is asking.
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
from limbeck.networks.asking import TARGET_PREFIX, device_of, is_placed, networks_of
from limbeck.networks.positions import Positions, next_token_positions
from limbeck.networks.tasks import require_several_classes
from limbeck.store.columns import Kept, to_arrow, to_numpy
from limbeck.store.kinds import Kind
from limbeck.store.manifest import NEXT_TOKENS, Plan, target_columns
from limbeck.store.opened import Batch, batch_of
from limbeck.store.rows import Rows
from limbeck.teachers import BaseTeacher
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


@dataclass(frozen=True)
class Asked:
    """Rows, what the teacher said of each view of them, and on how many positions of each row, `[n]`."""

    table: pa.Table
    views: list[SoftTargets]
    counts: np.ndarray


class Asking:
    """Who is asked about which rows, and what is kept of it. device: where batches go."""

    def __init__(
        self, teacher: BaseTeacher, kind: Kind, rows: Rows, augment: Any, views: int, seed: int, device: torch.device
    ):
        self.teacher, self.kind, self.rows, self.augment = teacher, kind, rows, augment
        self.views, self.seed, self.device = views, seed, device
        self.head: Head | None = None  # to be kept too, where hidden states are
        self._heard: tuple[range, SoftTargets] | None = None  # by `first`, until those rows are asked about

    def first(self, batch_size: int) -> Said:
        """Asks about the first rows. Where they turn out to be a batch of the first shard, they are not asked again."""
        places = range(min(batch_size, len(self.rows)))
        table = self.rows.table(places)
        batch = self._batch(table)
        positions = self._positions(batch)
        targets = self._answer(batch, 0, positions)
        require_several_classes(targets.num_classes, "teacher")
        positions_are = NEXT_TOKENS if self.rows.is_language else "examples"
        if not self.rows.is_language and len(targets) != len(table):
            positions_are = "tokens"
            if self.augment is not None:
                raise ConfigError(
                    "Views are labelled of whole examples, but this teacher speaks of each token; leave augment "
                    "(--jitter) out."
                )
        self._require_all(targets, batch, table, positions_are, positions)
        self._heard = places, targets
        spoken, head = hidden_states(targets) or (getattr(targets, "logits", torch.empty(0)), None)
        if self.kind.name == "hidden":
            self.head = head
        hidden_size = None if head is None else head.weight.shape[1]
        views = None if self.augment is None else self.views
        return Said(
            targets.num_classes,
            hidden_size,
            str(spoken.dtype).removeprefix("torch."),
            positions_are,
            target_columns(self.kind, targets.num_classes, hidden_size, positions_are, views),
            table.nbytes / len(table),
        )

    def ask(self, places: range, plan: Plan | Said, batch_size: int) -> Iterator[Asked]:
        """The rows at these places, batch by batch; ShapeError where the teacher speaks of other classes there."""
        for start in range(places.start, places.stop, batch_size):
            some = range(start, min(start + batch_size, places.stop))
            table = self.rows.table(some)
            batch = self._batch(table)
            positions, views = self._positions(batch), []
            for view in range(self.views):
                said = self._said(some, batch, view, positions)
                counts = self._require_all(said, batch, table, plan.positions_are, positions)
                if said.num_classes != plan.classes:
                    raise ShapeError(
                        f"The teacher speaks of {said.num_classes} classes in the batch that begins with row "
                        f"{some.start}, and spoke of {plan.classes} before; it must speak of the same in all batches."
                    )
                own = np.ones(len(said), np.bool_)
                if plan.positions_are == "tokens":  # not those of padding
                    own = (np.arange(len(said) // len(table)) < counts[:, None]).reshape(-1)
                views.append(said[torch.from_numpy(own)])  # a copy: what it says next may come to lie in the same place
            yield Asked(table, views, counts)

    def keep(self, asked: Asked, plan: Plan, generator: torch.Generator, kept: "Gathered") -> None:
        """Adds the rows with their targets, position by position. generator: of the shard, batch after batch."""
        views: list[dict[str, np.ndarray]] = []
        table, counts = asked.table, asked.counts
        for targets in asked.views:
            try:
                views.append(self.kind.encode(targets, generator))
            except TargetError:
                self._require_distributions(targets, table, counts)
                raise
        for name, values in views[0].items():
            said = values if self.augment is None else np.stack([view[name] for view in views], 1)
            column = plan.columns[TARGET_PREFIX + name]
            lengths = counts if column.is_list else None
            table = table.append_column(TARGET_PREFIX + name, to_arrow(said, column, lengths))
        kept.add(table, int(counts.sum()))

    def generator(self, shard: int) -> torch.Generator:
        """Of what is drawn in a shard."""
        stream = draws.bits(self.seed, draws.BEFORE_TRAINING, torch.tensor([shard]), 1)
        return torch.Generator(self.device).manual_seed(int(stream))

    def _said(self, places: range, batch: Batch, view: int, positions: Positions | None) -> SoftTargets:
        heard, self._heard = self._heard, None
        if heard is not None and (places, 0) == (heard[0], view):
            return heard[1]
        return self._answer(batch, view, positions)

    def _answer(self, batch: Batch, view: int, positions: Positions | None) -> SoftTargets:
        """The teacher's targets for a view of the batch."""
        return self.teacher(batch if self.augment is None else self.augment(batch, view), positions)

    def _positions(self, batch: Batch) -> Positions | None:
        """The positions of a language model's batch; None for others."""
        return next_token_positions(batch) if self.rows.is_language else None

    def _batch(self, table: pa.Table) -> Batch:
        columns = self.rows.columns
        batch = batch_of(lambda name: to_numpy(table.column(name), columns[name]), columns)
        return {name: values.to(self.device) for name, values in batch.items()}

    def _require_all(
        self, targets: SoftTargets, batch: Batch, table: pa.Table, positions_are: str, positions: Positions | None
    ) -> np.ndarray:
        """How many positions each row has, `[n]`; ShapeError unless the teacher spoke of them all."""
        counts = self.rows.positions(table, positions_are)
        spoken = int(counts.sum())
        if positions is not None and positions.rows is not None:
            of_row = positions.rows // batch["labels"].shape[1]
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
        """TargetError with the example of a row that is no distribution."""
        bad = targets.bad_rows(forward_kl).cpu().numpy()
        if bad.any():
            row = np.repeat(table.column("row_id").to_numpy(), counts)[bad.argmax()]
            raise TargetError(
                f"The teacher gave nan, infinity or an impossible distribution for the example with row_id {row} "
                f"({int(bad.sum())} of {len(bad)} positions of its batch); look at that example, or at the teacher's "
                "dtype. What was written before stays."
            )


class Gathered:
    """Rows of a shard, one table after the other, and on how many positions the teacher spoke.

    They lie in one piece of Arrow's memory. Small things that live long between the temporaries of the teacher's
    passes would have the allocator find no room there for those of the next pass, and take more.
    """

    def __init__(self) -> None:
        self.positions = 0
        self._memory: Any = pa.BufferOutputStream()
        self._stream: Any = None

    def add(self, table: pa.Table, positions: int) -> None:
        """The next rows."""
        if self._stream is None:
            self._stream = pa.ipc.new_stream(self._memory, table.schema)
        self._stream.write_table(table)
        self.positions += positions

    def table(self) -> pa.Table:
        """All of them."""
        self._stream.close()
        return pa.ipc.open_stream(self._memory.getvalue()).read_all().combine_chunks()


def this_process() -> PartialState:
    """One of how many this is, and its own device."""
    on_cpu = not torch.accelerator.is_available() or parse_flag_from_env("ACCELERATE_USE_CPU")
    return PartialState(cpu=on_cpu)  # without, it takes one of several on the CPU for the only one


def make_current(device: torch.device) -> None:
    """Makes a CUDA device the current one of the calling thread; does nothing for another device.

    A new thread has no CUDA context until it calls the runtime, and cuBLAS warns where it is the first to need one.
    """
    if device.type == "cuda":
        torch.cuda.set_device(torch.cuda.current_device() if device.index is None else device)
        torch.cuda.synchronize()  # set_device alone leaves out the call where the device has the default number


def settle(teacher: BaseTeacher, device: torch.device) -> torch.device:
    """The device for batches, which is the teacher's; a teacher on the CPU is first moved to the process's device."""
    networks = [network for network in networks_of(teacher) or [] if not is_placed(network)]
    where = next(filter(None, map(device_of, networks)), device)
    if where.type == "cpu" and device.type != "cpu":
        teacher.to(device)
        return next(filter(None, map(device_of, networks)), device)  # some teachers cannot be moved
    return where
