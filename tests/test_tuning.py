"""Tuning against a race run by hand, students trained by DistillTrainer itself, and SciPy's intervals."""

import gc
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from scipy import stats
from torch import Tensor, nn
from transformers import set_seed
from two_processes import in_two_processes

from limbeck import (
    ConfigError,
    DataError,
    DenseTargets,
    DistillConfig,
    DistillTrainer,
    DivergedError,
    Objective,
    ObjectiveError,
    mlp,
    tune,
)
from limbeck.cli import main
from limbeck.networks.folder import save
from limbeck.transfer import digits, jitter
from limbeck.tuning import plot

gc.freeze()  # Trainer collects garbage whenever it starts, and the libraries above are none
TRAIN, VALIDATION = digits().split(0.5, seed=0)[1].split(0.3, seed=1)
GRID: dict[str, Any] = {"temperatures": (1.0, 4.0), "hard_weights": (0.0, 0.5)}


def config(**more: Any) -> DistillConfig:
    return DistillConfig(**({"max_steps": 4, "per_device_train_batch_size": 32, "learning_rate": 0.01} | more))


def small() -> nn.Module:
    return mlp([64, 8, 10])


class Teacher:
    """A network that counts how many examples it was asked about."""

    def __init__(self) -> None:
        torch.manual_seed(7)
        self.network, self.asked = mlp([64, 10]), 0

    def __call__(self, batch: Any) -> Any:
        self.asked += len(batch["row_id"])
        with torch.no_grad():
            return DenseTargets(5 * self.network(batch["inputs"]))

    def fingerprint(self) -> str:
        return "seven"


def quietly(make: Callable[[], nn.Module] = small, *given: Any, **more: Any) -> dict[str, Any]:
    teacher, train, validation = (*given, *(Teacher(), TRAIN, VALIDATION)[len(given) :])
    return tune(make, teacher, train, validation, **({"config": config(), "say": lambda _: None} | GRID | more))


def by_hand(temperature: float, hard_weight: float, seed: int) -> dict[str, float]:
    """A student of these settings, trained with the live teacher and measured with torch alone."""
    set_seed(seed)
    student, teacher = small(), Teacher()
    objective = Objective(temperature=temperature, hard_weight=hard_weight)
    DistillTrainer(student, teacher, objective, config(seed=seed, save_strategy="no"), train_dataset=TRAIN).train()
    batch = VALIDATION.__getitems__(list(range(len(VALIDATION))))
    with torch.no_grad():
        log_q, log_p = student.eval()(batch["inputs"]).log_softmax(-1), teacher(batch).logits.log_softmax(-1)
    return {
        "nll": float(nn.functional.nll_loss(log_q, batch["labels"])),
        "accuracy": float((log_q.argmax(-1) == batch["labels"]).double().mean()),
        "forward_kl": float(nn.functional.kl_div(log_q, log_p, reduction="batchmean", log_target=True)),
    }


def test_a_trial_is_a_training_and_what_its_student_says_at_one_of_held_out_examples() -> None:
    teacher = Teacher()
    found = quietly(small, teacher, seeds=1)
    assert teacher.asked == len(TRAIN) + len(VALIDATION)  # one pass for all
    assert len(found["trials"]) == 4
    for trial in found["trials"]:
        expected = by_hand(trial["temperature"], trial["hard_weight"], trial["seed"])
        assert {name: trial[name] for name in expected} == pytest.approx(expected, rel=1e-4)
    assert found["measure"] == "nll"
    assert found["best"]["nll"]["mean"] == min(trial["nll"] for trial in found["trials"])
    assert found["best"]["nll"]["low"] is None  # nothing is known of another seed


