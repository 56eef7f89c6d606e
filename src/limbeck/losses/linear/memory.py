"""What is asked of the allocator, once."""

from functools import cache

import torch


@cache
def keep_freed_memory() -> None:
    """Has glibc keep up to 62 MiB that are freed, as it does once a block of 31 MiB was.

    Else it gives a block's temporaries back to the system after each operation, and page faults take most of the time.
    """
    torch.empty(31 * 2**20, dtype=torch.uint8)
