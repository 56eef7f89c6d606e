"""What is particular to a kind of targets; what all of them must do is in contracts/test_targets.py."""

import math
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from limbeck.errors import ObjectiveError, ShapeError, TargetError
from limbeck.losses.divergences import (
    cross_entropy,
    forward_kl,
    jensen_shannon,
    logit_matching,
    reverse_kl,
    skewed_kl,
    skewed_reverse_kl,
    total_variation,
)
from limbeck.losses.targets import (
    DenseTargets,
    Head,
    HiddenTargets,
    MixedTargets,
    SampledTargets,
    SparseTargets,
    as_targets,
    concatenate,
)

COARSENABLE = [
    forward_kl,
    reverse_kl,
    cross_entropy,
    jensen_shannon(0.3),
    skewed_kl(0.2),
    skewed_reverse_kl(0.2),
    total_variation,
]


def logits(*shape: int, seed: int = 0, scale: float = 2.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def value(divergence, targets, z: Tensor, temperature: float = 1.0) -> Tensor:
    divergence = targets.compared_by(divergence, temperature)
    return divergence(*targets.events((z / temperature).log_softmax(-1), temperature))


def test_only_targets_made_alike_are_put_together() -> None:
    """The first one's temperature, number of classes, mean or weights must not be written over the others'."""
    v = logits(4, 6)
    dense, sparse = DenseTargets(v), SparseTargets.from_logits(v, 2)
    unlike = [
        (dense, sparse),
        (sparse, SparseTargets.from_logits(v, 2, temperature=3.0)),
        (sparse, replace(sparse, classes=7)),
        (replace(sparse, tail_mean=None), sparse),
        (sparse, replace(sparse, tail=None)),
        (SampledTargets.draw(v, 3), SampledTargets.draw(v, 3, temperature=2.0)),
        (MixedTargets([dense]), MixedTargets([dense], "geometric")),
        (MixedTargets([dense, dense], weights=[1, 2]), MixedTargets([dense, dense], weights=[2, 1])),
        (MixedTargets([dense]), MixedTargets([dense, dense])),
        (),
    ]
    accepted = []
    for targets in unlike:
        try:
            concatenate(targets)
        except (TargetError, ShapeError):
            continue
        except Exception as wrong:
            accepted.append((targets, wrong))
        else:
            accepted.append((targets, "accepted"))
    assert accepted == []


# Dense


def test_a_teachers_words_become_targets() -> None:
    assert as_targets(torch.zeros(2, 3, 5)).logits.shape == (6, 5)
    for said in (None, [[1.0, 2.0]], np.zeros((2, 3)), "logits"):
        with pytest.raises(TargetError, match=type(said).__name__):
            as_targets(said)


def test_dense_events_are_softened_logits() -> None:
    v = logits(4, 5)
    log_p = DenseTargets(v).events(torch.zeros(4, 5), 3.0)[1]
    expected = np.exp(v.numpy() / 3)
    np.testing.assert_allclose(log_p.exp().numpy(), expected / expected.sum(-1, keepdims=True), rtol=1e-12)


def test_hidden_targets_are_the_logits_of_their_head() -> None:
    weight, bias, states = logits(7, 3, seed=1), logits(7, seed=2), logits(4, 3)
    targets = HiddenTargets(states, Head(weight, bias, logit_scale=0.5, softcap=3.0))
    raw = states.numpy() @ weight.numpy().T + bias.numpy()
    np.testing.assert_allclose(targets.logits.numpy(), 3 * np.tanh(0.5 * raw / 3), rtol=1e-12)
    log_q, log_p = targets.events(logits(4, 7, seed=3).log_softmax(-1), 2.0)
    torch.testing.assert_close(log_p, DenseTargets(targets.logits).events(log_q, 2.0)[1])


def test_hidden_targets_of_two_heads_are_not_put_together() -> None:
    states, weight = logits(4, 3), logits(7, 3, seed=1)
    with pytest.raises(TargetError, match=r"one kind and settings.*Head\(\[7, 3\] torch.float64"):
        concatenate([HiddenTargets(states, Head(weight)), HiddenTargets(states, Head(weight.clone()))])


def test_a_head_that_does_not_read_these_states_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"hidden states are \[4, 3\].*\[C, H\] = \[7, 5\]"):
        HiddenTargets(logits(4, 3), Head(logits(7, 5)))
    with pytest.raises(ShapeError, match=r"bias.*\[7\].*\[6\]"):
        Head(logits(7, 5), logits(6))
    with pytest.raises(ObjectiveError, match="softcap is a number above 0"):
        Head(logits(7, 5), softcap=0.0)
    with pytest.raises(ObjectiveError, match="logit_scale is a finite number"):
        Head(logits(7, 5), logit_scale=0.0)


