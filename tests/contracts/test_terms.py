"""What every term of an objective must do. A new term is a row of `TERMS` and inherits everything below.

Oracles: the row's own formula, torch in float64, autograd; the same term in one batch for parts and accumulation.
"""

import copy
import pickle
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import limbeck
from limbeck.errors import ObjectiveError
from limbeck.losses.divergences import jensen_shannon
from limbeck.losses.linear import linear_divergence
from limbeck.losses.objective import Counts, Objective, count_positions
from limbeck.losses.targets import DenseTargets, SoftTargets
from limbeck.losses.terms import HardTerm, SoftTerm, Term
from limbeck.networks.mlp import mlp
from limbeck.training.config import DistillConfig
from limbeck.training.trainer import DistillTrainer
from limbeck.transfer import arrays

N, C, T = 12, 7, 2.0
LABELS = torch.where(torch.arange(N) % 3 == 0, -100, torch.arange(N) % C)
WEIGHTS = 0.5 + torch.arange(N, dtype=torch.float64) % 4
MASK = torch.arange(N) % 5 != 1


def random(*shape: int, seed: int) -> Tensor:
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


STUDENT, TEACHER = random(N, C, seed=1), random(N, C, seed=2)


@dataclass(frozen=True)
class Entropy(Term):
    """A user's term that needs nothing but the student."""

    def value(self, logits: Tensor, targets: SoftTargets | None, labels: Tensor | None) -> Tensor:
        log_q = logits.log_softmax(-1)
        return -(log_q.exp() * log_q).sum(-1)


@dataclass(frozen=True)
class Squared(Term):
    """A user's term that needs labels."""

    needs_labels: ClassVar[bool] = True

    def value(self, logits: Tensor, targets: SoftTargets | None, labels: Tensor | None) -> Tensor:
        assert labels is not None
        nll = F.cross_entropy(logits, labels, ignore_index=-100, reduction="none")
        return nll.square()


@dataclass(frozen=True)
class Disagreement(Term):
    """A user's term that needs targets: 1 minus the probability that student and teacher draw the same class."""

    needs_targets: ClassVar[bool] = True

    def value(self, logits: Tensor, targets: SoftTargets | None, labels: Tensor | None) -> Tensor:
        assert targets is not None
        return 1 - (logits.softmax(-1) * targets.all_log_probs(1.0).exp()).sum(-1)


class Row(NamedTuple):
    """A term, its values at STUDENT and TEACHER by a formula, and the objective that has it.

    formula: `(z, v, labels) -> [n]`, with any value where a label is -100.
    """

    term: Term
    formula: Callable[[Tensor, Tensor, Tensor], Tensor]
    objective: Callable[[], Objective]


def extra(term: Term) -> Callable[[], Objective]:
    return lambda: Objective(temperature=T, hard_weight=0.5, extra_terms=(term,))


def kl(z: Tensor, v: Tensor, labels: Tensor) -> Tensor:
    return F.kl_div((z / T).log_softmax(-1), (v / T).softmax(-1), reduction="none").sum(-1)


def nll(z: Tensor, labels: Tensor) -> Tensor:
    return -z.log_softmax(-1).gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)


ROWS = [
    Row(SoftTerm("soft", 1.0, limbeck.forward_kl, T), kl, lambda: Objective(temperature=T)),
    Row(HardTerm("hard", 0.5), lambda z, v, labels: nll(z, labels), lambda: Objective(temperature=T, hard_weight=0.5)),
    Row(
        Entropy("entropy", 0.3),
        lambda z, v, labels: torch.distributions.Categorical(logits=z).entropy(),
        extra(Entropy("entropy", 0.3)),
    ),
    Row(Squared("squared", 0.2), lambda z, v, labels: nll(z, labels) ** 2, extra(Squared("squared", 0.2))),
    Row(
        Disagreement("disagreement", 0.4),
        lambda z, v, labels: 1 - (z.softmax(-1) * v.softmax(-1)).sum(-1),
        extra(Disagreement("disagreement", 0.4)),
    ),
]
TERMS = {row.term.name: row for row in ROWS}
every_term = pytest.mark.parametrize("row", ROWS, ids=TERMS)


def value_of(term: Term, logits: Tensor, labels: Tensor = LABELS) -> Tensor:
    return term.value(logits, DenseTargets(TEACHER[: len(logits)]), labels[: len(logits)])


