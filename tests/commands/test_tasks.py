"""distill and evaluate on numbers and several labels, and what is refused before anything is trained."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_breast_cancer, load_wine

from limbeck.cli import main

RNG = np.random.default_rng(0)
SHORT = ["--max_steps", "40", "--save_strategy", "no", "--learning_rate", "0.01", "--hidden", "16"]
TEACHER = """
import pandas as pd, torch
from sklearn.linear_model import BayesianRidge, LogisticRegression
from sklearn.multiclass import OneVsRestClassifier

table = pd.read_csv("train.csv")
def ridge(): return BayesianRidge().fit(table[["x", "y"]], table["price"])
def network(): return torch.nn.Linear(2, 1)
def tags(): return OneVsRestClassifier(LogisticRegression()).fit(table[["x", "y"]], table[["red", "blue"]].values)
"""


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    x = RNG.normal(size=(400, 2))
    noise = RNG.normal(size=400)
    frame = pd.DataFrame({"x": x[:, 0], "y": x[:, 1], "price": (3000 + 400 * x[:, 0] + 90 * noise).round()})
    frame["red"], frame["blue"] = (x[:, 0] + 0.3 * noise > 0).astype(int), (x[:, 1] > 0).astype(int)
    frame[:300].to_csv("train.csv", index=False)
    frame[300:].to_csv("test.csv", index=False)
    Path("teachers.py").write_text(TEACHER)
    sys.modules.pop("teachers", None)


def results(path: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(path).read_text())
    return found


NUMBERS = ["--data", "*.csv", "--label_column", "price", "--feature_columns", "x", "y"]
TAGS = ["--data", "*.csv", "--label_column", "red,blue", "--feature_columns", "x", "y"]


def test_a_price_is_learned_in_its_units_and_evaluated_from_its_folder(capsys: pytest.CaptureFixture[str]) -> None:
    options = [*NUMBERS, "--task", "regression", "--teacher", "teachers:ridge", "--variance", "--baseline"]
    assert main(["distill", *options, *SHORT, "--max_steps", "200", "--output_dir", "run"]) == 0
    said = capsys.readouterr().out
    assert "1 × gaussian_kl." in said
    found = results("run/results.json")
    assert found["settings"]["divergence"] == "gaussian_kl"
    assert found["roles"]["student"]["scores"]["r2"]["mean"] > 0.7
    assert 40 < found["roles"]["student"]["scores"]["mae"]["mean"] < 200
    assert Path("run/report.html").stat().st_size > 10_000
    # the folder knows its task: --task need not be given again
    assert main(["evaluate", *NUMBERS, "--student", "run/student", "--output", "again.json"]) == 0
    again = results("again.json")["roles"]["student"]["scores"]
    assert again["mae"]["mean"] == pytest.approx(found["roles"]["student"]["scores"]["mae"]["mean"], rel=1e-4)


def test_whole_numbers_are_not_taken_for_classes_without_asking(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["distill", *NUMBERS, *SHORT, "--output_dir", "run"]) == 1
    assert "are they numbers to predict, or classes?" in capsys.readouterr().err
    assert not Path("run").exists()


def test_several_labels_are_learned_and_judged_by_any_score() -> None:
    options = [*TAGS, "--teacher", "teachers:tags", "--labelled", "40", "--baseline", "--judge_by", "roc_auc"]
    assert main(["distill", *options, *SHORT, "--output_dir", "run"]) == 0
    found = results("run/results.json")
    assert found["task"] == "multi_label"
    assert found["test"]["label_names"] == ["red", "blue"]
    assert found["roles"]["student"]["scores"]["roc_auc"]["mean"] > 0.9
    assert found["verdict"]["judged_by"] == "roc_auc"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([*NUMBERS, "--task", "regression", "--temperature", "3"], "Numbers are not softened, so --temperature"),
        ([*NUMBERS, "--task", "regression", "--divergence", "reverse_kl"], "cannot be compared by reverse_kl"),
        ([*NUMBERS, "--task", "regression", "--judge_by", "nll"], "--judge_by nll needs a variance"),
        ([*NUMBERS, "--task", "regression", "--divergence", "gaussian_kl"], "the student gives none: give it one"),
        ([*TAGS, "--variance"], "--variance is for numbers"),
        ([*TAGS, "--judge_by", "accuracy"], "must be one of f1_macro, f1_micro, roc_auc"),
        ([*NUMBERS, "--task", "detection"], "must be one of classification, multi_label, segmentation, regression"),
        ([*TAGS, "--label_column", "red,green"], "There is no column 'green'"),
    ],
)
def test_what_makes_no_sense_is_refused_first(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher = "teachers:tags" if "red,blue" in options else "teachers:ridge"
    assert main(["distill", *options, "--teacher", teacher, *SHORT, "--output_dir", "run"]) == 1
    assert message in capsys.readouterr().err
    assert not Path("run").exists()


def test_targets_of_numbers_are_not_stored(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["label", *NUMBERS, "--task", "regression", "--teacher", "teachers:ridge", "--output_dir", "set"]) == 1
    assert "Targets of regression cannot be stored" in capsys.readouterr().err
    assert not Path("set").exists()


def test_a_temperature_is_searched_for_labels_and_refused_for_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    search = ["--temperatures", "1", "4", "--hard_weights", "0", "--seeds", "1", "--hidden", "8", "--max_steps", "5"]
    assert main(["tune", *TAGS, "--teacher", "teachers:tags", *search, "--output_dir", "found"]) == 0
    assert {trial["temperature"] for trial in results("found/tune.json")["trials"]} == {1.0, 4.0}
    numbers = [*NUMBERS, "--task", "regression", "--teacher", "teachers:ridge"]
    capsys.readouterr()
    assert main(["tune", *numbers, *search, "--output_dir", "other"]) == 1
    assert "numbers (regression) are not softened" in capsys.readouterr().err


ONE_LOGIT = """
import torch
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

