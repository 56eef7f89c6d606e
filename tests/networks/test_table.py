"""The encoder of tables. Oracle: scikit-learn's ColumnTransformer on the same values."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.compose import ColumnTransformer
from sklearn.impute import MissingIndicator, SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import limbeck
from limbeck import ConfigError, DataError, ModelError, TableEncoder
from limbeck.networks.asking import logits_of
from limbeck.networks.table import Feature, read_table_encoder, require_table
from limbeck.teachers import fingerprint_of

N = 240


def frame(n: int = N, seed: int = 0) -> pd.DataFrame:
    g = np.random.default_rng(seed)
    found = pd.DataFrame(
        {
            "price": g.gamma(2.0, 500.0, n),
            "cut": g.choice(["Fair", "Good", "Ideal"], n),
            "depth": g.normal(61.0, 2.0, n),
            "color": g.choice(list("DEFG"), n),
            "sold": np.datetime64("2020-01-01") + g.integers(0, 900, n).astype("timedelta64[D]"),
            "label": g.choice(["no", "yes"], n),
        }
    )
    found.loc[g.random(n) < 0.2, "depth"] = np.nan
    found.loc[g.random(n) < 0.2, "color"] = None
    return found


def by_scikit_learn(train: pd.DataFrame, test: pd.DataFrame) -> np.ndarray:
    """Numbers and dates, then which were missing, then a unit per category."""

    def numbers(table: pd.DataFrame) -> pd.DataFrame:
        days = (table.sold - pd.Timestamp(0)) / pd.Timedelta(days=1)
        return table[["price", "depth"]].assign(sold=days, cut=table.cut, color=table.color.astype(object))

    made = ColumnTransformer(
        [
            ("numbers", make_pipeline(SimpleImputer(strategy="median"), StandardScaler()), ["price", "depth", "sold"]),
            ("missing", MissingIndicator(features="missing-only"), ["price", "depth", "sold"]),
            ("categories", OneHotEncoder(handle_unknown="ignore", sparse_output=False), ["cut", "color"]),
        ]
    )
    made.fit(numbers(train))
    return np.asarray(made.transform(numbers(test)), np.float64)


def inputs_of(examples: Any) -> torch.Tensor:
    return examples.__getitems__(range(len(examples)))["inputs"]


def test_it_encodes_as_scikit_learn_does() -> None:
    train, test = frame(), frame(80, seed=1)
    test.loc[3, "cut"] = "Premium"  # a category that the training part does not have
    sets = limbeck.table({"train": train, "test": test})
    encoder = TableEncoder.fit(sets["train"])
    for name, table in (("train", train), ("test", test)):
        found, expected = encoder(inputs_of(sets[name])), by_scikit_learn(train, test=table)
        assert found.shape == expected.shape == (len(table), encoder.width)
        np.testing.assert_allclose(found.numpy(), expected, atol=2e-5)
    assert encoder(inputs_of(sets["test"]))[3, 4:7].tolist() == [0, 0, 0]


def test_rare_categories_share_a_unit_as_in_scikit_learn() -> None:
    g = np.random.default_rng(0)
    towns = [f"town {min(int(i), 160)}" for i in g.exponential(30, 4000)]
    train = limbeck.table(pd.DataFrame({"town": towns, "label": [0, 1] * 2000}), feature_columns=["town"])["train"]
    encoder = TableEncoder.fit(train)
    one_hot = OneHotEncoder(max_categories=100, handle_unknown="infrequent_if_exist", sparse_output=False)
    expected = one_hot.fit_transform(np.array(towns)[:, None])
    assert encoder.width == expected.shape[1] == 100
    assert (encoder(inputs_of(train)).numpy() == expected).all()
    assert (encoder(torch.tensor([[-1.0], [1e9]])).numpy() == one_hot.transform([["elsewhere"]] * 2)).all()


def test_numbers_stay_as_they_are_without_a_scale() -> None:
    train = limbeck.table(frame())["train"]
    values, encoder = inputs_of(train), TableEncoder.fit(train, scale="none")
    known = ~values[:, 2].isnan()
    assert (encoder(values)[:, 0] == values[:, 0]).all()
    assert (encoder(values)[known, 1] == values[known, 2]).all()
    assert encoder(values)[~known, 1].unique() == pytest.approx(float(values[known, 2].median()), abs=0.05)
    with pytest.raises(ConfigError, match="scale is one of standard, none, not 'minmax'"):
        TableEncoder.fit(train, scale="minmax")


def test_a_student_keeps_it_in_its_folder_and_reads_tables_with_it(tmp_path: Path) -> None:
    train = limbeck.table(frame())["train"]
    encoder = TableEncoder.fit(train)
    student = limbeck.mlp([encoder.width, 7, 2])
    student.table_encoder = encoder
    batch = train.__getitems__([0, 1, 2])
    expected = student(encoder(batch["inputs"]))
    assert torch.equal(logits_of(student, batch), expected)
    limbeck.save(student, tmp_path / "student", label_names=train.label_names)
    opened = limbeck.load(tmp_path / "student")
    assert opened.table_encoder == encoder
    assert torch.equal(logits_of(opened, batch), expected)
    assert read_table_encoder(tmp_path) is None
    rounded = logits_of(opened.bfloat16(), batch)  # its weights are rounded; the table is not, before it is encoded
    assert (rounded.float() - expected).abs().max() < 0.05


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda columns: columns[0].pop("mean"), "'mean'"),
        (lambda columns: columns[0].update(scale=0), "scale not 0"),
        (lambda columns: columns[0].update(mean=float("nan")), "must be finite"),
        (lambda columns: columns[1].update(units=[0]), "a unit for each of its 3 categories"),
        (lambda columns: columns[1].update(units=[0, 1, -7]), "a unit for each"),
        (lambda columns: columns[0]["feature"].update(kind="image"), "a kind out of number, date, category"),
        (lambda columns: columns[1]["feature"].update(categories=[1, 2, 3]), "must be texts"),
        (lambda columns: columns.append(None), "NoneType"),
    ],
)
def test_a_changed_file_is_named(change: Any, message: str, tmp_path: Path) -> None:
    description = json.loads(TableEncoder.fit(limbeck.table(frame())["train"]).to_json())
    change(description["columns"])
    (tmp_path / "table_encoder.json").write_text(json.dumps(description))
    with pytest.raises(ModelError, match=rf"table_encoder.json does not describe the columns of a table: .*{message}"):
        read_table_encoder(tmp_path)


def test_networks_and_tables_that_do_not_fit() -> None:
    sets = limbeck.table({"train": frame(), "other": frame(60, seed=2).assign(cut="Fair")})
    encoder = TableEncoder.fit(sets["train"])
    student = limbeck.mlp([encoder.width, 2])
    with pytest.raises(DataError, match="student reads numbers, but the column 'cut' holds categories"):
        require_table(student, sets["train"], "student")
    gaps = limbeck.table(frame()[["price", "depth", "label"]])["train"]
    with pytest.raises(DataError, match="teacher reads numbers, but the column 'depth' has missing values"):
        require_table(student, gaps, "teacher")
    student.table_encoder = encoder
    require_table(student, sets["other"], "student")  # read with the categories of the training part
    with pytest.raises(DataError, match=r"'price' .number., but the data has 'depth' .number. in its place"):
        require_table(student, limbeck.table(frame()[["depth", "price", "label"]])["train"], "student")
    alone = limbeck.table(frame().assign(cut="Fair"))["train"]
    with pytest.raises(DataError, match="the data has 'cut' with other categories in its place; read the data for"):
        limbeck.evaluate(student, alone)
    limbeck.evaluate(student, limbeck.table(frame().assign(cut="Fair"), features=encoder.features)["train"])
    with pytest.raises(DataError, match="reads 5 columns, but the data has 1"):
        require_table(student, limbeck.table(frame()[["price", "label"]])["train"], "student")
    with pytest.raises(DataError, match=r"a table of 5 columns, but the inputs are \[4, 9\]"):
        logits_of(student, {"inputs": torch.zeros(4, 9)})
    with pytest.raises(DataError, match=r"fitted on a transfer set of limbeck\.table that has feature columns"):
        TableEncoder.fit(limbeck.digits())
    empty = frame().assign(depth=np.nan)
    with pytest.raises(DataError, match="'depth' has no value in the training part"):
        TableEncoder.fit(limbeck.table(empty)["train"])
    student.table_encoder = "standard"
    with pytest.raises(ModelError, match="is a TableEncoder, not a str"):
        logits_of(student, {"inputs": torch.zeros(4, 5)})


def test_an_onnx_file_reads_the_table_itself(tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    train = limbeck.table(frame())["train"]
    encoder = TableEncoder.fit(train)
    student = limbeck.mlp([encoder.width, 9, 2])
    student.table_encoder = encoder
    batch = train.__getitems__(range(32))
    for given in (batch, None):  # drawn at random, too
        report = limbeck.export_onnx(student, tmp_path / "student.onnx", given)
        assert report["onnx"]["largest_difference"] < 1e-5
    assert report["features"][1] == {"name": "cut", "kind": "category", "categories": ("Fair", "Good", "Ideal")}
    assert report["inputs"] == {"inputs": {"type": "float32", "shape": ["batch", 5]}}
    values = batch["inputs"].clone()
    values[0, 1], values[1, 0] = -1.0, float("nan")  # an unknown category, and a gap where the training part had none
    session = runtime.InferenceSession(str(tmp_path / "student.onnx"), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"inputs": values.numpy()})
    np.testing.assert_allclose(found, logits_of(student, {"inputs": values}).detach().numpy(), atol=1e-5)


def test_networks_of_other_encoders_have_other_fingerprints() -> None:
    train = limbeck.table(frame())["train"]
    student = limbeck.mlp([TableEncoder.fit(train).width, 2])
    found = set()
    for scale in ("standard", "none"):
        student.table_encoder = TableEncoder.fit(train, scale)
        found.add(fingerprint_of(student))
    assert len(found) == 2


def test_features_are_what_they_are() -> None:
    train = limbeck.table(frame())["train"]
    assert train.features == (
        Feature("price"),
        Feature("cut", "category", ("Fair", "Good", "Ideal")),
        Feature("depth"),
        Feature("color", "category", ("D", "E", "F", "G")),
        Feature("sold", "date"),
    )
    assert train.columns_with_gaps == ("depth", "color")
    assert inputs_of(train)[0, 4] == (frame().sold[0] - pd.Timestamp(0)).days
