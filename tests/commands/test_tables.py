"""The commands on raw tables: categories, gaps, columns of very different sizes. Oracle: scikit-learn, same rows."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import limbeck

TEACHER = """
import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.tree import DecisionTreeClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

def pipeline():
    train = pd.read_csv("shop/train.csv", keep_default_na=False, na_values=[""])
    encode = ColumnTransformer([("cut", OneHotEncoder(), ["cut"])], remainder="passthrough")
    model = make_pipeline(encode, DecisionTreeClassifier(max_depth=7, random_state=0))
    return model.fit(train[["weight", "cut", "price"]], train.label)  # in another order than in the file
"""


def frame(n: int, seed: int) -> pd.DataFrame:
    g = np.random.default_rng(seed)
    found = pd.DataFrame(
        {
            "id": range(n),
            "price": g.normal(60_000, 9_000, n),
            "cut": g.choice(["Fair", "Good"], n),
            "weight": g.normal(size=n),
        }
    )
    good = (found.price - 60_000) / 9_000 + (found.cut == "Good") * 1.5 + found.weight > 0.75
    found.loc[g.random(n) < 0.1, "weight"] = np.nan
    return found.assign(label=np.where(good, "yes", "no"))


@pytest.fixture(autouse=True)
def _shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "shop_teacher", raising=False)
    Path("shop").mkdir()
    for name, n, seed in (("train", 900, 0), ("test", 300, 1)):
        frame(n, seed).to_csv(f"shop/{name}.csv", index=False)
    Path("shop_teacher.py").write_text(TEACHER)


def right(results: str, role: str = "student") -> float:
    accuracy: float = limbeck.read_results(results)["roles"][role]["accuracy"]["mean"]
    return accuracy


SHORT = ("--hidden", "16", "--num_train_epochs", "25", "--learning_rate", "0.005", "--save_strategy", "no")


def test_a_student_reads_the_table_as_it_is_and_its_teacher_reads_its_own_columns(limbeck_says: Any) -> None:
    data = ("--data", "shop", "--teacher", "shop_teacher:pipeline")
    code, _, err = limbeck_says("distill", *data, *SHORT, "--output_dir", "run")
    assert code == 0, err
    import shop_teacher

    test = pd.read_csv("shop/test.csv")
    expected = (shop_teacher.pipeline().predict(test) == test.label).mean()
    assert right("run/results.json", "teacher") == pytest.approx(expected, abs=1e-6)
    assert right("run/results.json") > 0.85
    columns = json.loads(Path("run/student/table_encoder.json").read_text())["columns"]
    assert [column["feature"]["name"] for column in columns] == ["price", "cut", "weight"]
    code, _, err = limbeck_says("evaluate", *data, "--student", "run/student", "--output", "again.json")
    assert (code, right("again.json")) == (0, right("run/results.json")), err
    reordered = test[["weight", "cut", "label", "price"]].assign(cut="Good")  # one category is not there
    reordered.to_csv("test.csv", index=False)
    code, _, err = limbeck_says("evaluate", "--data", "test.csv", "--student", "run/student", "--output", "other.json")
    sets = limbeck.table(reordered, features=limbeck.load("run/student").table_encoder.features)  # type: ignore[union-attr]
    student = limbeck.load("run/student")
    assert right("other.json") == limbeck.evaluate(student, sets["train"])["roles"]["student"]["accuracy"]["mean"]
    reordered.drop(columns="price").to_csv("test.csv", index=False)
    code, _, err = limbeck_says("evaluate", "--data", "test.csv", "--student", "run/student")
    assert (code, "no column 'price'" in err) == (1, True)


def test_without_a_scale_the_numbers_stay_as_they_are(limbeck_says: Any) -> None:
    words = ("distill", "--data", "shop", "--scale", "none", *SHORT, "--num_train_epochs", "1", "--output_dir", "run")
    assert limbeck_says(*words)[0] == 0
    columns = json.loads(Path("run/student/table_encoder.json").read_text())["columns"]
    assert [(column["mean"], column["scale"]) for column in columns] == [(0, 1)] * 3
    code, _, err = limbeck_says(*words[:4], "min", "--output_dir", "other")
    assert (code, "scale is one of standard, none, not 'min'" in err) == (1, True)


def test_a_stored_set_of_a_table_trains_tunes_and_exports(limbeck_says: Any) -> None:
    data = ("--data", "shop", "--teacher", "shop_teacher:pipeline")
    code, _, err = limbeck_says("label", *data, "--kind", "dense", "--output_dir", "stored")
    assert code == 0, err
    assert limbeck_says("verify", "stored")[0] == 0
    stored = limbeck.open_stored("stored")
    assert stored.features == limbeck.table("shop")["train"].features
    code, _, err = limbeck_says("distill", "--transfer_set", "stored", "--data", "shop", *SHORT, "--output_dir", "run")
    assert (code, right("run/results.json") > 0.85) == (0, True), err
    code, _, err = limbeck_says("export", "run", "--data", "shop")
    assert code == 0, err
    report = json.loads(Path("run/export.json").read_text())
    assert report["onnx"]["accuracy"] == report["torch"]["accuracy"] > 0.85
    assert [column["name"] for column in report["features"]] == ["price", "cut", "weight"]
    tune = (
        "tune",
        *data,
        "--hidden",
        "4",
        "--num_train_epochs",
        "1",
        "--temperatures",
        "1",
        "--hard_weights",
        "0",
        "0.5",
    )
    code, _, err = limbeck_says(*tune, "--hard_weights", "0", "--seeds", "1", "--output_dir", "tuned")
    assert code == 0, err


def test_a_network_of_ones_own_reads_the_encoded_table(limbeck_says: Any) -> None:
    Path("own.py").write_text(
        "from torch import nn\ndef net():\n    return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 2))\n"
    )
    words = ("distill", "--data", "shop", "--student", "own:net", "--num_train_epochs", "60", "--learning_rate", "0.01")
    code, _, err = limbeck_says(*words, "--output_dir", "run")
    assert (code, right("run/results.json") > 0.85) == (0, True), err
    own: Any = sys.modules["own"]
    opened = limbeck.load("run/student", into=own.net())
    measured = limbeck.evaluate(opened, limbeck.table("shop")["test"])
    assert measured["roles"]["student"]["accuracy"]["mean"] == right("run/results.json")


def test_labels_in_other_letters_than_the_teachers_are_matched(limbeck_says: Any, caplog: Any) -> None:
    frame(400, 2).to_csv("shop.csv", index=False)
    assert limbeck_says("distill", "--data", "shop.csv", *SHORT, "--output_dir", "teacher")[0] == 0
    shouted = frame(300, 3)
    shouted["label"] = shouted.label.str.upper()
    shouted.to_csv("shouted.csv", index=False)
    code, _, err = limbeck_says(
        "evaluate", "--data", "shouted.csv", "--student", "teacher/student", "--output", "shouted.json"
    )
    assert code == 0, err
    assert "'NO' is class 0, 'no'" in caplog.text
    frame(300, 3).to_csv("plain.csv", index=False)
    assert limbeck_says("evaluate", "--data", "plain.csv", "--student", "teacher/student", "--output", "a.json")[0] == 0
    assert right("shouted.json") == right("a.json") > 0.8
