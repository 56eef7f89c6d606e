"""The objective: temperature, T^k, the paper's equations, counts, and everything that decides a gradient's size."""

import math
import pickle
from dataclasses import FrozenInstanceError, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from limbeck.errors import ObjectiveError, ShapeError
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
from limbeck.losses.numbers import NO_LABEL
from limbeck.losses.objective import Counts, Objective, count_positions
from limbeck.losses.targets import DenseTargets, MixedTargets, SampledTargets, SparseTargets

DIVERGENCES = [
    forward_kl,
    reverse_kl,
    cross_entropy,
    jensen_shannon(0.5),
    skewed_kl(0.1),
    skewed_reverse_kl(0.1),
    total_variation,
    logit_matching,
]
every_divergence = pytest.mark.parametrize("divergence", DIVERGENCES, ids=lambda divergence: divergence.name)


def logits(*shape: int, seed: int = 0, scale: float = 2.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gradient(loss: Tensor, z: Tensor) -> Tensor:
    return torch.autograd.grad(loss, z)[0]


# The paper's equations


@pytest.mark.parametrize("divergence", [cross_entropy, forward_kl], ids=lambda divergence: divergence.name)
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 20.0])
def test_eq_2(divergence, temperature: float) -> None:
    """dC/dz_i = (q_i - p_i) / T, here times T^2 and over n positions."""
    z, v = logits(5, 7, seed=1).requires_grad_(), logits(5, 7, seed=2)
    loss = Objective(divergence, temperature)(z, v)
    q, p = (z / temperature).softmax(-1).detach(), (v / temperature).softmax(-1)
    expected = temperature**2 * (q - p) / temperature / 5
    torch.testing.assert_close(gradient(loss.mean, z), expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(("classes", "order"), [(2, -2), (3, -1), (10, -1)])
def test_eq_4_is_the_limit_of_high_temperatures(classes: int, order: int) -> None:
    """(z_i - v_i) / (N T^2), logits zero-meaned: relative error O(1/T), and O(1/T^2) for two classes."""
    z, v = (x - x.mean(-1, keepdim=True) for x in (logits(20, classes, seed=1), logits(20, classes, seed=2)))
    z.requires_grad_()
    temperatures = np.array([16.0, 32, 64, 128, 256, 512])

    def error(temperature: float) -> float:
        of_eq_2 = gradient(Objective(forward_kl, temperature)(z, v).sum, z) / temperature**2
        of_eq_4 = (z - v).detach() / (classes * temperature**2)
        return ((of_eq_4 - of_eq_2).norm() / of_eq_2.norm()).item()

    errors = [error(t) for t in temperatures]
    assert np.polyfit(np.log(temperatures), np.log(errors), 1)[0] == pytest.approx(order, abs=0.05)
    assert errors[-1] < 0.01


def test_eq_4_fails_where_logits_are_not_zero_meaned() -> None:
    """softmax ignores a constant per case, Eq. 4 does not: its error then stays, whatever the temperature."""
    z, v = logits(20, 5, seed=1).requires_grad_(), logits(20, 5, seed=2) + 10
    of_eq_2 = gradient(Objective(forward_kl, 1e4)(z, v).sum, z)
    of_eq_4 = (z - v).detach() / 5
    assert ((of_eq_4 - of_eq_2).norm() / of_eq_2.norm()).item() > 1


@pytest.mark.parametrize("temperature", [1.0, 5.0])
def test_logit_matching_is_least_at_the_teachers_zero_meaned_logits(temperature: float) -> None:
    """T^2 D is quadratic with curvature 1/C on zero-meaned logits, so one step of length C ends at its minimum."""
    z, v = logits(4, 6, seed=1).requires_grad_(), logits(4, 6, seed=2) + 7
    objective = Objective(logit_matching, temperature)
    loss = objective(z, v).sum
    reached = (z - 6 * gradient(loss, z)).detach()
    centred = [x - x.mean(-1, keepdim=True) for x in (reached, v)]
    torch.testing.assert_close(centred[0], centred[1], rtol=1e-12, atol=1e-12)
    assert objective(reached, v).sum < 1e-25 < loss.detach()
    assert (reached - v).abs().min() > 1  # the constant that zero-meaning ignores is not matched
    expected = 0.5 * (z.detach() - v - (z.detach() - v).mean(-1, keepdim=True)).square().mean(-1).sum()
    torch.testing.assert_close(loss.detach(), expected)  # the same at every temperature


@every_divergence
@pytest.mark.parametrize("temperature", [0.5, 1.0, 6.0])
def test_the_soft_term_carries_t_to_the_power_of_its_divergence(divergence, temperature: float) -> None:
    z, v = logits(5, 7, seed=1), logits(5, 7, seed=2)
    value = divergence((z / temperature).log_softmax(-1), (v / temperature).log_softmax(-1)).sum()
    loss = Objective(divergence, temperature, soft_weight=0.7)(z, v)
    power = 1 if divergence is total_variation else 2
    torch.testing.assert_close(loss.sum, 0.7 * temperature**power * value)
    torch.testing.assert_close(loss.parts["soft"].sum, value)


def test_the_balance_of_the_terms_stays_when_temperature_changes() -> None:
    z, v = logits(5, 7, seed=1).requires_grad_(), logits(5, 7, seed=2)
    sizes = [gradient(Objective(forward_kl, t)(z, v).mean, z).norm().item() for t in (100.0, 200.0, 400.0)]
    assert sizes == pytest.approx([sizes[-1]] * 3, rel=0.02)


# Two terms, each with its own count


def test_soft_and_hard_by_hand() -> None:
    """Two positions, one labelled: T^2 mean KL + w CE of the one, at T = 1."""
    z = torch.tensor([[1.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
    v = torch.tensor([[0.0, 0.0], [3.0, 0.0]], dtype=torch.float64)
    loss = Objective(forward_kl, temperature=2.0, soft_weight=0.5, hard_weight=0.3)(z, v, torch.tensor([NO_LABEL, 0]))
    q, p = np.exp(z.numpy() / 2), np.exp(v.numpy() / 2)
    q, p = q / q.sum(-1, keepdims=True), p / p.sum(-1, keepdims=True)
    soft = (p * np.log(p / q)).sum()
    hard = math.log(1 + math.exp(2))
    assert loss.parts["soft"].sum.item() == pytest.approx(soft)
    assert loss.parts["soft"].count.item() == 2
    assert loss.parts["hard"].sum.item() == pytest.approx(hard)
    assert loss.parts["hard"].count.item() == 1
    assert loss.mean.item() == pytest.approx(0.5 * 4 * soft / 2 + 0.3 * hard / 1)


def test_the_terms_at_each_position() -> None:
    """Unweighted and without T^k; a term that is off, or has nothing to be taken from, is left out."""
    z, v = logits(3, 4), DenseTargets(logits(3, 4, seed=1))
    labels = torch.tensor([2, NO_LABEL, 0])
    found = Objective(forward_kl, 3.0, soft_weight=0.5, hard_weight=2.0).per_position(z, v, labels)
    soft, hard = found["soft"], found["hard"]
    torch.testing.assert_close(soft, forward_kl((z / 3).log_softmax(-1), (v.logits / 3).log_softmax(-1)))
    torch.testing.assert_close(hard, torch.stack([-z[0].log_softmax(-1)[2], z.new_zeros(()), -z[2].log_softmax(-1)[0]]))
    assert Objective(hard_weight=1.0).per_position(z, None, None) == {}
    assert Objective(soft_weight=0.0, hard_weight=1.0).per_position(z, v, labels).keys() == {"hard"}
    assert Objective().per_position(z, v, labels).keys() == {"soft"}


def test_labels_without_a_teacher() -> None:
    z = logits(6, 4).requires_grad_()
    labels = torch.tensor([0, 1, NO_LABEL, 3, NO_LABEL, 2])
    loss = Objective(soft_weight=0, hard_weight=2.0, temperature=5.0)(z, labels=labels)
    expected = 2 * F.cross_entropy(z, labels, ignore_index=NO_LABEL)
    torch.testing.assert_close(loss.mean, expected)
    torch.testing.assert_close(gradient(loss.mean, z), gradient(expected, z))
    assert list(loss.parts) == ["hard"]
    assert loss.count == 4


def test_a_teacher_without_labels() -> None:
    z, v = logits(6, 4), logits(6, 4, seed=1)
    loss = Objective(forward_kl, 2.0)(z, v)
    assert list(loss.parts) == ["soft"]
    assert loss.count == 6
    ignored = Objective(forward_kl, 2.0)(z, v, labels=torch.full((6,), NO_LABEL))  # the soft term needs no label
    assert torch.equal(ignored.mean, loss.mean)


def test_no_label_at_all_in_a_batch() -> None:
    z, v = logits(3, 4).requires_grad_(), logits(3, 4, seed=1)
    both = Objective(hard_weight=1.0)(z, v, torch.full((3,), NO_LABEL))
    torch.testing.assert_close(both.mean, Objective()(z, v).mean)
    alone = Objective(soft_weight=0, hard_weight=1.0)(z, labels=torch.full((3,), NO_LABEL))
    assert alone.mean == 0
    assert (gradient(alone.mean, z) == 0).all()


def test_weights_weigh_both_terms_and_both_counts() -> None:
    """A weight of 2 is the position twice; a weight of 0 is the position left out."""
    z, v = logits(4, 5), logits(4, 5, seed=1)
    labels = torch.tensor([1, 2, NO_LABEL, 4])
    objective = Objective(hard_weight=0.5)
    weighed = objective(z, v, labels, weights=torch.tensor([2.0, 1.0, 1.0, 0.0]))
    rows = [0, 0, 1, 2]
    repeated = objective(z[rows], v[rows], labels[rows])
    torch.testing.assert_close(weighed.mean, repeated.mean)
    assert (weighed.count.item(), weighed.parts["hard"].count.item()) == (4, 3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("n", [257, 70_000])
def test_counts_are_exact_for_weights_in_half_precision(dtype: torch.dtype, n: int) -> None:
    """bfloat16 cannot hold 257, nor float16 70,000: sums are float32 whatever comes in."""
    loss = Objective()(torch.zeros(n, 2), torch.zeros(n, 2), weights=torch.ones(n, dtype=dtype))
    assert loss.count.item() == n


def test_masked_positions_are_dropped_before_any_arithmetic() -> None:
    z, v, labels = logits(5, 4), logits(5, 4, seed=1), torch.tensor([0, 1, 2, 3, 0])
    z[1], v[3], labels[1] = math.nan, math.inf, 99
    z.requires_grad_()
    mask = torch.tensor([True, False, True, False, True])
    objective = Objective(hard_weight=1.0)
    loss = objective(z, v, labels, mask=mask)
    kept = [0, 2, 4]
    torch.testing.assert_close(loss.mean, objective(z[kept], v[kept], labels[kept]).mean)
    got = gradient(loss.mean, z)
    assert got.isfinite().all()
    assert (got[[1, 3]] == 0).all()
    assert (got[kept] != 0).all()
    assert (loss.count.item(), loss.parts["hard"].count.item()) == (3, 3)


def test_everything_masked_is_a_loss_of_zero_with_a_gradient_of_zero() -> None:
    z, v = logits(3, 4).requires_grad_(), logits(3, 4, seed=1)
    loss = Objective(hard_weight=1.0)(z, v, torch.tensor([0, 1, 2]), mask=torch.zeros(3, dtype=torch.bool))
    assert loss.mean == 0
    assert loss.count == 0
    assert (gradient(loss.mean, z) == 0).all()


def test_positions_of_sequences() -> None:
    """[B, L, C] is B * L positions; labels, mask and weights go with them."""
    z, v = logits(2, 3, 5), logits(2, 3, 5, seed=1)
    labels = torch.tensor([[0, NO_LABEL, 2], [3, 4, NO_LABEL]])
    mask = torch.tensor([[True, True, False], [True, True, True]])
    weights = torch.rand(2, 3, generator=torch.Generator().manual_seed(0))
    objective = Objective(hard_weight=0.5)
    flat = objective(
        z.reshape(6, 5),
        DenseTargets(v.reshape(6, 5)),
        labels.reshape(6),
        mask=mask.reshape(6),
        weights=weights.reshape(6),
    )
    for targets in (v, DenseTargets(v.reshape(6, 5))):
        loss = objective(z, targets, labels, mask=mask, weights=weights)
        torch.testing.assert_close(loss.mean, flat.mean)
        torch.testing.assert_close(loss.count, flat.count)


def make_targets(kind: str, v: Tensor):
    return {
        "dense": lambda: DenseTargets(v),
        "sparse": lambda: SparseTargets.from_logits(v, 3, 2.0),
        "sampled": lambda: SampledTargets.draw(v, 3, 2.0, torch.Generator().manual_seed(0)),
        "mixed": lambda: MixedTargets([DenseTargets(v), DenseTargets(-v)]),
    }[kind]()


@pytest.mark.parametrize("kind", ["dense", "sparse", "sampled", "mixed"])
@pytest.mark.parametrize("pieces", [[12], [6, 6], [3, 3, 3, 3], [7, 1, 4], [0, 12]], ids=str)
@pytest.mark.parametrize("soft_weight", [0.0, 0.7])
def test_parts_of_a_batch_add_up_to_the_whole(kind: str, pieces: list[int], soft_weight: float) -> None:
    """Micro-batches divided by the counts of the global batch: the same loss and the same gradient."""
    z, v = logits(12, 5, seed=1).requires_grad_(), logits(12, 5, seed=2)
    labels = torch.tensor([0, 1, 2, NO_LABEL, NO_LABEL, NO_LABEL, 3, NO_LABEL, 4, 0, 1, NO_LABEL])
    mask = torch.tensor([True] * 4 + [False, True] * 3 + [True] * 2)
    weights = torch.rand(12, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    objective = Objective(forward_kl, 2.0, soft_weight=soft_weight, hard_weight=0.4)
    targets = make_targets(kind, v)
    whole = objective(z, targets, labels, mask=mask, weights=weights)

    spans = [slice(end - n, end) for n, end in zip(pieces, np.cumsum(pieces), strict=True)]
    own = [count_positions((n,), labels[s], mask[s], weights[s]) for n, s in zip(pieces, spans, strict=True)]
    counts = Counts(*(sum(count[name] for count in own) for name in ("soft", "hard")))
    shares = [objective(z[s], targets[s], labels[s], mask=mask[s], weights=weights[s], counts=counts) for s in spans]
    total = sum(share.sum / share.count for share in shares)
    torch.testing.assert_close(total, whole.mean, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(gradient(total, z), gradient(whole.mean, z), rtol=1e-12, atol=1e-14)
    for name, part in whole.parts.items():
        torch.testing.assert_close(sum(share.parts[name].sum for share in shares), part.sum)
        torch.testing.assert_close(sum(share.parts[name].count for share in shares), part.count)


def test_padding_changes_nothing() -> None:
    z, v, labels = logits(4, 5), logits(4, 5, seed=1), torch.tensor([0, 1, 2, NO_LABEL])
    padding = torch.full((3, 5), math.nan, dtype=torch.float64)
    objective = Objective(hard_weight=1.0)
    padded = objective(
        torch.cat([z, padding]),
        torch.cat([v, padding]),
        torch.cat([labels, torch.full((3,), NO_LABEL)]),
        mask=torch.arange(7) < 4,
    )
    assert torch.equal(padded.mean, objective(z, v, labels).mean)


def counts_of(*given: Any) -> list[Tensor]:
    return list(count_positions(*given).values())


def test_count_positions_is_what_the_objective_counts() -> None:
    labels = torch.tensor([[0, NO_LABEL, 2], [3, 4, NO_LABEL]])
    mask = torch.tensor([[True, True, False], [True, True, True]])
    weights = torch.tensor([[0.5, 1.0, math.nan], [2.0, 0.25, 4.0]])  # masked weights do not count, whatever they say
    assert [c.item() for c in counts_of((2, 3))] == [6, 0]
    assert [c.item() for c in counts_of((2, 3), labels)] == [6, 4]
    assert [c.item() for c in counts_of((2, 3), labels, mask)] == [5, 3]
    assert [c.item() for c in counts_of((2, 3), labels, mask, weights)] == [7.75, 2.75]
    assert [c.item() for c in counts_of((0,), torch.zeros(0, dtype=torch.int64))] == [0, 0]
    loss = Objective(hard_weight=1.0)(logits(2, 3, 5), logits(2, 3, 5), labels, mask=mask, weights=weights)
    assert (loss.parts["soft"].count.item(), loss.parts["hard"].count.item()) == (7.75, 2.75)


# Precision


@every_divergence
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_worked_on_in_float32(divergence, dtype: torch.dtype) -> None:
    """The loss of rounded logits is exact to float32; the gradient comes back in their own type."""
    z, v = logits(5, 7, seed=1).to(dtype), logits(5, 7, seed=2).to(dtype)
    labels = torch.tensor([0, 1, 2, 3, 4])
    objective = Objective(divergence, 3.0, hard_weight=0.5)
    exact = objective(z.double(), v.double(), labels).mean
    student = z.clone().requires_grad_()
    loss = objective(student, v, labels).mean
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), exact, rtol=1e-5, atol=1e-6)
    got = gradient(loss, student)
    assert got.dtype == dtype
    in_float64 = z.double().requires_grad_()
    expected = gradient(objective(in_float64, v.double(), labels).mean, in_float64)
    rounding = 2**-7 if dtype == torch.bfloat16 else 2**-10
    torch.testing.assert_close(got.double(), expected, rtol=rounding, atol=rounding * expected.abs().max().item())


@every_divergence
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_logits_of_1e4_give_finite_losses_and_gradients(divergence, dtype: torch.dtype) -> None:
    z = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, 1e4], [0.0, 0.0, 0.0]], dtype=dtype, requires_grad=True)
    v = torch.tensor([[-1e4, 1e4, 0.0], [1e4, -1e4, -1e4], [1e4, -1e4, 0.0]], dtype=dtype)
    loss = Objective(divergence, 1.0, hard_weight=1.0)(z, v, torch.tensor([1, 0, 2])).mean
    assert loss.isfinite()
    assert gradient(loss, z).isfinite().all()


def test_a_student_that_rules_a_class_out_with_its_teacher() -> None:
    """Padded classes: -inf on both sides, kept or in the tail, poison neither the value nor the gradient."""
    z, v = logits(3, 6, seed=1), logits(3, 6, seed=2)
    z[:, 4:] = v[:, 4:] = -math.inf
    z.requires_grad_()
    for targets in (DenseTargets(v), SparseTargets.from_logits(v, 2), SparseTargets.from_logits(v, 4)):
        for divergence in DIVERGENCES:
            if divergence.allows_zero:
                loss = Objective(divergence, 1.0)(z, targets).mean
                assert loss.isfinite(), divergence
                assert gradient(loss, z).isfinite().all(), (divergence, targets)


# A user's own divergence


def squared_distance(log_q: Tensor, log_p: Tensor) -> Tensor:
    return (log_q.exp() - log_p.exp()).square().sum(-1)


def test_a_plain_function_is_a_divergence() -> None:
    z, v = logits(4, 5, seed=1).requires_grad_(), logits(4, 5, seed=2)
    objective = Objective(squared_distance, temperature=3.0)
    assert objective.divergence.name == "squared_distance"
    q, p = (z / 3).softmax(-1), (v / 3).softmax(-1)
    expected = 9 * (q - p).square().sum(-1).mean()  # T^2 unless it says otherwise
    loss = objective(z, v).mean
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient(loss, z), gradient(expected, z))
    assert objective(z.float(), v.bfloat16()).mean.dtype == torch.float32


def test_a_plain_function_says_its_own_power() -> None:
    def distance(log_q: Tensor, log_p: Tensor) -> Tensor:
        return (log_q.exp() - log_p.exp()).norm(dim=-1)

    distance.temperature_power = 1
    assert Objective(distance, temperature=3.0).soft_scale == 3.0


def test_a_plain_functions_slope_is_autograds() -> None:
    slope = Objective(squared_distance).divergence.slope
    log_q, log_p = logits(4, 5, seed=1).log_softmax(-1), logits(4, 5, seed=2).log_softmax(-1)
    q, p = log_q.exp(), log_p.exp()
    with torch.no_grad():
        torch.testing.assert_close(slope(log_q, log_p), 2 * (q - p) * q)


@pytest.mark.parametrize(
    "reduced",
    [
        lambda log_q, log_p: squared_distance(log_q, log_p).mean(),
        lambda log_q, log_p: (log_q.exp() - log_p.exp()).square(),
        F.kl_div,
    ],
    ids=["mean over positions", "not summed over events", "torch's own, reduced by default"],
)
@pytest.mark.filterwarnings("ignore:reduction")
def test_a_function_that_is_not_per_position_is_refused(reduced) -> None:
    """It would be divided by the count once more, or weighed along the wrong axis."""
    with pytest.raises((ShapeError, ObjectiveError), match="position"):
        Objective(reduced)(logits(5, 5), logits(5, 5, seed=1))


def test_what_is_no_divergence_is_refused() -> None:
    for thing in ("forward_kl", None, 3):
        with pytest.raises(ObjectiveError, match=r"function \(log_q, log_p\)"):
            Objective(thing)


def test_a_divergence_whose_parameter_was_forgotten_is_refused() -> None:
    """jensen_shannon makes a divergence; by itself it is none."""
    with pytest.raises(ObjectiveError, match="jensen_shannon"):
        Objective(jensen_shannon)(logits(2, 3), logits(2, 3))


@pytest.mark.parametrize("divergence", [*DIVERGENCES, squared_distance], ids=lambda d: getattr(d, "__name__", str(d)))
def test_an_objective_is_equal_to_its_copies(divergence) -> None:
    objective = Objective(divergence, 3.0, hard_weight=0.5)
    for copy in (
        Objective(divergence, 3.0, hard_weight=0.5),
        pickle.loads(pickle.dumps(objective)),
        replace(objective),
    ):
        assert copy == objective
        assert hash(copy) == hash(objective)
        assert isinstance(copy.divergence, Divergence)
    warmer = replace(objective, temperature=4.0)
    assert (warmer.temperature, warmer.divergence, warmer.hard_weight) == (4.0, objective.divergence, 0.5)
    assert warmer != objective
    assert replace(objective, divergence=squared_distance).divergence.name == "squared_distance"
    with pytest.raises(FrozenInstanceError):
        objective.divergence = forward_kl  # type: ignore[misc]
    assert Objective(temperature=3.0) == Objective(forward_kl, 3.0)


# Refusals


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf])
def test_temperatures_are_refused(temperature: float) -> None:
    with pytest.raises(ObjectiveError, match=f"temperature.*{temperature:g}"):
        Objective(temperature=temperature)


