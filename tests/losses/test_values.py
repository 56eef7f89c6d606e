"""Divergences of numbers against torch.distributions, and the objective that is made of them."""

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from limbeck.errors import ObjectiveError, ShapeError, TargetError
from limbeck.losses.objective import Objective
from limbeck.losses.targets import DenseTargets, GaussianTargets
from limbeck.losses.targets.gaussian import mixture
from limbeck.losses.values import gaussian_cross_entropy, gaussian_kl, squared_error

G = torch.Generator().manual_seed(0)
Q, P = torch.randn(6, 2, generator=G, dtype=torch.float64), torch.randn(6, 2, generator=G, dtype=torch.float64)
LABELS = torch.tensor([0.5, math.nan, -1.0, 2.0, math.nan, 0.0], dtype=torch.float64)


def normal(values: torch.Tensor) -> Normal:
    return Normal(values[:, 0], (values[:, 1] / 2).exp())


def test_gaussian_kl_and_cross_entropy_are_those_of_torch() -> None:
    kl = kl_divergence(normal(P), normal(Q))
    assert torch.allclose(gaussian_kl(Q, P), kl, rtol=1e-12)
    assert torch.allclose(gaussian_cross_entropy(Q, P), kl + normal(P).entropy(), rtol=1e-12)
    assert torch.allclose(gaussian_cross_entropy(Q, P[:, :1]), -normal(Q).log_prob(P[:, 0]), rtol=1e-12)
    assert torch.equal(squared_error(Q[:, :1], P), (Q[:, 0] - P[:, 0]) ** 2)


def test_a_good_students_kl_is_not_lost_in_float32() -> None:
    """KL of variances that differ by 1e-4, about 2.5e-9, within 1 % of float64."""
    p = torch.tensor([[0.3, 0.7]])
    q = p + torch.tensor([[0.0, 1e-4]])
    assert gaussian_kl(q, p).item() == pytest.approx(gaussian_kl(q.double(), p.double()).item(), rel=0.01)


def test_the_objective_weighs_targets_and_labels_and_counts_each() -> None:
    targets = GaussianTargets(P[:, 0], P[:, 1])
    loss = Objective(gaussian_kl, soft_weight=2.0, hard_weight=0.5)(Q, targets, LABELS)
    known = ~LABELS.isnan()
    nll = -normal(Q).log_prob(LABELS.nan_to_num())
    expected = 2 * kl_divergence(normal(P), normal(Q)).mean() + 0.5 * nll[known].mean()
    assert torch.allclose(loss.mean, expected)
    assert (loss.parts["soft"].count.item(), loss.parts["hard"].count.item()) == (6, 4)


def test_labels_that_are_missing_give_no_gradient() -> None:
    q = Q[:, :1].clone().requires_grad_()
    Objective(squared_error, soft_weight=0.0, hard_weight=1.0)(q, labels=LABELS).mean.backward()
    assert q.grad is not None
    expected = torch.where(LABELS.isnan(), 0.0, 2 * (Q[:, 0] - LABELS.nan_to_num()) / 4)
    assert torch.allclose(q.grad[:, 0], expected)


def test_a_temperature_does_not_change_numbers() -> None:
    targets = GaussianTargets(P[:, 0])
    losses = [Objective(squared_error, temperature=t)(Q[:, :1], targets).mean for t in (1.0, 4.0)]
    assert torch.equal(*losses)


def test_a_mixture_has_the_mean_and_the_variance_of_its_samples() -> None:
    """Against the law of total variance, sampled: two members, one without a variance."""
    members = [
        GaussianTargets(torch.tensor([1.0]), torch.tensor([math.log(4.0)])),
        GaussianTargets(torch.tensor([5.0])),
    ]
    found = mixture(members, [0.25, 0.75])
    assert found.mean.item() == pytest.approx(4.0)
    assert found.log_variance is not None
    assert found.log_variance.exp().item() == pytest.approx(0.25 * 4 + 0.25 * 9 + 0.75 * 1)
    alone = GaussianTargets(torch.tensor([1.0, 2.0]))
    assert mixture([alone], [1.0]) is alone


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ObjectiveError, match=r"gaussian_kl needs the teacher's variance.*gaussian_cross_entropy"):
        Objective(gaussian_kl)(Q, GaussianTargets(P[:, 0]))
    with pytest.raises(ShapeError, match=r"squared_error needs 1 outputs of the student"):
        Objective(squared_error)(Q, GaussianTargets(P[:, 0]))
    with pytest.raises(TargetError, match="needs a teacher that gives numbers, but it gave DenseTargets"):
        Objective(squared_error)(Q[:, :1], DenseTargets(P))
    with pytest.raises(ObjectiveError, match="divergence of classes; use squared_error"):
        Objective()(Q, GaussianTargets(P[:, 0], P[:, 1]))
    with pytest.raises(ShapeError, match="The student gave 6 numbers and the teacher 3"):
        Objective(squared_error)(Q[:, :1], GaussianTargets(P[:3, 0]))
    assert GaussianTargets(torch.tensor([0.0, math.nan, math.inf])).bad_rows(None).tolist() == [False, True, True]
