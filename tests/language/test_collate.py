"""Oracle: batches written out by hand."""

from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch.utils.data import DataLoader

from limbeck.errors import ConfigError, DataError
from limbeck.transfer.text.collate import Pad

END = 9  # also the padding
LONG: dict[str, Any] = {"row_id": 7, "input_ids": [1, 2, 3, END], "labels": [-100, -100, 3, END], "length": 4}
SHORT: dict[str, Any] = {"row_id": 3, "input_ids": [4, END], "labels": [-100, END], "length": 2}
TEACHERS = (
    {"teacher_input_ids": [3, END], "teacher_labels": [-100, END]},
    {"teacher_input_ids": [5, 5, END], "teacher_labels": [-100, -100, END]},
)


def test_pads_on_the_right_and_learns_the_end_though_it_is_the_padding() -> None:
    batch = Pad(END)([LONG, SHORT])
    assert {name: values.tolist() for name, values in batch.items()} == {
        "input_ids": [[1, 2, 3, END], [4, END, END, END]],
        "attention_mask": [[1, 1, 1, 1], [1, 1, 0, 0]],
        "labels": [[-100, -100, 3, END], [-100, END, -100, -100]],
        "row_id": [7, 3],
    }
    assert {values.dtype for values in batch.values()} == {torch.int64}


def test_the_teacher_has_its_own_width() -> None:
    student = {**SHORT, "labels": [-100, END]}
    batch = Pad(0)([{**student, **TEACHERS[0]}, {**student, **TEACHERS[1]}])
    assert batch["input_ids"].tolist() == [[4, END], [4, END]]
    assert batch["teacher_input_ids"].tolist() == [[3, END, 0], [5, 5, END]]
    assert batch["teacher_attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1]]
    assert batch["teacher_labels"].tolist() == [[-100, END, -100], [-100, -100, END]]


@pytest.mark.parametrize(("multiple", "width"), [(1, 4), (3, 6), (4, 4), (8, 8)])
def test_widths_are_multiples(multiple: int, width: int) -> None:
    batch = Pad(0, multiple_of=multiple)([LONG, SHORT])
    assert {batch[name].shape for name in ("input_ids", "attention_mask", "labels")} == {(2, width)}
    assert int(batch["attention_mask"].sum()) == 6
    assert int((batch["labels"] != -100).sum()) == 3


@pytest.mark.parametrize("kind", [None, "numpy", "torch"])
def test_rows_of_a_dataset_of_any_format_by_workers(kind: str | None) -> None:
    rows = Dataset.from_list([LONG, SHORT, LONG]).with_format(kind)
    batches = list(DataLoader(rows, batch_size=2, collate_fn=Pad(END), num_workers=1 if kind is None else 0))
    assert [batch["row_id"].tolist() for batch in batches] == [[7, 3], [7]]
    assert batches[0]["input_ids"].tolist() == [[1, 2, 3, END], [4, END, END, END]]
    assert batches[1]["labels"].tolist() == [[-100, -100, 3, END]]


def test_arrays_are_rows_too() -> None:
    row = {name: np.array(values, dtype=np.int32) for name, values in LONG.items()}
    assert Pad(0)([row])["labels"].tolist() == [[-100, -100, 3, END]]


def sides(student: list[int], teacher: list[int]) -> dict[str, Any]:
    """A row whose labels are given; its tokens are of no matter."""
    own = {"input_ids": [1] * len(student), "labels": student}
    return {"row_id": 41, **own, "teacher_input_ids": [1] * len(teacher), "teacher_labels": teacher}


@pytest.mark.parametrize(
    ("student", "teacher"),
    [([-100, 5, 6], [-100, -100, 5]), ([-100, 5, 6], [-100, 5, 7]), ([5, 6], [-100, 5, 6])],
    ids=["fewer", "another", "a first token, which nothing predicts"],
)
def test_sides_that_learn_differently_are_refused(student: list[int], teacher: list[int]) -> None:
    with pytest.raises(DataError, match="row_id 41"):
        Pad(0)([sides([-100, 5, 6], [-100, -100, 5, 6]) | {"row_id": 40}, sides(student, teacher)])


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{**LONG, "labels": [3, END]}], "Row 7 must have labels for each token, but has 4 tokens and 2 labels"),
        ([{"input_ids": [1, 2]}], r"place 0 of a batch has no 'labels', only \['input_ids'\]"),
        ([LONG, {**SHORT, **TEACHERS[0]}], "'teacher_input_ids', or none, but 1 of 2 have"),
        ([LONG, {"input_ids": [1, 2], "labels": [-100, 2]}], "'row_id', or none, but 1 of 2 have"),
    ],
)
def test_rows_that_are_no_examples_are_refused(rows: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(DataError, match=said):
        Pad(0)(rows)


@pytest.mark.parametrize(("pad_id", "multiple"), [(None, 1), (-1, 1), (0, 0)])
def test_settings_are_checked(pad_id: Any, multiple: int) -> None:
    with pytest.raises(ConfigError):
        Pad(pad_id, multiple_of=multiple)