@pytest.mark.parametrize("temperature", [1e-38, 1e-5, 65_537.0, 1e9, 1e30])
def test_temperatures_that_float32_cannot_follow_are_refused_with_the_bounds(temperature: float) -> None:
    with pytest.raises(ObjectiveError, match=r"from 1\.5e-05 to 65,536, but is .*float32 cannot tell .* apart"):
        Objective(forward_kl, temperature)


@pytest.mark.parametrize("temperature", [2.0**-16, 1000.0, 2.0**16])
def test_at_the_bounds_the_gradient_in_float32_is_that_of_float64(temperature: float) -> None:
    z, v = logits(20, 5, seed=1), logits(20, 5, seed=2)

    def of(dtype: torch.dtype) -> torch.Tensor:
        student = z.to(dtype).requires_grad_()
        return gradient(Objective(forward_kl, temperature)(student, v.to(dtype)).sum, student).double()

    exact = of(torch.float64)
    assert (of(torch.float32) - exact).norm() < 0.02 * exact.norm()


@pytest.mark.parametrize("name", ["soft_weight", "hard_weight"])
@pytest.mark.parametrize("weight", [-0.1, math.nan, math.inf])
def test_weights_are_refused(name: str, weight: float) -> None:
    with pytest.raises(ObjectiveError, match=f"{name}.*{weight:g}"):
        Objective(**{name: weight})


