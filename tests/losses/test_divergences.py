"""What is particular to a divergence; what all of them must do is in contracts/test_divergence.py."""

import math
import pickle
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from limbeck.errors import LimbeckError, ObjectiveError
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


def log_pair(n: int = 20, events: int = 6, seed: int = 0) -> tuple[Tensor, Tensor]:
    z, v = 2 * torch.randn(2, n, events, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return z.log_softmax(-1), v.log_softmax(-1)


def test_the_students_that_are_compared_by_forward_kl() -> None:
    """Teacher [.7, .2, .1]: A ranks best although B has the teacher's top probability exactly.

    By hand: A: .7 ln(.7/.65) + .2 ln(.2/.22) + .1 ln(.1/.13); B: .2 ln 2 - .1 ln 2 = ln(2) / 10;
    C: .7 ln 1.4 + .2 ln(2/3) - .1 ln 2.
    """
    teacher = torch.tensor([0.70, 0.20, 0.10], dtype=torch.float64).log()
    students = torch.tensor([[0.65, 0.22, 0.13], [0.70, 0.10, 0.20], [0.50, 0.30, 0.20]], dtype=torch.float64).log()
    values = forward_kl(students, teacher.expand(3, 3)).tolist()
    assert values == pytest.approx([0.0065771180999912, math.log(2) / 10, 0.0851228259572217], abs=1e-14)
    assert min(range(3), key=values.__getitem__) == 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "divergence", [forward_kl, reverse_kl, total_variation, logit_matching], ids=lambda divergence: divergence.name
)
def test_exactly_zero_at_equality(divergence, dtype: torch.dtype) -> None:
    log_p = log_pair()[1].to(dtype)
    assert (divergence(log_p, log_p.clone()) == 0).all()


def test_the_two_directions_differ() -> None:
    log_q, log_p = log_pair()
    torch.testing.assert_close(forward_kl(log_q, log_p), reverse_kl(log_p, log_q))
    assert ((forward_kl(log_q, log_p) - reverse_kl(log_q, log_p)).abs() > 1e-3).all()
    expected = torch.nn.functional.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)
    torch.testing.assert_close(forward_kl(log_q, log_p), expected)  # torch: (input = student, target = teacher)


def test_cross_entropy_is_forward_kl_plus_the_teachers_entropy() -> None:
    log_q, log_p = log_pair()
    entropy = torch.distributions.Categorical(logits=log_p).entropy()
    torch.testing.assert_close(cross_entropy(log_q, log_p), forward_kl(log_q, log_p) + entropy)
    assert torch.equal(cross_entropy.slope(log_q, log_p), forward_kl.slope(log_q, log_p))
    expected = torch.nn.functional.cross_entropy(log_q, log_p.exp(), reduction="none")
    torch.testing.assert_close(cross_entropy(log_q, log_p), expected)


@pytest.mark.parametrize(
    ("near_the_end", "limit"),
    [
        (lambda e: lambda q, p: jensen_shannon(e)(q, p) / e, forward_kl),
        (lambda e: lambda q, p: jensen_shannon(1 - e)(q, p) / e, reverse_kl),
        (lambda e: skewed_kl(e), forward_kl),
        (lambda e: skewed_reverse_kl(e), reverse_kl),
    ],
    ids=["jensen_shannon to 0", "jensen_shannon to 1", "skewed_kl to 0", "skewed_reverse_kl to 0"],
)
def test_limits_are_reached_in_proportion_to_the_parameter(near_the_end, limit) -> None:
    log_q, log_p = log_pair()
    errors = [(near_the_end(e)(log_q, log_p) - limit(log_q, log_p)).abs().max().item() for e in (1e-5, 1e-6, 1e-7)]
    assert errors[1] / errors[0] == pytest.approx(0.1, abs=0.01)
    assert errors[2] / errors[1] == pytest.approx(0.1, abs=0.01)


def test_symmetric_jensen_shannon_and_its_bound() -> None:
    """jensen_shannon(1/2) is symmetric, and at most ln 2, reached by disjoint distributions."""
    log_q, log_p = log_pair()
    torch.testing.assert_close(jensen_shannon()(log_q, log_p), jensen_shannon()(log_p, log_q))
    torch.testing.assert_close(jensen_shannon(0.2)(log_q, log_p), jensen_shannon(0.8)(log_p, log_q))
    one_way, other_way = torch.eye(2, dtype=torch.float64).log()
    assert jensen_shannon()(one_way, other_way).item() == pytest.approx(math.log(2))
    assert total_variation(one_way, other_way).item() == 1
    assert skewed_kl(0.1)(one_way, other_way).item() == pytest.approx(-math.log(0.1))
    assert skewed_reverse_kl(0.1)(one_way, other_way).item() == pytest.approx(-math.log(0.1))


