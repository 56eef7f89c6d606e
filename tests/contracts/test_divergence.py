"""What every divergence must do. A new one is a row of `ROWS` and inherits everything below.

Oracles: the formula over probabilities in NumPy float64, autograd, central finite differences.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from limbeck.errors import ShapeError
from limbeck.losses.divergences import (
    Divergence,
    cross_entropy,
    forward_kl,
    jensen_shannon,
    logit_matching,
    reverse_kl,
    skewed_kl,
    skewed_reverse_kl,
    total_variation,
)
from limbeck.losses.targets import DenseTargets, SoftTargets, SparseTargets

INF = math.inf


def kl(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """KL(a‖b) over probabilities, with 0 log 0 = 0."""
    safe = np.where(a > 0, a, 1.0)
    return np.where(a > 0, a * np.log(safe / np.where(a > 0, b, 1.0)), 0.0).sum(-1)


def entropy(p: np.ndarray) -> np.ndarray:
    return -np.where(p > 0, p * np.log(np.where(p > 0, p, 1.0)), 0.0).sum(-1)


def zero_meaned_squares(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    a, b = np.log(q), np.log(p)
    a, b = a - a.mean(-1, keepdims=True), b - b.mean(-1, keepdims=True)
    return ((a - b) ** 2).mean(-1) / 2


def jsd(beta: float) -> Callable:
    return lambda p, q: beta * kl(p, beta * p + (1 - beta) * q) + (1 - beta) * kl(q, beta * p + (1 - beta) * q)


class Row(NamedTuple):
    divergence: Divergence
    formula: Callable[[np.ndarray, np.ndarray], np.ndarray]  # (p, q) -> value, over probabilities
    power: int = 2  # of T, that keeps the gradient's size
    curvature: float | None = 1.0  # T^2 D -> curvature * logit matching as T grows; None: not quadratic at p = q
    allows_zero: bool = True  # finite where the teacher says zero
    least: Callable[[np.ndarray], np.ndarray] = lambda p: np.zeros(p.shape[:-1])  # its value at p = q


ROWS = [
    Row(forward_kl, kl),
    Row(reverse_kl, lambda p, q: kl(q, p), allows_zero=False),
    Row(cross_entropy, lambda p, q: kl(p, q) + entropy(p), least=entropy),
    *[Row(jensen_shannon(beta), jsd(beta), curvature=beta * (1 - beta)) for beta in (0.1, 0.5, 0.9)],
    *[Row(skewed_kl(s), lambda p, q, s=s: kl(p, s * p + (1 - s) * q), curvature=(1 - s) ** 2) for s in (0.1, 0.7)],
    *[
        Row(skewed_reverse_kl(s), lambda p, q, s=s: kl(q, (1 - s) * p + s * q), curvature=(1 - s) ** 2)
        for s in (0.1, 0.7)
    ],
    Row(total_variation, lambda p, q: np.abs(p - q).sum(-1) / 2, power=1, curvature=None),
    Row(logit_matching, zero_meaned_squares, allows_zero=False),
]

every = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.divergence.name)
every_with_zeros = pytest.mark.parametrize(
    "row", [row for row in ROWS if row.allows_zero], ids=lambda row: row.divergence.name
)


def logits(*shape: int, seed: int, scale: float = 2.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pair(*shape: int, seed: int = 0, scale: float = 2.0) -> tuple[Tensor, Tensor]:
    """`(log_q, log_p)`, random, float64."""
    return logits(*shape, seed=seed, scale=scale).log_softmax(-1), logits(*shape, seed=seed + 1).log_softmax(-1)


def slope_by_autograd(divergence: Divergence, log_q: Tensor, log_p: Tensor) -> Tensor:
    log_q = log_q.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(divergence(log_q, log_p).sum(), log_q)
    return gradient


@every
def test_value_is_the_formula(row: Row) -> None:
    log_q, log_p = pair(5, 7)
    expected = row.formula(log_p.exp().numpy(), log_q.exp().numpy())
    np.testing.assert_allclose(row.divergence(log_q, log_p).numpy(), expected, rtol=1e-12)


@every
def test_what_it_says_about_itself(row: Row) -> None:
    assert row.divergence.temperature_power == row.power
    assert row.divergence.allows_zero is row.allows_zero
    assert repr(row.divergence) == row.divergence.name


@every
def test_slope_is_autograds(row: Row) -> None:
    log_q, log_p = pair(5, 7)
    expected = slope_by_autograd(row.divergence, log_q, log_p)
    torch.testing.assert_close(row.divergence.slope(log_q, log_p), expected, rtol=1e-11, atol=1e-14)


@every
def test_slope_is_the_central_finite_difference(row: Row) -> None:
    """Each event's log_q moves by itself: q need not sum to 1 on the way."""
    log_q, log_p = pair(4, 6)
    step = 1e-5
    for event in range(6):
        shift = torch.zeros(6, dtype=torch.float64)
        shift[event] = step
        rise = row.divergence(log_q + shift, log_p) - row.divergence(log_q - shift, log_p)
        slope = row.divergence.slope(log_q, log_p)[:, event]
        torch.testing.assert_close(rise / (2 * step), slope, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("row", "kept"),
    [(row, k) for row in ROWS for k in ("dense", 1, 3, 7) if row.divergence is not logit_matching or k in ("dense", 7)],
    ids=lambda x: x.divergence.name if isinstance(x, Row) else str(x),
)
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0, 20.0])
def test_gradient_in_the_logits_follows_from_the_slope(row: Row, temperature: float, kept: str | int) -> None:
    """dD/dz_i = (1/T) (slope_e(i) q_i / q_e(i) - q_i sum_e slope_e), against autograd through events."""
    z, v = logits(5, 7, seed=3).requires_grad_(), logits(5, 7, seed=4)
    targets: SoftTargets = DenseTargets(v) if kept == "dense" else SparseTargets.from_logits(v, kept, temperature)
    log_q, log_p = targets.events((z / temperature).log_softmax(-1), temperature)
    (by_autograd,) = torch.autograd.grad(row.divergence(log_q, log_p).sum(), z)

    event = torch.arange(7).expand(5, 7)  # e(i)
    if isinstance(targets, SparseTargets):
        order = torch.arange(targets.ids.shape[1]).expand_as(targets.ids)
        event = torch.full((5, 7), targets.ids.shape[1]).scatter(1, targets.ids, order)
    q = (z / temperature).softmax(-1).detach()
    q_event = log_q.detach().exp().gather(1, event)
    slope = row.divergence.slope(log_q.detach(), log_p)
    closed = (slope.gather(1, event) * q / q_event - q * slope.sum(-1, keepdim=True)) / temperature
    torch.testing.assert_close(closed, by_autograd, rtol=1e-9, atol=1e-14)


