"""Columns of tables that are not numbers. Oracle: pandas, and the values as they were written."""

import pickle
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest
import torch

import limbeck
from limbeck import DataError, table
from limbeck.networks.table import Feature

DATES = ["2020-01-01", "1969-12-31T12:00", "2024-02-29 23:59:59", None, "2020-01-02T00:00:00Z"]
DAYS = [18262.0, -0.5, 19782 + (86399 / 86400), None, 18263.0]


def values_of(examples: Any) -> list[list[float | None]]:
    found = examples.__getitems__(range(len(examples)))["inputs"]
    return [[None if np.isnan(x) else x for x in row] for row in found.tolist()]


@pytest.mark.parametrize("kind", ["text", "timestamp", "frame"])
def test_dates_are_days(kind: str) -> None:
    parsed = pd.to_datetime(pd.Series(DATES), format="ISO8601", utc=True)
    label = [0, 1, 0, 1, 0]
    source: Any = datasets.Dataset.from_dict({"sold": DATES, "label": label})
    if kind == "timestamp":
        source = datasets.Dataset.from_dict(
            {"sold": [None if day is pd.NaT else day for day in parsed], "label": label}
        )
    elif kind == "frame":
        source = pd.DataFrame({"sold": parsed, "label": label})
    examples = table(source, feature_columns=["sold"])["train"]
    assert examples.features == (Feature("sold", "date"),)
    for found, expected in zip(values_of(examples), DAYS, strict=True):
        assert found == [None if expected is None else pytest.approx(expected, abs=0.002)]


def test_a_word_among_dates_is_named() -> None:
    train = pd.DataFrame({"sold": ["2020-01-01", "2021-01-01"], "label": [0, 1]})
    test = pd.DataFrame({"sold": ["2020-01-01", "yesterday"], "label": [0, 1]})
    with pytest.raises(DataError, match=r"'sold' in test must hold dates, such as 2026-11-27: .*yesterday"):
        table({"train": train, "test": test}, feature_columns=["sold"])


def test_categories_are_those_of_the_training_part(tmp_path: Path) -> None:
    """NA is a category like any other; only an empty cell is missing."""
    folder = tmp_path / "towns"
    folder.mkdir()
    (folder / "train.csv").write_text("town,size,label\nNA,1,a\nRome,2,b\n,3,a\nRome,4,b\nNA,5,a\n")
    (folder / "test.csv").write_text("town,size,label\nOslo,1,a\nNA,,b\n")
    sets = table(folder, feature_columns=["size", "town"])
    assert sets["train"].features == (Feature("size"), Feature("town", "category", ("NA", "Rome")))
    assert values_of(sets["train"]) == [[1, 0], [2, 1], [3, None], [4, 1], [5, 0]]
    assert values_of(sets["test"]) == [[1, -1], [None, 0]]
    assert (sets["train"].columns_with_gaps, sets["test"].columns_with_gaps) == (("town",), ("size",))
    other = table(folder, features=[Feature("town", "category", ("Rome", "Oslo", "NA"))])
    assert values_of(other["test"]) == [[1], [2]]


def test_pandas_own_categories_and_booleans() -> None:
    cut = pd.Categorical(["b", "a", None, "b"], categories=["b", "a", "c"])
    frame = pd.DataFrame({"cut": cut, "sold": [True, False, None, True], "label": [0, 1, 0, 1]})
    examples = table(frame, feature_columns=["cut", "sold"])["train"]
    assert [(f.kind, f.categories) for f in examples.features or ()] == [("category", ("a", "b")), ("number", ())]
    assert values_of(examples) == [[1, 1], [0, 0], [None, None], [1, 1]]


N = 60


def columns() -> dict[str, list[Any]]:
    return {
        "size": [float(i % 7) for i in range(N)],
        "cut": ["Fair", "Good", "Ideal"] * (N // 3),
        "name": [f"Mr. {i} Smith" for i in range(N)],
        "label": [i % 2 for i in range(N)],
    }


def test_texts_that_differ_from_row_to_row_are_no_categories(caplog: pytest.LogCaptureFixture) -> None:
    examples = table(datasets.Dataset.from_dict(columns()))["train"]
    assert [f.name for f in examples.features or ()] == ["size", "cut"]
    assert "Features are 2 columns; 1 other columns are left out: 'name' (string)" in caplog.text
    without_numbers = {name: values for name, values in columns().items() if name in ("cut", "label")}
    categories = without_numbers | {"color": ["red", "blue"] * (N // 2)}
    examples = table(datasets.Dataset.from_dict(categories))["train"]
    assert [f.kind for f in examples.features or ()] == ["category", "category"]


def test_a_long_text_beside_other_columns_is_the_text() -> None:
    review = [f"number {i} is a film that nobody needs to see" for i in range(N)]
    with pytest.raises(DataError, match=r"The text in \['review'\] needs a tokenizer"):
        table(datasets.Dataset.from_dict(columns() | {"review": review}))


def test_rows_are_as_they_were_read_wherever_the_examples_go() -> None:
    frame = pd.DataFrame(columns() | {"code": [2**53 + i for i in range(N)]})
    train, part = table(frame)["train"].split(0.25, seed=0)
    for examples in (part, train, part.select([3, 0, 2]), pickle.loads(pickle.dumps(part))):
        batch = examples.__getitems__([2, 0])
        rows = pickle.loads(pickle.dumps(batch["table_rows"]))  # as to and from a process that loads data
        assert rows.to("cpu") is rows
        expected = frame.iloc[batch["row_id"].tolist()].drop(columns="label").reset_index(drop=True)
        pd.testing.assert_frame_equal(rows.frame(), expected, check_dtype=False)
        assert rows[1] == expected.iloc[1].to_dict()
        assert rows.frame(["code", "name"]).columns.tolist() == ["code", "name"]
    assert "table_rows" not in part[0]
    assert "table_rows" not in part.as_stored([0])
    with pytest.raises(DataError, match="table_rows must be the 3 rows of the columns, but are 60"):
        limbeck.TransferSet({"inputs": torch.zeros(3, 1)}, table_rows=table(frame)["train"].table_rows)