def expected_of(row: Row) -> tuple[Tensor, Tensor]:
    """Values and weights `[n]`; a term that needs labels counts the positions that have one."""
    weights = WEIGHTS * MASK
    return row.formula(STUDENT, TEACHER, LABELS), weights * (LABELS >= 0) if row.term.needs_labels else weights


@every_term
def test_its_value_is_the_formula_and_0_where_it_does_not_count(row: Row) -> None:
    found = value_of(row.term, STUDENT)
    expected = row.formula(STUDENT, TEACHER, LABELS)
    assert found.shape == (N,)
    torch.testing.assert_close(found, torch.where(LABELS < 0, 0.0, expected) if row.term.needs_labels else expected)


@every_term
def test_its_gradient_for_the_kernels_is_autograds(row: Row) -> None:
    leaf, share = STUDENT.clone().requires_grad_(), random(N, seed=5)
    (expected,) = torch.autograd.grad((share * value_of(row.term, leaf)).sum(), leaf)
    targets = DenseTargets(TEACHER)
    with torch.no_grad():  # as the kernels call it
        value, gradient = row.term.value_and_gradient(STUDENT, targets, LABELS, share)
        alone, none = row.term.value_and_gradient(STUDENT, targets, LABELS, None)
    assert gradient is not None
    torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(value, value_of(row.term, STUDENT))
    assert none is None
    assert torch.equal(alone, value)


@every_term
def test_its_part_of_the_loss_goes_by_its_name_and_its_count(row: Row) -> None:
    values, weights = expected_of(row)
    loss = row.objective()(STUDENT, TEACHER, LABELS, mask=MASK, weights=WEIGHTS)
    part = loss.parts[row.term.name]
    torch.testing.assert_close(part.sum, (values * weights).sum())
    torch.testing.assert_close(part.count, weights.sum())
    counts = count_positions((N,), LABELS, MASK, WEIGHTS, terms=row.objective().all_terms)
    torch.testing.assert_close(counts[row.term.name], weights.sum())


@every_term
def test_the_loss_is_the_sum_of_the_scaled_means_of_all_terms(row: Row) -> None:
    objective = row.objective()
    loss = objective(STUDENT, TEACHER, LABELS, mask=MASK, weights=WEIGHTS)
    expected = 0.0
    for term in objective.terms:
        values, weights = expected_of(TERMS[term.name])
        scale = T**2 * term.weight if term.name == "soft" else term.weight
        expected = expected + scale * (values * weights).sum() / weights.sum()
    torch.testing.assert_close(loss.mean, expected)


@every_term
def test_parts_of_a_batch_add_up_to_the_whole(row: Row) -> None:
    objective, leaf = row.objective(), STUDENT.clone().requires_grad_()
    whole = objective(leaf, TEACHER, LABELS, mask=MASK, weights=WEIGHTS).mean
    (expected,) = torch.autograd.grad(whole, leaf)
    counts = count_positions((N,), LABELS, MASK, WEIGHTS, terms=objective.all_terms)
    shares = [
        objective(leaf[p], TEACHER[p], LABELS[p], mask=MASK[p], weights=WEIGHTS[p], counts=counts).mean
        for p in (slice(0, 1), slice(1, 5), slice(5, N))
    ]
    torch.testing.assert_close(sum(shares), whole)
    torch.testing.assert_close(torch.autograd.grad(sum(shares), leaf)[0], expected)


@every_term
@pytest.mark.parametrize("impl", ["chunked", "compiled"])
@pytest.mark.filterwarnings("error:torch.compile failed")
def test_every_kernel_has_its_value_and_gradient(row: Row, impl: str) -> None:
    hidden, weight = random(N, 5, seed=3).float(), random(C, 5, seed=4).float()
    results = []
    for kernel in ("reference", impl):
        leaves = [x.clone().requires_grad_() for x in (hidden, weight)]
        targets, weights = DenseTargets(TEACHER.float()), WEIGHTS.float()
        loss = linear_divergence(*leaves, targets, row.objective(), LABELS, mask=MASK, weights=weights, impl=kernel)
        results.append((loss, torch.autograd.grad(loss.mean, leaves)))
    (expected, expected_gradients), (found, gradients) = results
    torch.testing.assert_close(found.mean, expected.mean, rtol=1e-5, atol=1e-6)
    assert found.parts.keys() == expected.parts.keys()
    name = row.term.name
    torch.testing.assert_close(found.parts[name].sum, expected.parts[name].sum, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.parts[name].count, expected.parts[name].count)
    for one, other in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@every_term