@every
def test_least_where_the_student_equals_the_teacher(row: Row) -> None:
    log_q, log_p = pair(200, 5)
    least = torch.as_tensor(row.least(log_p.exp().numpy()))
    torch.testing.assert_close(row.divergence(log_p, log_p), least, rtol=1e-12, atol=1e-15)
    assert (row.divergence(log_q, log_p) > least).all()


@every
def test_no_gradient_at_equality(row: Row) -> None:
    z = logits(6, 5, seed=1).requires_grad_()
    (gradient,) = torch.autograd.grad(row.divergence(z.log_softmax(-1), z.detach().log_softmax(-1)).sum(), z)
    assert gradient.abs().max() < 1e-14


@every
@pytest.mark.parametrize("apart", [2.0, 1e-3], ids=["far", "near"])
def test_temperature_power_keeps_the_gradients_size(row: Row, apart: float) -> None:
    """log-log slope of |d(T^k D)/dz| over T: 0 for its own k, and one more or less for its neighbours."""
    v = logits(4, 10, seed=5)
    z = v + apart * logits(4, 10, seed=6, scale=1.0)

    def size(temperature: float, power: int) -> float:
        student = z.clone().requires_grad_()
        value = row.divergence((student / temperature).log_softmax(-1), (v / temperature).log_softmax(-1)).sum()
        return torch.autograd.grad(temperature**power * value, student)[0].norm().item()

    temperatures = np.array([50.0, 100.0, 200.0, 400.0, 800.0])
    for off in (-1, 0, 1):
        sizes = np.array([size(t, row.power + off) for t in temperatures])
        trend = np.polyfit(np.log(temperatures[2:]), np.log(sizes[2:]), 1)[0]
        assert trend == pytest.approx(off, abs=0.01)
        if off == 0:
            steps = np.abs(np.diff(sizes)) / sizes[-1]  # tends to a constant: each doubling of T changes it less
            assert steps[-1] < 0.005
            assert steps[-1] < 0.6 * steps[0] or steps[0] < 1e-6


