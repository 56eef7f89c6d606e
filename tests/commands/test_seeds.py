"""`limbeck distill --seeds`: each student is that of a run with its seed alone, and all are judged together."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import limbeck
from limbeck.training.trainer import DistillTrainer

RUN = ["distill", "--teacher", "teacher", "--hidden", "8", "--dropout", "0.2", "--jitter", "1", "--max_steps", "4"]
RUN += ["--save_strategy", "steps", "--save_steps", "2", "--learning_rate", "0.01"]
NETS = """
import torch

shared = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
"""


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    torch.manual_seed(0)
    limbeck.save(limbeck.mlp([64, 16, 10]), "teacher")


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by the seed of the trainer at each training step."""
    taken: list[int] = []
    step: Any = DistillTrainer.training_step

    def counted(self: Any, *given: Any, **named: Any) -> Any:
        taken.append(self.args.seed)
        return step(self, *given, **named)

    monkeypatch.setattr(DistillTrainer, "training_step", counted)
    return taken


def weights(folder: str) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = load_file(f"{folder}/model.safetensors")
    return found


def same(one: str, other: str) -> bool:
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def roles_of(run: str) -> Any:
    return json.loads(Path(run, "results.json").read_text())["roles"]


def test_each_seed_is_the_run_with_that_seed(limbeck_says: Any) -> None:
    code, out, err = limbeck_says(*RUN, "--baseline", "--seed", "7", "--seeds", "3", "--output_dir", "all")
    assert (code, err) == (0, "")
    assert "Seed 7 (1 of 3). Seed 8 (2 of 3). Seed 9 (3 of 3)." in out
    assert "mean of 3 seeds" in out
    assert "all: student, baseline, seeds, results.json" in out
    for seed, folder in ((7, "all"), (9, "all/seeds/9")):
        assert limbeck_says(*RUN, "--baseline", "--seed", str(seed), "--output_dir", f"run{seed}")[0] == 0
        for role in ("student", "baseline"):
            assert same(f"{folder}/{role}", f"run{seed}/{role}")
        logged = [Path(place, "baseline.jsonl").read_text().splitlines() for place in (folder, f"run{seed}")]
        assert [json.loads(x).get("loss") for x in logged[0]] == [json.loads(x).get("loss") for x in logged[1]]
    results = json.loads(Path("all/results.json").read_text())
    for role in ("student", "baseline"):
        scores = results["roles"][role]["accuracy"]["seeds"]
        assert [scores[0], scores[2]] == [roles_of(f"run{seed}")[role]["accuracy"]["mean"] for seed in (7, 9)]
    assert (results["verdict"]["seeds"], results["verdict"]["seeds_resampled"], results["settings"]["seeds"]) == (
        3,
        True,
        3,
    )
    students = ["all/student", "all/seeds/8/student", "all/seeds/9/student"]
    assert limbeck_says("evaluate", "--student", *students, "--output", "again.json")[0] == 0
    again = json.loads(Path("again.json").read_text())["roles"]["student"]["accuracy"]["seeds"]
    assert again == results["roles"]["student"]["accuracy"]["seeds"]


def test_resuming_trains_what_is_missing(limbeck_says: Any, steps: list[int]) -> None:
    assert limbeck_says(*RUN, "--output_dir", "run")[0] == 0
    first = weights("run/student")
    steps.clear()
    assert limbeck_says(*RUN, "--output_dir", "run", "--resume", "--seeds", "2")[0] == 0
    assert steps == [43] * 4
    assert all(torch.equal(first[name], value) for name, value in weights("run/student").items())
    changed = json.loads(Path("run/results.json").read_text())["changed"]
    assert [(c["option"], c["before"], c["after"], c["at_step"]) for c in changed] == [("seeds", 1, 2, 4)]
    steps.clear()
    assert limbeck_says(*RUN, "--output_dir", "run", "--resume", "--seeds", "2")[0] == 0
    assert steps == []
    assert roles_of("run")["student"]["seeds"] == 2
    code, _, err = limbeck_says(*RUN, "--output_dir", "run", "--resume")
    assert (code, "--seeds was 2, but is 1 now" in err) == (1, True)


def test_a_seed_that_was_cut_off_continues_to_the_same_weights(
    limbeck_says: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert limbeck_says(*RUN, "--seeds", "2", "--output_dir", "whole")[0] == 0
    step: Any = DistillTrainer.training_step

    def cut(self: Any, *given: Any, **named: Any) -> Any:
        if (self.args.seed, self.state.global_step) == (43, 3):
            raise KeyboardInterrupt
        return step(self, *given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(DistillTrainer, "training_step", cut)
        code, _, err = limbeck_says(*RUN, "--seeds", "2", "--output_dir", "cut")
    assert (code, "--resume" in err) == (130, True)
    assert not Path("cut/seeds/43/student").exists()
    assert limbeck_says(*RUN, "--seeds", "2", "--output_dir", "cut", "--resume")[0] == 0
    for place in ("student", "seeds/43/student"):
        assert same(f"cut/{place}", f"whole/{place}")


def test_a_network_that_a_name_stands_for_is_trained_anew_for_each_seed(limbeck_says: Any) -> None:
    """The name is of one network: its weights are the same at the beginning, and only the order differs."""
    Path("nets_of_seeds.py").write_text(NETS)
    words = ["distill", "--student", "nets_of_seeds:shared", "--max_steps", "3", "--learning_rate", "0"]
    assert limbeck_says(*words, "--seeds", "2", "--output_dir", "still")[0] == 0
    assert same("still/student", "still/seeds/43/student")
    words[-1] = "0.01"
    assert limbeck_says(*words, "--seeds", "2", "--output_dir", "moved")[0] == 0
    initial = weights("still/student")["1.weight"]
    distances = [
        float((weights(f"moved/{place}")["1.weight"] - initial).abs().max())
        for place in ("student", "seeds/43/student")
    ]
    assert all(0 < distance < 0.031 for distance in distances)  # 3 steps of Adam of at most 0.01 each


def test_language_models_are_judged_over_seeds(make_tokenizer: Callable[..., Any], limbeck_says: Any) -> None:
    from language.conftest import MARKED

    from commands.test_language import PAIRS, QUICK, _jsonl, _saved

    teacher = _saved("writer", make_tokenizer(MARKED), num_hidden_layers=2)
    run = [
        "distill",
        "--data",
        _jsonl("pairs.jsonl", PAIRS),
        "--teacher",
        teacher,
        "--student",
        "take_layers:1",
        *QUICK,
    ]
    assert limbeck_says(*run, "--baseline", "--seeds", "2", "--output_dir", "run")[0] == 0
    assert limbeck_says(*run, "--baseline", "--seed", "43", "--output_dir", "one")[0] == 0
    for role in ("student", "baseline"):
        assert same(f"run/seeds/43/{role}", f"one/{role}")
        assert roles_of("run")[role]["nll"]["seeds"][1] == pytest.approx(roles_of("one")[role]["nll"]["mean"])


@pytest.mark.parametrize("more", [["--seeds", "0"], ["--seed", str(2**32 - 1), "--seeds", "2"]])
def test_seeds_that_cannot_be_are_refused(more: list[str], limbeck_says: Any) -> None:
    code, _, err = limbeck_says(*RUN, *more)
    assert (code, "--seeds must be 1 or more, and no seed above 2**32 - 1" in err) == (1, True)