def test_probabilities_are_logits_once_they_are_logged() -> None:
    """softmax(log p / T) is p^(1/T), normalised; a probability of zero stays zero."""
    probs = torch.tensor([[0.7, 0.3, 0.0]], dtype=torch.float64)
    log_p = DenseTargets.from_probs(probs).events(torch.zeros(1, 3), 2.0)[1]
    root = np.sqrt([0.7, 0.3, 0.0])
    np.testing.assert_allclose(log_p.exp().numpy(), [root / root.sum()], rtol=1e-12)


def test_dense_targets_have_two_axes() -> None:
    with pytest.raises(ShapeError, match=r"\[2, 3, 4\]"):
        DenseTargets(torch.zeros(2, 3, 4))


# Sparse


@given(
    classes=st.integers(2, 9),
    seed=st.integers(0, 10_000),
    temperature=st.sampled_from([0.5, 1.0, 4.0]),
    scale=st.sampled_from([0.1, 2.0, 10.0]),
)
def test_sparse_is_a_lower_bound_of_dense(classes: int, seed: int, temperature: float, scale: float) -> None:
    """Data processing inequality, for targets made at the temperature they are used at; more classes, tighter."""
    z, v = logits(3, classes, seed=seed, scale=scale), logits(3, classes, seed=seed + 1, scale=scale)
    for divergence in COARSENABLE:
        before = torch.zeros(3, dtype=torch.float64)
        for k in range(1, classes + 1):
            now = value(divergence, SparseTargets.from_logits(v, k, temperature), z, temperature)
            assert (now >= before - 1e-12 * (1 + now)).all(), (divergence, k)
            before = now
        dense = value(divergence, DenseTargets(v), z, temperature)
        torch.testing.assert_close(before, dense, rtol=1e-10, atol=1e-13, msg=divergence.name)


