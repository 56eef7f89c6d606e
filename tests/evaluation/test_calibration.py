"""match_prior against its own claim and against a one-dimensional root; shift_bias against logits plus offsets."""

import pytest
import torch
from scipy.optimize import brentq

import limbeck
from limbeck.errors import ConfigError, DataError, ModelError, ShapeError
from limbeck.evaluation.calibration import match_prior, shift_bias


@pytest.fixture
def logits() -> torch.Tensor:
    z = 3 * torch.randn(2000, 5, generator=torch.Generator().manual_seed(0))
    z[:, 2] -= 6  # a class that the student has hardly seen
    return z


def test_the_mean_prediction_becomes_the_prior(logits: torch.Tensor) -> None:
    prior = torch.tensor([0.1, 0.3, 0.2, 0.25, 0.15])
    offsets = match_prior(logits, prior)
    assert torch.allclose((logits + offsets).softmax(-1).mean(0), prior, atol=1e-6)
    assert abs(float(offsets.mean())) < 1e-6


def test_one_class_is_a_root_in_one_dimension(logits: torch.Tensor) -> None:
    def miss(offset: float) -> float:
        z = logits.double().clone()
        z[:, 2] += offset
        return float(z.softmax(-1)[:, 2].mean()) - 0.2

    offsets = match_prior(logits, torch.full((5,), 0.2), classes=[2])
    assert float(offsets[2]) == pytest.approx(brentq(miss, -50, 50), abs=1e-4)
    assert offsets[[0, 1, 3, 4]].tolist() == [0, 0, 0, 0]


def test_a_prior_that_is_met_asks_for_nothing(logits: torch.Tensor) -> None:
    assert match_prior(logits, logits.softmax(-1).mean(0)).abs().max() < 1e-4


def test_a_huge_offset_is_found() -> None:
    z = torch.randn(500, 3, generator=torch.Generator().manual_seed(1))
    z[:, 0] -= 200
    assert torch.allclose(
        (z + match_prior(z, torch.full((3,), 1 / 3))).softmax(-1).mean(0), torch.full((3,), 1 / 3), atol=1e-4
    )


@pytest.mark.parametrize(
    ("prior", "classes", "error", "says"),
    [
        ([0.5, 0.5], None, ShapeError, r"one share per class, \[5\], but is \[2\]"),
        ([0.5, 0.1, 0.1, 0.1, 0.1], None, DataError, "sum to 0.9"),
        ([0.2] * 5, [7], ConfigError, "some of 0 to 4"),
        ([0.0, 0.4, 0.2, 0.2, 0.2], None, DataError, "infinite offset"),
    ],
)
def test_what_cannot_be_matched_is_refused(
    logits: torch.Tensor, prior: list[float], classes: list[int] | None, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        match_prior(logits, torch.tensor(prior), classes)


def test_the_bias_carries_the_offsets() -> None:
    net, x, offsets = limbeck.mlp([4, 8, 3]), torch.randn(6, 4), torch.tensor([0.5, -1.0, 2.0])
    before = net(x).detach()
    assert torch.allclose(shift_bias(net, offsets)(x), before + offsets, atol=1e-6)


def test_a_student_without_such_a_bias_is_refused() -> None:
    with pytest.raises(ModelError, match="are for 4 classes, but the student ends in 3 outputs"):
        shift_bias(limbeck.mlp([4, 3]), torch.zeros(4))