@every
def test_in_the_limit_it_matches_logits_or_their_signs(row: Row) -> None:
    """T^k dD/dz_i -> curvature (z_i - v_i) / C, zero-meaned; total variation: (s_i - mean s) / 2C, s = sign(z - v)."""
    temperature = 1e4
    z, v = logits(4, 10, seed=5).requires_grad_(), logits(4, 10, seed=6)
    value = row.divergence((z / temperature).log_softmax(-1), (v / temperature).log_softmax(-1)).sum()
    got = torch.autograd.grad(temperature**row.power * value, z)[0]
    apart = (z - v).detach()
    apart = apart - apart.mean(-1, keepdim=True)
    signs = apart.sign()
    expected = (signs - signs.mean(-1, keepdim=True)) / 20 if row.curvature is None else row.curvature * apart / 10
    assert ((got - expected).norm() / expected.norm()).item() < 2e-3


@every
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_value_and_slope_are_float32_or_wider(row: Row, dtype: torch.dtype) -> None:
    log_q, log_p = (x.to(dtype) for x in pair(3, 4))
    assert row.divergence(log_q, log_p).dtype == torch.float32
    assert row.divergence.slope(log_q, log_p).dtype == torch.float32
    assert row.divergence(log_q.double(), log_p.double()).dtype == torch.float64


@every
def test_bfloat16_costs_no_more_than_its_rounding(row: Row) -> None:
    """First-order bound: each log-probability moves by at most u = 2^-8 of itself; half as much again for the rest."""
    log_q, log_p = pair(50, 8)
    log_q, log_p = log_q.requires_grad_(), log_p.requires_grad_()
    exact = row.divergence(log_q, log_p)
    by_q, by_p = torch.autograd.grad(exact.sum(), (log_q, log_p))
    bound = 2**-8 * ((by_q * log_q).abs() + (by_p * log_p).abs()).sum(-1).detach()
    rounded = row.divergence(log_q.detach().bfloat16(), log_p.detach().bfloat16())
    assert ((rounded - exact.detach()).abs() <= 1.5 * bound + 1e-4).all()
    in_float64 = row.divergence(log_q.detach().bfloat16().double(), log_p.detach().bfloat16().double())
    torch.testing.assert_close(rounded.double(), in_float64, rtol=2e-6, atol=2e-6)  # the arithmetic itself is float32


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_finite_for_logits_of_1e4(row: Row, dtype: torch.dtype) -> None:
    rows = [[1e4, -1e4, 0, 3], [-1e4, 1e4, 0, 3], [1e4, 1e4, -1e4, -1e4], [0, 0, 0, 1e4]]
    z = torch.tensor(rows, dtype=dtype, requires_grad=True)
    v = torch.tensor(rows[1:] + rows[:1], dtype=dtype)
    log_q, log_p = z.log_softmax(-1), v.log_softmax(-1)
    value = row.divergence(log_q, log_p)
    (gradient,) = torch.autograd.grad(value.sum(), z)
    assert value.isfinite().all()
    assert gradient.isfinite().all()
    assert row.divergence.slope(log_q.detach(), log_p).isfinite().all()


@every
def test_a_constant_added_to_the_logits_changes_nothing(row: Row) -> None:
    z, v = logits(4, 6, seed=7), logits(4, 6, seed=8)
    before = row.divergence(z.log_softmax(-1), v.log_softmax(-1))
    after = row.divergence((z + 123.0).log_softmax(-1), (v - 45.0).log_softmax(-1))
    torch.testing.assert_close(after, before, rtol=1e-10, atol=1e-12)


