"""Oracle: SplitMix64 in plain Python integers, its published first outputs, and moments of the uniform law."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from limbeck.transfer import draws

WORD = 2**64 - 1


def mix(z: int) -> int:
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & WORD
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & WORD
    return z ^ (z >> 31)


def outputs(seed: int, count: int) -> list[int]:
    return [mix((seed + i * 0x9E3779B97F4A7C15) & WORD) for i in range(1, count + 1)]


def test_the_oracle_is_splitmix64() -> None:
    # The first outputs for the seed 1234567, as on Rosetta Code and in the reference implementation.
    assert outputs(1234567, 3) == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@given(st.integers(0, 2**63 - 1), st.integers(-1, 2**40), st.integers(-(2**63), 2**63 - 1), st.integers(0, 5))
def test_bits_are_those_of_splitmix64(seed: int, epoch: int, row: int, start: int) -> None:
    stream = mix((mix((mix(seed) + epoch) & WORD) + row) & WORD)
    expected = outputs(stream, start + 3)[start:]
    got = draws.bits(seed, epoch, torch.tensor([row, 5]), 3, start=start)
    assert [value & WORD for value in got[0].tolist()] == expected


def test_uniform_takes_the_upper_24_bits() -> None:
    got = draws.uniform(0, 0, torch.tensor([0]), 3)
    assert got.dtype == torch.float32
    assert got[0].tolist() == [(word >> 40) / 2**24 for word in outputs(0, 3)]


def test_uniform_is_uniform_and_uncorrelated() -> None:
    numbers = draws.uniform(3, 1, torch.arange(20_000), 4).double()
    assert numbers.min() >= 0
    assert numbers.max() < 1
    counts = torch.histc(numbers, bins=100, min=0, max=1)
    chi_square = ((counts - 800) ** 2 / 800).sum()
    assert 60 < chi_square < 149  # 99 degrees of freedom: 0.1 % on either side
    correlations = torch.corrcoef(numbers.T) - torch.eye(4)
    assert correlations.abs().max() < 4 / 20_000**0.5
    neighbours = torch.corrcoef(torch.stack([numbers[1:, 0], numbers[:-1, 0]]))[0, 1]
    assert neighbours.abs() < 4 / 20_000**0.5


@pytest.mark.parametrize(("seed", "epoch"), [(1, 0), (0, 1), (0, -1)])
def test_other_seeds_and_epochs_draw_other_numbers(seed: int, epoch: int) -> None:
    rows = torch.arange(5_000)
    one, other = draws.uniform(0, 0, rows, 1), draws.uniform(seed, epoch, rows, 1)
    assert torch.corrcoef(torch.cat([one, other], dim=1).T)[0, 1].abs() < 4 / 5_000**0.5
    assert (one == other).sum() < 5