@pytest.mark.parametrize("divergence", [*COARSENABLE, logit_matching], ids=lambda divergence: divergence.name)
@pytest.mark.parametrize("temperature", [0.3, 2.0, 50.0])
def test_with_every_class_sparse_is_dense_at_any_temperature(divergence, temperature: float) -> None:
    z, v = logits(4, 6, seed=1), logits(4, 6, seed=2)
    complete = SparseTargets.from_logits(v, 6, temperature=2.0)
    shuffled = replace(complete, ids=complete.ids.flip(-1), log_probs=complete.log_probs.flip(-1))
    dense = value(divergence, DenseTargets(v), z, temperature)
    torch.testing.assert_close(value(divergence, complete, z, temperature), dense, rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(value(divergence, shuffled, z, temperature), dense, rtol=1e-10, atol=1e-13)
    assert complete.events(z, temperature)[0].shape == (4, 6)  # no tail event


def test_the_tail_is_the_probability_of_all_other_classes() -> None:
    z, v = logits(4, 6, seed=1), logits(4, 6, seed=2)
    targets = SparseTargets.from_logits(v, 2, temperature=3.0)
    log_q, log_p = targets.events((z / 3).log_softmax(-1), 3.0)
    for row in range(4):
        top = np.argsort(-v[row].numpy())[:2]
        for log_probs, x in ((log_q, z), (log_p, v)):
            probs = np.exp(x[row].numpy() / 3) / np.exp(x[row].numpy() / 3).sum()
            np.testing.assert_allclose(log_probs[row].exp(), [*probs[top], 1 - probs[top].sum()], rtol=1e-12)


@given(
    k=st.integers(1, 5), classes=st.integers(5, 400), zeros=st.sampled_from([0.0, 0.3, 0.99]), seed=st.integers(0, 999)
)
def test_the_most_probable_of_many_classes_are_numpys(k: int, classes: int, zeros: float, seed: int) -> None:
    """Whole numbers, of which many are equal, so that a place can be many a class's; and classes that are ruled out."""
    random = np.random.default_rng(seed)
    v = random.integers(-4, 5, (3, classes)).astype(np.float64)
    v[:, 1:][random.random((3, classes - 1)) < zeros] = -math.inf
    targets = SparseTargets.from_logits(torch.from_numpy(v), k, 2.0)
    log_p = v / 2 - np.log(np.exp(v / 2).sum(-1, keepdims=True))
    ids = targets.ids.numpy()
    assert all(len(set(row)) == k for row in ids)
    np.testing.assert_allclose(targets.log_probs, np.take_along_axis(log_p, ids, -1), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(targets.log_probs, -np.sort(-log_p)[:, :k], rtol=1e-12, atol=1e-12)
    if k == classes:
        return
    tail, tail_mean, tail_classes = (getattr(targets, name) for name in ("tail", "tail_mean", "tail_classes"))
    np.put_along_axis(log_p, ids, -math.inf, -1)
    there = np.isfinite(log_p)
    np.testing.assert_array_equal(tail_classes, there.sum(-1))
    np.testing.assert_allclose(tail.exp(), np.exp(log_p).sum(-1), rtol=1e-10)
    mean = np.where(there, log_p, 0).sum(-1) / np.maximum(there.sum(-1), 1)
    np.testing.assert_allclose(tail_mean, mean, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_many_classes_of_which_one_is_no_number_are_bad(bad: float) -> None:
    v = logits(3, 500)
    v[1, 77] = bad
    assert SparseTargets.from_logits(v, 4).bad_rows(forward_kl).tolist() == [False, True, False]


def test_the_students_tail_survives_where_1_minus_the_sum_is_0() -> None:
    """In float32, 1 - q_0 rounds to 0 for a student this sure; its tail still is log(4 exp(-50))."""
    z = torch.tensor([[50.0, 0, 0, 0, 0]], requires_grad=True)
    targets = SparseTargets.from_logits(torch.tensor([[1.0, 0, 0, 0, 0]]), 1)
    log_q, log_p = targets.events(z.log_softmax(-1), 1.0)
    assert log_q[0, 1].item() == pytest.approx(math.log(4) - 50, rel=1e-6)
    (gradient,) = torch.autograd.grad(forward_kl(log_q, log_p).sum(), z)
    tail = 4 / (math.e + 4)
    assert gradient[0, 0].item() == pytest.approx(tail, rel=1e-5)
    assert gradient[0, 1:].tolist() == pytest.approx([-tail / 4] * 4, rel=1e-5)


def test_a_tail_that_is_not_given_is_what_is_left_of_1() -> None:
    given_ = SparseTargets.from_logits(logits(4, 6), 2)
    left = replace(given_, tail=None, tail_mean=None)
    student = logits(4, 6, seed=1).log_softmax(-1)
    torch.testing.assert_close(left.events(student, 1.0)[1], given_.events(student, 1.0)[1])
    rounded_up = SparseTargets(torch.tensor([[0, 1]]), torch.tensor([[0.0, -6.0]]), 4)
    assert rounded_up.events(torch.zeros(1, 4), 1.0)[1][0, 2] == -math.inf


def test_the_tail_reads_exactly_where_it_was_made_and_to_first_order_as_temperature_grows() -> None:
    """log S(beta) = log sum_tail p^beta: the formula's error falls as T^-2, its beta^2 term being a guess."""
    v = logits(5, 12, seed=3, scale=3.0)
    made_at = 1.5
    targets = SparseTargets.from_logits(v, 4, made_at)
    tail = (v / made_at).log_softmax(-1).scatter(-1, targets.ids, -math.inf)

    def error(temperature: float) -> float:
        top = targets.log_probs * made_at / temperature
        exact = torch.cat([top, (tail * made_at / temperature).logsumexp(-1, keepdim=True)], -1).log_softmax(-1)
        return (targets.events(v, temperature)[1] - exact).norm().item()

    assert error(made_at) < 1e-13
    temperatures = np.array([32.0, 64, 128, 256, 512])
    errors = [error(t) for t in temperatures]
    assert np.polyfit(np.log(temperatures), np.log(errors), 1)[0] == pytest.approx(-2, abs=0.1)
    assert errors[-1] < 1e-4


def test_the_tail_of_equal_classes_reads_exactly_at_any_higher_temperature() -> None:
    v = torch.tensor([[4.0, 1, 1, 1, 1]], dtype=torch.float64)
    log_p = SparseTargets.from_logits(v, 1).events(v, 7.0)[1]
    probs = (v / 7).softmax(-1)[0]
    torch.testing.assert_close(log_p.exp(), torch.stack([probs[0], probs[1:].sum()])[None])


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_a_zero_in_the_tail_is_exact_or_refused(k: int, temperature: float) -> None:
    """A teacher that rules classes out: right where it was made; elsewhere right, refused or bad, never nan."""
    v = torch.tensor([[2.0, 1.0, 0.0, -math.inf, -math.inf]], dtype=torch.float64)
    targets = SparseTargets.from_logits(v, k)
    if temperature == 1:
        assert not targets.bad_rows(forward_kl).any()
    try:
        targets.compared_by(forward_kl, temperature)
    except ObjectiveError:
        return
    log_p = targets.events(torch.zeros(1, 5, dtype=torch.float64), temperature)[1]
    assert targets.bad_rows(forward_kl).any() or not log_p.isnan().any()


@pytest.mark.parametrize("temperature", [2.0, 4.0, 20.0])
@pytest.mark.parametrize("masked", [-1e4, -1e9, torch.finfo(torch.float32).min, -torch.inf])
def test_masked_classes_are_none_however_they_were_masked(masked: float, temperature: float) -> None:
    """Oracle: the targets of the other classes alone."""
    v = torch.randn(8, 100, generator=torch.Generator().manual_seed(0))
    v[:, 90:] = masked
    found, expected = SparseTargets.from_logits(v, 16), SparseTargets.from_logits(v[:, :90], 16)
    torch.testing.assert_close(found.tail_mean, expected.tail_mean)
    torch.testing.assert_close(found.tail_classes, expected.tail_classes)
    assert not found.bad_rows(forward_kl).any()
    q = torch.randn(8, 100, generator=torch.Generator().manual_seed(1)).log_softmax(-1)
    log_p = found.events(q, temperature)[1]
    torch.testing.assert_close(log_p, expected.events(q[:, :90], temperature)[1])
    assert len(SparseTargets.from_logits(v[:0], 16)) == 0


def test_temperatures_the_tail_cannot_be_read_at_are_refused() -> None:
    targets = SparseTargets.from_logits(logits(4, 6), 2, temperature=2.0)
    assert targets.compared_by(forward_kl, 2.0) is forward_kl
    assert targets.compared_by(forward_kl, 5.0) is forward_kl
    with pytest.raises(ObjectiveError, match=r"made at temperature 2 cannot be sharpened to 1\.5"):
        targets.compared_by(forward_kl, 1.5)
    with pytest.raises(ObjectiveError, match="make them at 5, or keep tail_mean"):
        replace(targets, tail_mean=None).compared_by(forward_kl, 5.0)
    complete = SparseTargets.from_logits(logits(4, 6), 6, temperature=2.0)
    assert complete.compared_by(forward_kl, 0.5) is forward_kl


@pytest.mark.parametrize("divergence", [logit_matching, deepcopy(logit_matching)], ids=["itself", "copied"])
def test_logit_matching_needs_every_class(divergence) -> None:
    with pytest.raises(ObjectiveError, match="keep 5 of 6"):
        SparseTargets.from_logits(logits(4, 6), 5).compared_by(divergence, 1.0)
    assert SparseTargets.from_logits(logits(4, 6), 6).compared_by(divergence, 1.0) is divergence


def test_sparse_shapes_are_refused() -> None:
    for k in (0, 7):
        with pytest.raises(ShapeError, match=str(k)):
            SparseTargets.from_logits(logits(4, 6), k)
    with pytest.raises(ShapeError, match=r"\[2, 3\] and \[2, 2\]"):
        SparseTargets(torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, 2), 9)
    with pytest.raises(ShapeError, match="1 to 3 classes"):
        SparseTargets(torch.zeros(2, 4, dtype=torch.int64), torch.zeros(2, 4), 3)


# Sampled


@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("proposal", ["the teacher", "flat"])
def test_the_mean_gradient_over_draws_is_the_dense_one(temperature: float, proposal: str) -> None:
    """20,000 draws of K = 4: within 4 standard errors at each class. Weights p_c / (K r_c), never renormalised."""
    draws, k, classes = 20_000, 4, 6
    z, v = logits(classes, seed=1), logits(classes, seed=2)
    p = (v / temperature).softmax(-1)
    generator = torch.Generator().manual_seed(0)
    if proposal == "the teacher":
        targets = SampledTargets.draw(v.expand(draws, -1), k, temperature, generator)
    else:
        r = (0.5 * p + 0.5 / classes).float()
        ids = torch.multinomial(r.expand(draws, -1), k, replacement=True, generator=generator)
        targets = SampledTargets(ids, p[ids] / (k * r[ids]), classes, temperature)

    def gradient(targets, rows: int) -> Tensor:
        student = z.expand(rows, -1).clone().requires_grad_()
        return torch.autograd.grad(value(forward_kl, targets, student, temperature).sum(), student)[0]

    sampled = gradient(targets, draws)
    dense = gradient(DenseTargets(v[None]), 1)[0]
    standard_error = sampled.std(0) / math.sqrt(draws)
    assert ((sampled.mean(0) - dense).abs() < 4 * standard_error).all()
    assert (standard_error < 0.01 * dense.abs().max()).all()  # and that says something


def test_sampled_values_are_the_cross_entropy() -> None:
    """By hand: 1/2 (-log q_1) + 1/2 (-log q_1), a class drawn twice counts twice."""
    targets = SampledTargets(torch.tensor([[1, 1]]), torch.tensor([[0.5, 0.5]]), 3)
    student = torch.tensor([[0.2, 0.3, 0.5]]).log()
    for divergence in (forward_kl, cross_entropy):
        chosen = targets.compared_by(divergence, 1.0)
        assert chosen(*targets.events(student, 1.0)).item() == pytest.approx(-math.log(0.3))


def test_a_weight_of_zero_adds_nothing() -> None:
    targets = SampledTargets(torch.tensor([[1, 2]]), torch.tensor([[1.0, 0.0]]), 3)
    student = torch.tensor([[0.2, 0.3, 0.5]]).log().requires_grad_()
    said = cross_entropy(*targets.events(student, 1.0))
    (gradient,) = torch.autograd.grad(said.sum(), student)
    assert said.item() == pytest.approx(-math.log(0.3))
    assert gradient.tolist() == [[0.0, -1.0, 0.0]]
    assert not targets.bad_rows(forward_kl).any()


@pytest.mark.parametrize(
    "divergence",
    [d for d in [*COARSENABLE, logit_matching] if d not in (forward_kl, cross_entropy)],
    ids=lambda divergence: divergence.name,
)
def test_samples_refuse_what_they_would_bias(divergence) -> None:
    targets = SampledTargets.draw(logits(4, 6), 3, 2.0, torch.Generator().manual_seed(0))
    with pytest.raises(ObjectiveError, match=f"not {divergence.name}".replace("(", r"\(").replace(")", r"\)")):
        targets.compared_by(divergence, 2.0)


def test_samples_hold_at_the_temperature_they_were_drawn_for() -> None:
    targets = SampledTargets.draw(logits(4, 6), 3, 2.0, torch.Generator().manual_seed(0))
    assert targets.compared_by(forward_kl, 2.0) is cross_entropy
    assert targets.compared_by(deepcopy(forward_kl), 2.0) == cross_entropy
    with pytest.raises(ObjectiveError, match="drawn at temperature 2"):
        targets.compared_by(forward_kl, 1.0)
    with pytest.raises(ShapeError, match=r"\[1, 2\] and \[1, 3\]"):
        SampledTargets(torch.zeros(1, 2, dtype=torch.int64), torch.zeros(1, 3), 4)


# Mixed


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("weights", [None, [1, 2, 5], [0.0, 1.0, 1.0]])
def test_the_two_means_of_an_ensemble(temperature: float, weights: list[float] | None) -> None:
    v = logits(3, 4, 6, seed=5)
    shares = np.array(weights or [1, 1, 1]) / sum(weights or [1, 1, 1])
    members = [DenseTargets(one) for one in v]
    softened = softmax(v.numpy() / temperature)  # [members, n, C]

    def mixture(mean: str) -> np.ndarray:
        return MixedTargets(members, mean, weights).events(v[0], temperature)[1].exp().numpy()

    np.testing.assert_allclose(mixture("arithmetic"), np.einsum("k,knc->nc", shares, softened), rtol=1e-12)
    product = np.prod(softened ** shares[:, None, None], axis=0)
    np.testing.assert_allclose(mixture("geometric"), product / product.sum(-1, keepdims=True), rtol=1e-12)
    of_mean_logits = softmax(np.einsum("k,knc->nc", shares, v.numpy()) / temperature)
    np.testing.assert_allclose(mixture("geometric"), of_mean_logits, rtol=1e-12)


def test_the_mean_of_softmaxes_is_not_the_softmax_of_means() -> None:
    """By hand: softmax([ln 9, 0]) and softmax([0, 0]) have the mean .7; softmax([ln 3, 0]) is .75."""
    members = [DenseTargets(torch.tensor([[math.log(9), 0.0]])), DenseTargets(torch.zeros(1, 2))]
    student = torch.zeros(1, 2)
    assert MixedTargets(members).events(student, 1.0)[1].exp()[0, 0].item() == pytest.approx(0.7)
    assert MixedTargets(members, "geometric").events(student, 1.0)[1].exp()[0, 0].item() == pytest.approx(0.75)


def test_one_members_zero() -> None:
    """Arithmetic: the others still speak. Geometric: a zero is a veto, unless its member has no weight."""
    sure = DenseTargets(torch.tensor([[-math.inf, 0.0, 0.0]], dtype=torch.float64))
    flat = DenseTargets(torch.zeros(1, 3, dtype=torch.float64))

    def mixture(mean: str, weights: list[float] | None = None) -> list[float]:
        return MixedTargets([sure, flat], mean, weights).events(flat.logits, 1.0)[1].exp()[0].tolist()

    assert mixture("arithmetic") == pytest.approx([1 / 6, 5 / 12, 5 / 12])
    assert mixture("geometric") == pytest.approx([0, 0.5, 0.5])
    assert mixture("arithmetic", [0, 1]) == pytest.approx([1 / 3] * 3)
    assert mixture("geometric", [0, 1]) == pytest.approx([1 / 3] * 3)
    assert MixedTargets([sure, flat]).bad_rows(reverse_kl).tolist() == [False]
    assert MixedTargets([sure, flat], "geometric").bad_rows(reverse_kl).tolist() == [True]
    disjoint = DenseTargets(torch.tensor([[0.0, -math.inf, -math.inf]], dtype=torch.float64))
    assert MixedTargets([sure, disjoint], "geometric").bad_rows(forward_kl).tolist() == [True]
    assert MixedTargets([sure, disjoint]).bad_rows(forward_kl).tolist() == [False]


def test_ensembles_that_make_no_sense_are_refused() -> None:
    one, other = DenseTargets(logits(4, 6)), DenseTargets(logits(4, 5))
    with pytest.raises(TargetError, match="at least one member"):
        MixedTargets([])
    with pytest.raises(ObjectiveError, match="harmonic"):
        MixedTargets([one], "harmonic")
    with pytest.raises(ShapeError, match=r"\(4, 5\), \(4, 6\)"):
        MixedTargets([one, other])
    for weights in ([1.0], [1.0, -1.0], [0.0, 0.0], [1.0, math.nan], [1.0, math.inf], []):
        with pytest.raises(ObjectiveError, match="2 weights of 0 or more"):
            MixedTargets([one, one], weights=weights)
    for partial in (SparseTargets.from_logits(logits(4, 6), 2), SampledTargets.draw(logits(4, 6), 2)):
        with pytest.raises(TargetError, match="mix the teachers first"):
            MixedTargets([one, partial])
