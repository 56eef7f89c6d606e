"""The paper's Eq. 5: against scipy in float64, against its closed forms, and against its own optimality condition."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from limbeck.errors import ModelError, ShapeError
from limbeck.teachers import Specialist, Specialists
from limbeck.teachers.specialists import solve

GROUPS = [[0, 1, 2], [2, 3, 4, 5], [5, 6]]


def random_log_probs(n: int, classes: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (2 * torch.randn(n, classes, generator=generator, dtype=torch.float64)).log_softmax(-1)


def eq5(log_q: np.ndarray, general: np.ndarray, special: list[np.ndarray], groups: list[list[int]]) -> float:
    """KL(p_g, q) + sum_m KL(p_m, q), written out for one case."""
    q = np.exp(log_q)
    total = float((np.exp(general) * (general - log_q)).sum())
    for log_p, group in zip(special, groups, strict=True):
        rest = [c for c in range(len(q)) if c not in group]
        events = np.append(log_q[group], np.log(q[rest].sum()))
        total += float((np.exp(log_p) * (log_p - events)).sum())
    return total


def test_the_solution_is_that_of_a_float64_solver() -> None:
    n, classes = 12, 7
    general = random_log_probs(n, classes, 0)
    special = [random_log_probs(n, len(group) + 1, 1 + m) for m, group in enumerate(GROUPS)]
    active = torch.rand(n, 3, generator=torch.Generator().manual_seed(9)) < 0.6
    ours = solve(general, special, GROUPS, active).numpy()
    for i in range(n):
        on = [m for m in range(3) if active[i, m]]
        told = [special[m][i].numpy() for m in on], [GROUPS[m] for m in on]

        def value(z: np.ndarray, i: int = i, told: tuple = told) -> float:
            return eq5(z - np.logaddexp.reduce(z), general[i].numpy(), *told)

        found = minimize(value, general[i].numpy(), method="BFGS", options={"gtol": 1e-9})
        theirs = found.x - np.logaddexp.reduce(found.x)
        assert value(ours[i]) <= found.fun + 1e-10
        np.testing.assert_allclose(np.exp(ours[i]), np.exp(theirs), atol=2e-6)


def test_without_an_active_specialist_it_is_the_generalist() -> None:
    general = random_log_probs(5, 7, 0)
    special = [random_log_probs(5, len(group) + 1, 1) for group in GROUPS]
    log_q = solve(general, special, GROUPS, torch.zeros(5, 3, dtype=torch.bool))
    assert torch.allclose(log_q.exp(), general.exp(), atol=1e-9)


def test_one_specialist_has_a_closed_form() -> None:
    """Special classes: the mean of both; the rest: the generalist's shares of the mean of both masses."""
    general, special = random_log_probs(6, 7, 0), random_log_probs(6, 4, 1)
    group, rest = [1, 4, 5], [0, 2, 3, 6]
    q = solve(general, [special], [group], torch.ones(6, 1, dtype=torch.bool)).exp()
    p, s = general.exp(), special.exp()
    assert torch.allclose(q[:, group], (p[:, group] + s[:, :3]) / 2, atol=1e-8)
    mass = (p[:, rest].sum(1) + s[:, 3]) / 2
    expected = p[:, rest] / p[:, rest].sum(1, keepdim=True) * mass.unsqueeze(1)
    assert torch.allclose(q[:, rest], expected, atol=1e-8)


def test_specialists_over_all_classes_give_the_arithmetic_mean() -> None:
    general = random_log_probs(6, 5, 0)
    everything = list(range(5))
    full = [random_log_probs(6, 5, m + 1) for m in range(3)]
    nothing = torch.full((6, 1), -torch.inf, dtype=torch.float64)
    special = [torch.cat([log_p, nothing], 1) for log_p in full]
    q = solve(general, special, [everything] * 3, torch.ones(6, 3, dtype=torch.bool)).exp()
    expected = torch.stack([general, *full]).exp().mean(0)
    assert torch.allclose(q, expected, atol=1e-12)


def test_a_thousand_cases_meet_the_optimality_condition() -> None:
    """At the minimum, moving probability between classes changes nothing: sum_j p_j [i in S_j] / q(S_j) is constant."""
    n, classes, generator = 1000, 100, torch.Generator().manual_seed(3)
    groups = [torch.randperm(classes, generator=generator)[:15].tolist() for _ in range(20)]
    general = random_log_probs(n, classes, 0)
    special = [random_log_probs(n, 16, 1 + m) for m in range(20)]
    member = torch.tensor([[c in group for c in range(classes)] for group in groups])
    active = member[:, general.argmax(-1)].T
    q = solve(general, special, groups, active).exp()
    pull = general.exp() / q
    for m, group in enumerate(groups):
        rest = [c for c in range(classes) if c not in group]
        share = torch.zeros(n, classes, dtype=torch.float64)
        share[:, group] = special[m][:, :-1].exp() / q[:, group]
        share[:, rest] = (special[m][:, -1].exp() / q[:, rest].sum(1)).unsqueeze(1)
        pull += active[:, m : m + 1] * share
    voices = 1 + active.sum(1, keepdim=True).double()
    assert (pull / voices - 1).abs().max() < 1e-3


def test_a_teacher_asks_those_whose_classes_are_guessed() -> None:
    general = torch.tensor([[5.0, 0, 0, 0], [0, 0, 5.0, 1.0]])
    low, high = torch.tensor([[1.0, 0, -1], [1.0, 0, -1]]), torch.tensor([[0.0, 2, 0], [0.0, 2, 0]])
    members = [Specialist(lambda batch: low, (0, 1)), Specialist(lambda batch: high, (2, 3))]
    teacher = Specialists(lambda batch: general, members)
    assert teacher.active(general).tolist() == [[True, False], [False, True]]
    said = teacher({"inputs": torch.zeros(2, 1)})
    p, s = general.softmax(-1), high.softmax(-1)
    assert torch.allclose(said.logits[1, 2:].exp(), (p[1, 2:] + s[1, :2]) / 2, atol=1e-6)
    assert Specialists(lambda batch: general, members, guesses=2).active(general)[1].tolist() == [False, True]


def test_specialists_of_the_wrong_size_and_none_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"specialist of 3 classes gives \[2, 4\]"):
        solve(torch.zeros(2, 5), [torch.zeros(2, 3)], [[0, 1, 2]], torch.ones(2, 1, dtype=torch.bool))
    with pytest.raises(ModelError, match="at least one specialist"):
        Specialists(lambda batch: torch.zeros(1, 2), [])
