"""Two processes on the CPU that meet over gloo: for tests of what several do together."""

import os
import socket
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from accelerate import DistributedType, PartialState


def in_two_processes(work: Callable[..., None], *given: Any, start_method: str = "spawn") -> None:
    """`work(rank, *given)` in each of two processes, which find each other by the environment as under torchrun.

    work: a function of a module; it, or the Trainer that it starts, begins the process group.
    start_method: "fork" keeps what a test has replaced.
    """
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    torch.multiprocessing.start_processes(_one, (work, port, given), nprocs=2, start_method=start_method)


def sharding_on_the_cpu() -> None:
    """Has accelerate shard here what it is told to (`fsdp`): on CPUs it would train whole copies, and not say so."""
    begun = PartialState.__init__

    def as_if_on_gpus(self: PartialState, *given: Any, **more: Any) -> None:
        begun(self, *given, **more)
        if self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.MULTI_GPU

    PartialState.__init__ = as_if_on_gpus  # type: ignore[method-assign]


def _one(rank: int, work: Callable[..., None], port: int, given: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "ACCELERATE_USE_CPU": "1",
    }
    PartialState._reset_state()  # of the process that this one was forked from
    work(rank, *given)
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()
    os._exit(0)  # gloo's threads do not always survive Python's own end