@pytest.mark.parametrize(
    ("make", "end", "instead"),
    [
        (jensen_shannon, 0, ["forward_kl", "beta"]),
        (jensen_shannon, 1, ["reverse_kl", "beta"]),
        (skewed_kl, 0.0, ["forward_kl", "skew"]),
        (skewed_kl, 1.0, ["skew"]),
        (skewed_reverse_kl, 0, ["reverse_kl", "skew"]),
        (skewed_reverse_kl, 1, ["skew"]),
        (jensen_shannon, -0.5, ["-0.5"]),
        (jensen_shannon, math.nan, ["nan"]),
        (skewed_kl, math.inf, ["inf"]),
    ],
)
def test_the_ends_are_refused_and_the_alternative_named(make, end: float, instead: list[str]) -> None:
    with pytest.raises(ObjectiveError) as refusal:
        make(end)
    assert isinstance(refusal.value, LimbeckError)
    assert all(word in str(refusal.value) for word in [make.__name__, *instead])


def test_total_variation_is_what_acceptance_lacks_to_1() -> None:
    log_q, log_p = log_pair()
    acceptance = torch.minimum(log_q.exp(), log_p.exp()).sum(-1)
    torch.testing.assert_close(total_variation(log_q, log_p), 1 - acceptance)


def test_logit_matching_is_the_squared_distance_of_zero_meaned_logits() -> None:
    """On logits, not on log-probabilities: the constant between them is what zero-meaning takes away."""
    z, v = torch.randn(2, 8, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    centred = [x - x.mean(-1, keepdim=True) for x in (z, v)]
    expected = 0.5 * (centred[0] - centred[1]).square().mean(-1)
    torch.testing.assert_close(logit_matching(z.log_softmax(-1), v.log_softmax(-1)), expected)
    assert (0.5 * (z - v).square().mean(-1) - expected).abs().min() > 1e-6  # without zero-meaning: another number


def test_large_logits_give_exact_numbers() -> None:
    """A student that is sure of the wrong class by 2e4 nats pays 2e4 nats, not inf and not a clipped value."""
    log_q = torch.tensor([[1e4, -1e4]]).log_softmax(-1)
    log_p = torch.tensor([[-1e4, 1e4]]).log_softmax(-1)
    assert forward_kl(log_q, log_p).item() == 2e4
    assert reverse_kl(log_q, log_p).item() == 2e4
    assert cross_entropy(log_q, log_p).item() == 2e4
    assert jensen_shannon()(log_q, log_p).item() == pytest.approx(math.log(2))
    assert total_variation(log_q, log_p).item() == 1
    assert logit_matching(log_q, log_p).item() == pytest.approx(0.5 * 2e4**2)


BUILT_IN = [
    forward_kl,
    reverse_kl,
    cross_entropy,
    total_variation,
    logit_matching,
    jensen_shannon(0.3),
    skewed_kl(0.3),
    skewed_reverse_kl(0.3),
]


@pytest.mark.parametrize("divergence", BUILT_IN, ids=repr)
def test_a_copied_divergence_is_still_itself(divergence: Divergence) -> None:
    """Configurations are copied and sent to other processes."""
    for copy in (deepcopy(divergence), pickle.loads(pickle.dumps(divergence)), replace(divergence)):
        assert copy == divergence
        assert hash(copy) == hash(divergence)
        assert copy.__doc__ == divergence.__doc__
        log_q, log_p = log_pair()
        assert torch.equal(copy(log_q, log_p), divergence(log_q, log_p))
        assert torch.equal(copy.slope(log_q, log_p), divergence.slope(log_q, log_p))


@pytest.mark.parametrize("make", [jensen_shannon, skewed_kl, skewed_reverse_kl], ids=lambda make: make.__name__)
def test_equal_parameters_make_equal_divergences(make) -> None:
    assert make(0.3) == make(0.3)
    assert hash(make(0.3)) == hash(make(0.3))
    assert make(0.3) != make(0.4)
    assert make(0.3) != make(0.3 + 1e-9)  # two of the same name


def test_of_two_divergences_the_names_do_not_decide() -> None:
    assert replace(forward_kl, name="mine") != forward_kl
    assert replace(forward_kl, value=reverse_kl.value) != forward_kl
    assert replace(forward_kl, text="another text") == forward_kl