@pytest.mark.parametrize(("measure", "better"), [("nll", min), ("accuracy", max), ("forward_kl", min)])
def test_the_better_half_goes_on_to_the_next_seed(measure: str, better: Callable[..., Any]) -> None:
    found = quietly(measure=measure, seeds=3, keep=0.5, temperatures=(1.0, 2.0, 8.0), config=config(seed=5))
    values: dict[int, dict[tuple[float, float], float]] = {5: {}, 6: {}, 7: {}}
    for trial in found["trials"]:
        values[trial["seed"]][trial["temperature"], trial["hard_weight"]] = trial[measure]
    assert [len(of) for of in values.values()] == [6, 3, 2]
    reverse = better is max
    ranked = sorted(values[5], key=lambda c: values[5][c], reverse=reverse)
    assert set(values[6]) == set(ranked[:3])
    ranked = sorted(values[6], key=lambda c: values[5][c] + values[6][c], reverse=reverse)
    assert set(values[7]) == set(ranked[:2])
    ranked = sorted(values[7], key=lambda c: sum(values[s][c] for s in values), reverse=reverse)
    best, second = ranked
    assert (found["best"]["temperature"], found["best"]["hard_weight"]) == best
    own = [values[s][best] for s in (5, 6, 7)]
    mean, low, high = (found["best"][measure][key] for key in ("mean", "low", "high"))
    expected = stats.ttest_1samp(own, 0).confidence_interval(0.95)
    assert (mean, low, high) == pytest.approx((sum(own) / 3, expected.low, expected.high))
    other = next(r for r in found["candidates"] if (r["temperature"], r["hard_weight"]) == second)
    sign = 1 if reverse else -1
    apart = stats.ttest_rel([sign * values[s][second] for s in (5, 6, 7)], [sign * v for v in own])
    interval = apart.confidence_interval(0.95)
    assert (other["against_best"]["low"], other["against_best"]["high"]) == pytest.approx((interval.low, interval.high))
    assert other["against_best"]["word"] == ("worse" if interval.high < 0 else "no difference shown")
    out = next(r for r in found["candidates"] if r["seeds"] == 1)
    assert (out["against_best"]["low"], out["against_best"]["word"]) == (None, None)


def test_keeping_all_trains_all_with_every_seed() -> None:
    assert {row["seeds"] for row in quietly(keep=1, seeds=2)["candidates"]} == {2}