def test_it_is_picklable_and_equal_to_its_copies(row: Row) -> None:
    for thing in (row.term, row.objective()):
        assert pickle.loads(pickle.dumps(thing)) == thing == copy.deepcopy(thing)
    assert row.objective() == row.objective()


@every_term
def test_a_weight_of_0_switches_it_off(row: Row) -> None:
    off = {
        "soft": lambda: Objective(soft_weight=0.0, hard_weight=0.5),
        "hard": lambda: Objective(hard_weight=0.0),
    }
    objective = off.get(row.term.name, extra(replace(row.term, weight=0.0)))()
    assert row.term.name not in [term.name for term in objective.terms]
    assert row.term.name not in objective(STUDENT, TEACHER, LABELS).parts


def test_names_are_different_and_made_of_letters() -> None:
    with pytest.raises(ObjectiveError, match="different names, but these are soft, hard, soft"):
        Objective(extra_terms=(Entropy("soft", 1.0),))
    with pytest.raises(ObjectiveError, match="only a-z, 0-9 and _"):
        Entropy("My term", 1.0)
    with pytest.raises(ObjectiveError, match="must be 0 or more"):
        Entropy("entropy", -1.0)


def test_counts_without_a_term_are_refused_by_its_name() -> None:
    objective = extra(Entropy("entropy", 0.3))()
    with pytest.raises(ObjectiveError, match="no entropy but soft, hard"):
        objective(STUDENT, TEACHER, LABELS, counts=Counts(torch.tensor(1.0), torch.tensor(1.0)))
    with pytest.raises(ObjectiveError, match="The term squared needs labels"):
        Objective(extra_terms=(Squared("squared", 0.2),))(STUDENT, TEACHER)


EXTRAS = tuple(row.term for row in ROWS[2:])
ALL = Objective(jensen_shannon(0.3), temperature=T, hard_weight=0.5, extra_terms=EXTRAS)


def trained(folder: Path, size: int, accumulation: int) -> tuple[nn.Module, nn.Module, Any, DistillTrainer]:
    torch.manual_seed(0)
    student, teacher = mlp([C, 5, C]), nn.Linear(C, C)
    examples = arrays(STUDENT.float(), LABELS)
    config = DistillConfig(
        output_dir=str(folder / "run"),
        num_train_epochs=2,
        per_device_train_batch_size=size,
        gradient_accumulation_steps=accumulation,
        learning_rate=0.1,
        optim="sgd",
        logging_strategy="epoch",
        save_strategy="no",
        disable_tqdm=True,
    )
    trainer = DistillTrainer(student, teacher, ALL, config, train_dataset=examples, eval_dataset=examples)
    trainer.train()
    return student, teacher, examples, trainer


def test_training_with_every_term_is_the_same_however_it_is_accumulated(tmp_path: Path) -> None:
    runs = [trained(tmp_path, *sizes)[0] for sizes in ((12, 1), (4, 3), (3, 4))]
    for other in runs[1:]:
        for a, b in zip(runs[0].parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_logs_evaluation_results_and_page_go_by_the_names(tmp_path: Path) -> None:
    student, teacher, examples, trainer = trained(tmp_path, 4, 3)
    names = [term.name for term in ALL.terms]
    assert names == ["soft", "hard", "entropy", "squared", "disagreement"]
    logged = trainer.state.log_history[0]
    assert {f"{name}_loss" for name in names} <= logged.keys()
    means = trainer.evaluate()
    with torch.no_grad():
        z, v = student(STUDENT.float()), teacher(STUDENT.float())
        loss = ALL(z, v, LABELS)
    for name in names:
        expected = (loss.parts[name].sum / loss.parts[name].count).item()
        assert means[f"eval_{name}_loss"] == pytest.approx(expected, rel=1e-5)
    assert means["eval_loss"] == pytest.approx(loss.mean.item(), rel=1e-5)

    history = {"student": trainer.state.log_history}
    results = limbeck.evaluate(student, examples, teacher=teacher, curves=history, latency=False, resamples=50)
    weights = {"entropy": 0.3, "squared": 0.2, "disagreement": 0.4}
    assert results["objective"] == {
        "divergence": "jensen_shannon(0.3)",
        "temperature": T,
        "soft_weight": 1.0,
        "hard_weight": 0.5,
        "extra_weights": weights,
    }
    limbeck.write_results(results, tmp_path / "results.json")
    limbeck.write_report(tmp_path / "results.json", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    for title in ("Soft term: from the teacher", "Hard term: from the labels", *(f"Term: {name}" for name in weights)):
        assert page.count(f"{title}<") == 1, title
    assert "Term: train" not in page
