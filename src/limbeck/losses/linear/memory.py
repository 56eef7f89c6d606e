"""Settings of the memory allocator."""

from functools import cache

import torch


@cache
def keep_freed_memory() -> None:
    """Makes glibc keep up to 62 MiB of freed memory, which it does once a block of 31 MiB has been freed.

    Otherwise it returns a block's temporaries to the system after each operation, and most of the time goes into page
    faults.
    """
    torch.empty(31 * 2**20, dtype=torch.uint8)
