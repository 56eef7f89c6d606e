"""Oracle: the columns that may be learned from, by hand."""

import datetime
import logging
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest

from limbeck.errors import DataError
from limbeck.transfer import table

N = 30
WIDTH = (np.arange(N) * 7 % 13).astype(float)


def features_of(source: Any) -> list[list[float]]:
    return table(source)["train"].__getitems__(list(range(N)))["inputs"].tolist()


def said(caplog: pytest.LogCaptureFixture) -> str:
    return " ".join(record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING)


@pytest.mark.parametrize(
    "name",
    [
        "Unnamed: 0",
        "Unnamed: 0.1",
        "__index_level_0__",
        "row_id",
        "id",
        "ID",
        "idx",
        "index",
        "PassengerId",
        "customer_id",
    ],
)
def test_a_column_that_numbers_the_rows_by_its_name_is_no_feature(name: str, caplog: pytest.LogCaptureFixture) -> None:
    numbers = np.arange(N) * 3 + 11
    data = datasets.Dataset.from_dict({name: numbers, "width": WIDTH, "label": [i // 15 for i in range(N)]})
    assert features_of(data) == WIDTH[:, None].tolist()
    assert f"The columns ['{name}'] number the rows and are left out of the features" in said(caplog)
    both = table(data, feature_columns=[name, "width"])["train"]
    assert both.__getitems__([1])["inputs"].tolist() == [[14.0, WIDTH[1]]]


@pytest.mark.parametrize("order", ["sorted", "shuffled"])
@pytest.mark.parametrize("start", [0, 1])
def test_a_column_that_numbers_the_rows_by_its_values_is_no_feature(
    start: int, order: str, caplog: pytest.LogCaptureFixture
) -> None:
    numbers = np.arange(N) + start
    if order == "shuffled":
        numbers = np.random.default_rng(0).permutation(numbers)
    data = datasets.Dataset.from_dict({"nr": numbers, "width": WIDTH, "label": [i // 15 for i in range(N)]})
    assert features_of(data) == WIDTH[:, None].tolist()
    assert "['nr'] number the rows" in said(caplog)


@pytest.mark.parametrize("values", [np.arange(N) + 5, np.arange(N) * 2, np.arange(N) // 2, np.arange(N) + 0.5])
@pytest.mark.parametrize("name", ["grid", "valid", "acid", "width2"])
def test_other_numbers_are_features(name: str, values: np.ndarray, caplog: pytest.LogCaptureFixture) -> None:
    data = datasets.Dataset.from_dict({name: values, "label": [i // 15 for i in range(N)]})
    assert features_of(data) == values.astype(float)[:, None].tolist()
    assert said(caplog) == ""


def test_what_pandas_writes_beside_a_table(tmp_path: Path) -> None:
    frame = pd.DataFrame({"width": WIDTH, "label": [i // 15 for i in range(N)]})
    frame.to_csv(tmp_path / "train.csv")  # the index as a column without a name
    assert features_of(tmp_path / "train.csv") == WIDTH[:, None].tolist()
    frame[frame.width > 2].to_parquet(tmp_path / "train.parquet")  # as __index_level_0__
    kept = table(tmp_path / "train.parquet")["train"]
    assert kept.__getitems__([0])["inputs"].tolist() == [[7.0]]


def test_a_table_of_nothing_but_numbers_of_rows_is_refused() -> None:
    data = datasets.Dataset.from_dict({"id": list(range(N)), "label": [i // 15 for i in range(N)]})
    with pytest.raises(DataError, match=r"only columns of numbers, \['id'\], number the rows"):
        table(data)


def test_columns_that_are_no_features_are_named_where_they_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    data = datasets.Dataset.from_dict(
        {
            "width": WIDTH,
            "sizes": [[1.0, 2.0]] * N,
            "about": [{"a": 1}] * N,
            "day": [datetime.datetime(2020, 1, 1)] * N,
            "label": [i // 15 for i in range(N)],
        }
    )
    assert features_of(data) == [[width, 18262.0] for width in WIDTH.tolist()]  # days from 1970 to 2020
    assert "Features are 2 columns; 2 other columns are left out: 'sizes' (list" in said(caplog)
    assert "'about' (struct" in said(caplog)


def test_a_column_of_numbers_and_words_is_neither_a_text_nor_left_out(tmp_path: Path) -> None:
    lines = "".join(f"{width},{'unknown' if i == 3 else i % 7},{i // 15}\n" for i, width in enumerate(WIDTH))
    (tmp_path / "train.csv").write_text("width,age,label\n" + lines)
    with pytest.raises(
        DataError, match=r"must be numbers, but 'age' in train has 'unknown' in row 3 \(1 such in all\)"
    ):
        table(tmp_path / "train.csv")
    assert features_of_given(tmp_path / "train.csv", ["width"]) == WIDTH[:, None].tolist()


def features_of_given(source: Any, names: list[str]) -> list[list[float]]:
    return table(source, feature_columns=names)["train"].__getitems__(list(range(N)))["inputs"].tolist()


def test_numbers_written_as_text_are_numbers() -> None:
    data = datasets.Dataset.from_dict(
        {"a": ["1.5", " 2", "+3", "-1e2"], "b": [1, 2, 5, 7], "label": ["x", "y", "x", "y"]}
    )
    examples = table(data)["train"]
    assert examples.__getitems__([0, 1, 2, 3])["inputs"].tolist() == [[1.5, 1], [2, 2], [3, 5], [-100, 7]]