def network(): return torch.nn.Linear(30, 1)
def teacher():
    x, y = load_breast_cancer(return_X_y=True, as_frame=True)
    return make_pipeline(StandardScaler(), LogisticRegression()).fit(x[:400], y[:400])
"""


def test_a_network_with_one_logit_learns_breast_cancer_and_is_evaluated_from_its_folder() -> None:
    frame = load_breast_cancer(as_frame=True).frame.rename(columns={"target": "label"})
    Path("cancer").mkdir()
    frame[:400].to_csv("cancer/train.csv", index=False)
    frame[400:].to_csv("cancer/test.csv", index=False)
    Path("logit.py").write_text(ONE_LOGIT)
    options = ["--data", "cancer", "--teacher", "logit:teacher", "--student", "logit:network", "--baseline"]
    fast = ["--max_steps", "150", "--learning_rate", "0.02", "--save_strategy", "no", "--judge_by", "roc_auc"]
    assert main(["distill", *options, *fast, "--output_dir", "run"]) == 0
    found = results("run/results.json")
    assert found["test"]["classes"] == 2
    assert found["roles"]["student"]["accuracy"]["mean"] > 0.93
    again = ["--student", "run/student", "--network", "logit:network", "--output", "again.json"]
    assert main(["evaluate", "--data", "cancer", *again]) == 0
    assert results("again.json")["roles"]["student"]["accuracy"] == found["roles"]["student"]["accuracy"]


def test_three_wines_are_judged_by_f1() -> None:
    frame = load_wine(as_frame=True).frame.rename(columns={"target": "label"}).sample(frac=1, random_state=0)
    frame.to_csv("wine.csv", index=False)
    options = ["--data", "wine.csv", "--hidden", "16", "--max_steps", "60", "--learning_rate", "0.02"]
    assert main(["distill", *options, "--save_strategy", "no", "--judge_by", "f1_macro", "--output_dir", "run"]) == 0
    found = results("run/results.json")
    assert found["verdict"]["judged_by"] == "f1_macro"
    assert found["roles"]["student"]["scores"]["f1_macro"]["mean"] > 0.9
    assert len(found["roles"]["student"]["scores"]["f1_per_class"]["mean"]) == 3


def test_a_network_of_ones_own_learns_prices_in_standard_units_and_gives_them_in_euros() -> None:
    options = [*NUMBERS, "--task", "regression", "--teacher", "teachers:ridge", "--student", "teachers:network"]
    fast = ["--max_steps", "150", "--save_strategy", "no", "--learning_rate", "0.02"]
    assert main(["distill", *options, *fast, "--output_dir", "run"]) == 0
    found = results("run/results.json")["roles"]["student"]["scores"]
    assert found["r2"]["mean"] > 0.9  # from 0, at this rate, it would be 2,990 off after 150 steps
    again = ["--student", "run/student", "--network", "teachers:network", "--output", "again.json"]
    assert main(["evaluate", *NUMBERS, *again]) == 0
    assert results("again.json")["roles"]["student"]["scores"]["r2"]["mean"] == pytest.approx(found["r2"]["mean"])