@every_with_zeros
def test_a_teachers_zero_is_finite(row: Row) -> None:
    z, v = logits(4, 6, seed=7).requires_grad_(), logits(4, 6, seed=8)
    v[:, 2] = -INF
    v[1, :5] = -INF  # certain of one class
    log_q, log_p = z.log_softmax(-1), v.log_softmax(-1)
    value = row.divergence(log_q, log_p)
    expected = row.formula(log_p.exp().numpy(), log_q.detach().exp().numpy())
    np.testing.assert_allclose(value.detach().numpy(), expected, rtol=1e-12, atol=1e-15)
    (gradient,) = torch.autograd.grad(value.sum(), z)
    assert gradient.isfinite().all()
    slope = row.divergence.slope(log_q.detach(), log_p)
    torch.testing.assert_close(slope, slope_by_autograd(row.divergence, log_q, log_p), rtol=1e-10, atol=1e-14)
    assert not DenseTargets(v).bad_rows(row.divergence).any()


@every_with_zeros
def test_a_class_that_both_rule_out_does_not_count(row: Row) -> None:
    z, v = logits(4, 6, seed=7), logits(4, 6, seed=8)
    z[:, 2] = v[:, 2] = -INF
    z.requires_grad_()
    others = [0, 1, 3, 4, 5]
    log_q, log_p = z.log_softmax(-1), v.log_softmax(-1)
    value = row.divergence(log_q, log_p)
    torch.testing.assert_close(value, row.divergence(log_q[:, others], log_p[:, others]), rtol=1e-12, atol=1e-15)
    (gradient,) = torch.autograd.grad(value.sum(), z)
    assert gradient.isfinite().all()
    assert (gradient[:, 2] == 0).all()
    slope = row.divergence.slope(log_q.detach(), log_p)
    torch.testing.assert_close(slope[:, others], row.divergence.slope(log_q[:, others].detach(), log_p[:, others]))
    assert (slope[:, 2] == 0).all()


@pytest.mark.parametrize("row", [row for row in ROWS if not row.allows_zero], ids=lambda row: row.divergence.name)
def test_a_teachers_zero_is_refused_where_it_would_be_infinite(row: Row) -> None:
    v = logits(4, 6, seed=8)
    v[1, 2] = -INF
    assert DenseTargets(v).bad_rows(row.divergence).tolist() == [False, True, False, False]
    assert not row.divergence(logits(4, 6, seed=7).log_softmax(-1), v.log_softmax(-1))[1].isfinite()


@every
def test_two_shapes_are_refused_and_named(row: Row) -> None:
    with pytest.raises(ShapeError) as refusal:
        row.divergence(torch.zeros(2, 3), torch.zeros(2, 4))
    assert row.divergence.name in str(refusal.value)
    assert "[2, 3]" in str(refusal.value)
    assert "[2, 4]" in str(refusal.value)


@given(
    lead=st.lists(st.integers(0, 4), max_size=3),
    events=st.integers(1, 9),
    seed=st.integers(0, 10_000),
    scale=st.sampled_from([0.1, 2.0, 20.0]),
)
def test_any_leading_axes_position_by_position(lead: list[int], events: int, seed: int, scale: float) -> None:
    log_q, log_p = pair(*lead, events, seed=seed, scale=scale)
    for row in ROWS:
        value, slope = row.divergence(log_q, log_p), row.divergence.slope(log_q, log_p)
        assert value.shape == torch.Size(lead)
        assert slope.shape == log_q.shape
        least = torch.as_tensor(row.least(log_p.exp().numpy()))
        assert (value >= least - 1e-12).all()
        for q, p, one in zip(
            log_q.reshape(-1, events), log_p.reshape(-1, events), value.reshape(-1), strict=log_q.numel() > 0
        ):
            torch.testing.assert_close(row.divergence(q, p), one, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(
            slope, slope_by_autograd(row.divergence, log_q, log_p), rtol=1e-9, atol=1e-12, msg=row.divergence.name
        )
