"""Random numbers per example: a pure function of (seed, epoch, row id, number of the draw).

There is no generator state, so a resumed run, another number of workers or another order of the same
examples draws the same numbers. Every example has its SplitMix64 stream (Steele, Lea and Flood,
"Fast splittable pseudorandom number generators", 2014), in int64 arithmetic that wraps, on any device.

What this file does not know: what the numbers are used for.
"""

import torch
from torch import Tensor

BEFORE_TRAINING = -1
"""The epoch of draws outside training, such as a split: they share no number with any augmentation."""


def uniform(seed: int, epoch: int, row_id: Tensor, count: int, start: int = 0) -> Tensor:
    """`[n, count]` float32 in [0, 1), multiples of 2^-24: draws `start` to `start + count - 1` of every row."""
    return (_shift_right(bits(seed, epoch, row_id, count, start), 40)).to(torch.float32) * 2.0**-24


def bits(seed: int, epoch: int, row_id: Tensor, count: int, start: int = 0) -> Tensor:
    """`[n, count]` int64 of 64 random bits each, for `row_id` `[n]` int64.

    With mix the finaliser of SplitMix64, draw i of a row is output i of SplitMix64 seeded with
    mix(mix(mix(seed) + epoch) + row_id).
    """
    key = _mix(_mix(torch.tensor(seed)) + epoch)
    streams = _mix(row_id + int(key))
    steps = torch.arange(start + 1, start + count + 1, device=row_id.device) * _GAMMA
    return _mix(streams[:, None] + steps)


def _mix(z: Tensor) -> Tensor:
    z = (z ^ _shift_right(z, 30)) * _FIRST_FACTOR
    z = (z ^ _shift_right(z, 27)) * _SECOND_FACTOR
    return z ^ _shift_right(z, 31)


def _shift_right(z: Tensor, by: int) -> Tensor:
    """A logical shift, as for unsigned numbers: >> of int64 copies the sign into the upper bits."""
    return (z >> by) & ((1 << (64 - by)) - 1)


# SplitMix64's constants, as the int64 that has the same bits.
_GAMMA = 0x9E3779B97F4A7C15 - 2**64
_FIRST_FACTOR = 0xBF58476D1CE4E5B9 - 2**64
_SECOND_FACTOR = 0x94D049BB133111EB - 2**64