def test_two_weights_of_zero_are_refused() -> None:
    with pytest.raises(ObjectiveError, match="both 0"):
        Objective(soft_weight=0, hard_weight=0)


def test_what_a_term_needs_and_is_not_there() -> None:
    with pytest.raises(ObjectiveError, match="no targets; pass a teacher"):
        Objective()(logits(2, 3))
    with pytest.raises(ObjectiveError, match="no labels; pass labels"):
        Objective(hard_weight=1.0)(logits(2, 3), logits(2, 3))


@pytest.mark.parametrize(
    ("shapes", "said"),
    [
        ({"targets": (4, 6)}, ["4 positions over 5 classes", "over 6"]),
        ({"targets": (3, 5)}, ["4 positions", "teacher 3"]),
        ({"labels": (3,)}, ["labels", "[4]", "[3]"]),
        ({"labels": (4, 1)}, ["labels", "[4]", "[4, 1]"]),
        ({"mask": (5,)}, ["mask", "[4]", "[5]"]),
        ({"weights": (4, 5)}, ["weights", "[4]", "[4, 5]"]),
    ],
    ids=str,
)
def test_shapes_that_do_not_fit_are_named(shapes: dict[str, tuple[int, ...]], said: list[str]) -> None:
    given = {"targets": torch.zeros(4, 5), "labels": torch.zeros(4, dtype=torch.int64)}
    given |= {name: torch.zeros(shape, dtype=given.get(name, given["targets"]).dtype) for name, shape in shapes.items()}
    with pytest.raises(ShapeError) as refusal:
        Objective(hard_weight=1.0)(torch.zeros(4, 5), **given)
    assert all(words in str(refusal.value) for words in said)


def test_positions_in_another_order_of_axes_are_refused() -> None:
    """[B, L, C] against [L, B, C]: as many positions, but not the same ones."""
    with pytest.raises(ShapeError, match=r"2, 3"):
        Objective()(torch.zeros(2, 3, 5), torch.zeros(3, 2, 5))
