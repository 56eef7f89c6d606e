"""What the students were trained with, from the trainer to the results to the page."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

import limbeck
from limbeck.networks.trained import objective_of
from limbeck.report import reading, shared

X = torch.linspace(-1, 1, 96).reshape(24, 4)
TRAIN = limbeck.arrays(X, torch.arange(24) % 3)
TEST = limbeck.arrays(X.flip(0), torch.arange(24) % 3)
WITHOUT_TIMES: dict[str, Any] = {"latency": False, "resamples": 50}
TRAINED_WITH = {"divergence": "reverse_kl", "temperature": 4.0, "soft_weight": 2.0, "hard_weight": 0.25}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """A distilled student and its teacher."""
    torch.manual_seed(0)
    student, teacher = limbeck.mlp([4, 3]), limbeck.mlp([4, 5, 3])
    assert objective_of(student) is None
    config = limbeck.DistillConfig(output_dir=str(tmp_path_factory.mktemp("run")), max_steps=1, save_strategy="no")
    objective = limbeck.Objective(limbeck.reverse_kl, 4.0, 2.0, 0.25)
    limbeck.DistillTrainer(student, teacher, objective, config, train_dataset=TRAIN).train()
    return student, teacher


def test_an_evaluation_reports_what_the_trainer_trained_with(trained: tuple[Any, Any]) -> None:
    student, teacher = trained
    results = limbeck.evaluate(student, TEST, teacher=teacher, **WITHOUT_TIMES)
    assert results["objective"] == TRAINED_WITH
    assert reading.temperature_of(results) == 4.0
    assert reading.weights_of(results) == (2.0, 0.25)
    assert shared.divergence_of(results) == "reverse_kl"
    assert ("temperature", "4.0") in shared.settings(results)
    folds = [limbeck.predict(copy.deepcopy(student), TEST, latency=False) for _ in range(2)]
    assert limbeck.compare(folds, resamples=50)["objective"] == TRAINED_WITH


def test_an_argument_counts_instead_and_no_note_or_two_are_none(trained: tuple[Any, Any]) -> None:
    student, _ = trained
    given = limbeck.evaluate(student, TEST, objective=limbeck.Objective(temperature=3.0), **WITHOUT_TIMES)
    assert given["objective"]["temperature"] == 3.0
    assert given["objective"]["divergence"] == "forward_kl"
    other = limbeck.mlp([4, 3])
    assert limbeck.evaluate(other, TEST, **WITHOUT_TIMES)["objective"] is None
    assert limbeck.evaluate([student, other], TEST, **WITHOUT_TIMES)["objective"] is None
    folds = [limbeck.predict(model, TEST, latency=False) for model in (student, other)]
    assert limbeck.compare(folds, resamples=50)["objective"] is None


def test_the_note_is_not_in_the_folder_of_a_student(trained: tuple[Any, Any], tmp_path: Path) -> None:
    limbeck.save(trained[0], tmp_path / "student")
    assert objective_of(limbeck.load(tmp_path / "student")) is None


def test_a_page_of_results_without_it_goes_by_the_settings() -> None:
    older = {"settings": {"temperature": 2.5, "hard_weight": 0.1, "divergence": "jensen_shannon", "teacher": ["t"]}}
    assert reading.temperature_of(older) == 2.5
    assert reading.weights_of(older) == (None, 0.1)
    assert shared.divergence_of(older) == "jensen_shannon"
    assert shared.was_distilled(older)
    assert not shared.was_distilled({"settings": {"teacher": []}})
    assert not shared.was_distilled({"objective": TRAINED_WITH | {"soft_weight": 0.0}})
    for nonsense in (None, [], 7, {"temperature": "x", "soft_weight": []}):
        assert reading.temperature_of({"objective": nonsense}) is None
        assert shared.divergence_of({"objective": nonsense}) == "forward_kl"