def test_what_was_trained_before_a_stop_is_not_trained_again(tmp_path: Path) -> None:
    made = 0

    def until(last: int) -> Callable[[], nn.Module]:
        def make() -> nn.Module:
            nonlocal made
            made += 1
            if made > last:
                raise KeyboardInterrupt
            return small()

        return make

    with pytest.raises(KeyboardInterrupt):
        quietly(until(4), folder=tmp_path)  # one is made to be described, and three are trained
    cut_off = json.loads((tmp_path / "tune.json").read_text())
    assert (cut_off["finished"], len(cut_off["trials"]), cut_off["best"]) == (False, 3, None)
    made = 0
    found = quietly(until(100), folder=tmp_path)
    assert made == 1 + (4 + 2 + 2) - 3
    assert json.loads((tmp_path / "tune.json").read_text()) == found
    whole = quietly(folder=tmp_path / "whole")
    timeless = [[{k: v for k, v in t.items() if k != "seconds"} for t in of["trials"]] for of in (found, whole)]
    assert timeless[0] == timeless[1]
    assert found["candidates"] == whole["candidates"]
    assert (tmp_path / "tune.png").read_bytes()[:4] == b"\x89PNG"
    made = 0
    quietly(until(100), folder=tmp_path, seeds=4)
    assert made == 1 + 2  # more seeds go on from there


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"config": config(learning_rate=0.02)},
            "'learning_rate': 0.01}, but this search has .*'learning_rate': 0.02}",
        ),
        (
            {"config": config(max_steps=5)},
            "was started with training .*'max_steps': 4,.* but this search has .*'max_steps': 5,",
        ),
        ({"make": lambda: mlp([64, 9, 10])}, "was started with student MLP of 610 parameters"),
        ({"train": TRAIN.select(range(300))}, "was started with train 629 examples"),
        ({"augment": jitter(1)}, r"was started with augment None, but this search has jitter\(pixels=1"),
        ({"teacher": mlp([64, 10])}, "was started with teacher seven"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_a_folder_of_other_trials_is_refused(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    begun = {"temperatures": (1.0,), "hard_weights": (0.0,), "seeds": 1, "folder": tmp_path}
    quietly(**begun)
    before = (tmp_path / "tune.json").read_bytes()
    given = [change.pop(n, d) for n, d in (("make", small), ("teacher", Teacher()), ("train", TRAIN))]
    with pytest.raises(ConfigError, match=said):
        quietly(*given, **(begun | change))
    assert (tmp_path / "tune.json").read_bytes() == before


def test_without_labels_the_students_are_chosen_by_the_teacher_at_one() -> None:
    bare = TRAIN.without_labels(), VALIDATION.without_labels()
    found = quietly(small, Teacher(), *bare, hard_weights=(0.0,), seeds=1)
    assert found["measure"] == "forward_kl"
    assert set(found["trials"][0]) == {"temperature", "hard_weight", "seed", "forward_kl", "seconds"}
    with pytest.raises(DataError, match="nll needs validation data with labels"):
        quietly(small, Teacher(), *bare, hard_weights=(0.0,), measure="nll")


def test_an_augmented_view_is_shown_to_the_live_teacher() -> None:
    teacher = Teacher()
    quietly(small, teacher, temperatures=(1.0,), hard_weights=(0.0,), seeds=1, augment=jitter(1))
    batches = 4 * 32 + 32  # four steps, and the first batch that is tried before
    assert teacher.asked == batches + len(VALIDATION)


def test_a_trial_whose_student_diverges_is_ranked_last() -> None:
    """A temperature whose T^2 in the loss throws weights out of float32, with steps of plain gradient descent."""
    lines: list[str] = []
    steep = config(optim="sgd", learning_rate=0.1, max_grad_norm=0.0)

    def reckless(log_q: Tensor, log_p: Tensor) -> Tensor:
        return -(log_p.exp() * log_q).sum(-1)

    reckless.temperature_power = 20  # type: ignore[attr-defined]
    found = quietly(
        config=steep, temperatures=(1000.0, 1.0), hard_weights=(0.0,), seeds=1, divergence=reckless, say=lines.append
    )
    assert found["best"]["temperature"] == 1.0
    assert found["candidates"][0]["nll"]["mean"] is None
    assert lines[0].endswith("diverged, weights of nan or infinity")


def test_a_search_in_which_each_candidate_diverges_has_no_best(tmp_path: Path) -> None:
    lines: list[str] = []
    wild = config(learning_rate=1e30, optim="sgd")
    arguments: Any = (small, Teacher(), TRAIN, VALIDATION, wild)
    for _ in range(2):  # also where the trials were read
        with pytest.raises(DivergedError, match=r"Each of the 4 candidates diverged: .*seeds \[42\].*Lower"):
            tune(*arguments, **GRID, seeds=3, folder=tmp_path, say=lines.append)
    assert len(lines) == 4
    assert not json.loads((tmp_path / "tune.json").read_text())["finished"]


def test_what_is_refused() -> None:
    for given, error, said in [
        ({"temperatures": (0.0,)}, ObjectiveError, "temperature must be a finite number above 0"),
        ({"temperatures": ()}, ConfigError, "at least one temperature"),
        ({"seeds": 0}, ConfigError, "seeds must be 1 or more, but is 0"),
        ({"keep": 0.0}, ConfigError, "above 0 and at most 1, but is 0"),
        ({"measure": "loss"}, ConfigError, "no measure 'loss'; there are nll, accuracy, forward_kl"),
    ]:
        with pytest.raises(error, match=said):
            quietly(**given)
    with pytest.raises(DataError, match="is both in train and in validation"):
        quietly(small, Teacher(), TRAIN, TRAIN.select([3]))
    one = small()
    with pytest.raises(ConfigError, match="return a new student at each call"):
        quietly(lambda: one)
    with pytest.raises(ConfigError, match="but returned dict"):
        quietly(dict)  # type: ignore[arg-type]


def test_the_plot_draws_a_line_per_weight_and_what_was_not_measured_is_left_out(tmp_path: Path) -> None:
    found = quietly(seeds=1)
    found["candidates"][0]["nll"] = {"mean": None, "low": None, "high": None, "seeds": [None]}
    plot(found, tmp_path / "a.svg")
    text = re.sub(r"\s+", " ", (tmp_path / "a.svg").read_text())
    assert "hard_weight 0.5" in text
    assert "NLL of held-out labels, nats" in text


OWN_DATA = """
import torch
from limbeck.transfer import TransferSet, digits

class Sealed:
    def __len__(self):
        return 50
    def gather(self, rows):
        raise AssertionError("the test was read")

def data():
    rest, part = digits().split(0.3, seed=0)
    ids = torch.arange(5000, 5050)
    return {"train": part, "test": TransferSet({"inputs": Sealed()}, ids % 10, num_classes=10, row_ids=ids)}
"""


def test_the_command_leaves_the_settings_to_train_with_and_never_reads_the_test(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    Path("sealed.py").write_text(OWN_DATA)
    torch.manual_seed(7)
    save(mlp([64, 10]), "teacher")
    same = ["--data", "sealed:data", "--teacher", "teacher", "--hidden", "8", "--max_steps", "3", "--seed", "4"]
    grid = ["--temperatures", "1", "4", "--hard_weights", "0.5", "--seeds", "1", "--learning_rate", "0.01"]
    assert main(["tune", *same, *grid, "--output_dir", "tuned"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "chosen by nll, on 54 examples" in out
    assert "tuned: tune.json, tune.png, report.html, distill.yaml" in out
    assert "limbeck distill --config tuned/distill.yaml --output_dir runs/distill" in out
    found = json.loads(Path("tuned/tune.json").read_text())
    assert [(t["temperature"], t["hard_weight"], t["seed"]) for t in found["trials"]] == [(1, 0.5, 4), (4, 0.5, 4)]
    best = found["best"]
    assert f"Best by nll: T = {best['temperature']:g}, hard_weight 0.5." in out

    settings = yaml.safe_load(Path("tuned/distill.yaml").read_text())
    assert (settings["temperature"], settings["hard_weight"]) == (best["temperature"], 0.5)
    assert (settings["hidden"], settings["max_steps"], settings["learning_rate"]) == ([8], 3, 0.01)
    data = ["--data", "digits", "--validation", "0.1", "--save_strategy", "no"]  # of which the test can be read
    assert main(["distill", "--config", "tuned/distill.yaml", *data, "--output_dir", "run"]) == 0
    results = json.loads(Path("run/results.json").read_text())
    again = results["settings"]
    differs = ["other training examples", "other held-out examples"]
    assert results["tuned"] == {name: part for name, part in found.items() if name != "trials"} | {"differs": differs}
    assert "the search was made with other training examples and other held-out examples" in Path(
        "run/report.html"
    ).read_text().replace("</strong>", "")
    for page in ("tuned", "run"):
        assert found["sentence"] in Path(page, "report.html").read_text()
    assert {name: again[name] for name in ("temperature", "hard_weight", "teacher")} == {
        name: settings[name] for name in ("temperature", "hard_weight", "teacher")
    }

    for words, said in (
        (["--data", "digits"], "Soft targets are required"),
        ([*same, "--validation", "0"], "--validation is 0; set it to a share above 0"),
        (
            [*same, *grid, "--output_dir", "tuned", "--hidden", "9"],
            "tuned was started with student MLP of 610 parameters",
        ),
    ):
        assert main(["tune", *words]) == 1
        assert said in " ".join(capsys.readouterr().err.split())
    for tuned, said in (("nowhere.json", "There is no nowhere.json"), ("run/results.json", 'must hold "schema"')):
        assert main(["distill", "--tuned", tuned, "--output_dir", "never"]) == 1
        assert said in " ".join(capsys.readouterr().err.split())
    assert not Path("never").exists()


def test_a_run_and_the_search_that_it_is_explained_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same but for what is named; a search that goes on takes away what it said before; none is needed."""
    monkeypatch.chdir(tmp_path)
    save(mlp([64, 10]), "teacher")
    same = ["--data", "digits", "--teacher", "teacher", "--hidden", "8", "--max_steps", "2"]
    assert main(["tune", *same, "--temperatures", "4", "--hard_weights", "0.5", "--seeds", "1"]) == 0
    assert "Nothing else was tried" in Path("runs/tune/report.html").read_text()

    def run(*words: str) -> tuple[str, Any]:
        assert main(["distill", *words, "--overwrite", "--output_dir", "run"]) == 0
        return capsys.readouterr().out, json.loads(Path("run/results.json").read_text()).get("tuned", {}).get("differs")

    settings = ["--config", "runs/tune/distill.yaml"]
    assert run(*settings, "--seed", "3")[1] == []
    assert run(*settings, "--early_stopping", "3")[1] == []
    assert main(["distill", *settings, "--early_stopping", "3", "--save_strategy", "no", "--output_dir", "no"]) == 1
    assert "--early_stopping keeps the best checkpoint, so --save_strategy must" in capsys.readouterr().err
    out, differs = run(*settings, "--hidden", "9", "--learning_rate", "0.1", "--divergence", "reverse_kl")
    assert differs == ["another student", "another divergence", "other training arguments"]
    assert "Note: the search of runs/tune/tune.json was made with another student" in out
    assert run(*same, "--tuned", "runs/tune")[1] == []
    assert run(*settings, "--validation", "0")[1] == ["other training examples", "other held-out examples"]

    def stop(*given: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as cut:
        cut.setattr("limbeck.tuning._ranked", stop)  # after the new candidate was trained
        assert main(["tune", *same, "--temperatures", "4", "9", "--hard_weights", "0.5", "--seeds", "1"]) == 130
    assert [path.name for path in Path("runs/tune").iterdir()] == ["tune.json"]
    out, differs = run(*same, "--tuned", "runs/tune")
    assert differs == []
    assert "the search of runs/tune has not finished" in out
    assert "Not chosen yet" not in Path("run/report.html").read_text()
    Path("again.yaml").write_bytes(Path("run/config.yaml").read_bytes())
    Path("runs/tune/tune.json").unlink()
    out, differs = run("--config", "again.yaml")
    assert "Note: there is no runs/tune/tune.json" in out
    assert differs is None
    assert main(["tune", *same, "--output_dir", "run"]) == 1
    assert "run holds a run, whose report would be overwritten" in capsys.readouterr().err


def _tuned(rank: int, folder: str) -> None:
    half = config(output_dir=folder, per_device_train_batch_size=16)
    torch.manual_seed(0)
    found = tune(small, mlp([64, 10]), TRAIN, VALIDATION, half, **GRID, seeds=2, folder=folder, say=lambda text: None)
    Path(folder, f"{rank}.json").write_text(json.dumps(found))


def test_two_processes_choose_together_what_one_does(tmp_path: Path) -> None:
    """With half of each batch; one of them writes, and both know the same."""
    in_two_processes(_tuned, str(tmp_path))
    both = [json.loads((tmp_path / name).read_text()) for name in ("0.json", "1.json", "tune.json")]
    torch.manual_seed(0)
    alone = tune(small, mlp([64, 10]), TRAIN, VALIDATION, config(), **GRID, seeds=2, say=lambda text: None)
    for found in both:
        assert [trial["seed"] for trial in found["trials"]] == [trial["seed"] for trial in alone["trials"]]
        for trial, expected in zip(found["trials"], alone["trials"], strict=True):
            assert trial["nll"] == pytest.approx(expected["nll"], rel=1e-3)
        assert (found["best"]["temperature"], found["best"]["hard_weight"]) == (
            alone["best"]["temperature"],
            alone["best"]["hard_weight"],
        )
