"""Oracle: the labels written out by hand."""

from typing import Any

import datasets
import pytest

from limbeck.errors import DataError
from limbeck.transfer import TransferSet, table


def with_labels(*splits: list[Any], feature: Any = None) -> list[TransferSet]:
    """The sets whose labels are these; the first one is the training split."""
    made = {}
    for name, labels in zip(("train", "test"), splits, strict=False):
        data = datasets.Dataset.from_dict({"x": [float(i) for i in range(len(labels))], "label": labels})
        made[name] = data.cast_column("label", feature) if feature else data
    return list(table(datasets.DatasetDict(made)).values())


def labels_of(examples: TransferSet) -> list[int] | None:
    return None if examples.labels is None else examples.labels.tolist()


def test_strings_become_classes_in_sorted_order() -> None:
    train, test = with_labels(["no", "yes", None, "maybe"], ["yes", "no"])
    assert labels_of(train) == [1, 2, -100, 0]
    assert labels_of(test) == [2, 1]
    assert train.label_names == test.label_names == ("maybe", "no", "yes")


def test_class_labels_keep_their_names_and_order() -> None:
    feature = datasets.ClassLabel(names=["yes", "no", "never"])
    train, test = with_labels([1, 0, -1, None], [-1, -1], feature=feature)
    assert labels_of(train) == [1, 0, -100, -100]
    assert labels_of(test) is None  # a test split whose labels are withheld has none
    assert train.label_names == test.label_names == ("yes", "no", "never")


def test_whole_numbers_stay() -> None:
    train, test = with_labels([0, 3, None, -100], [1, 0])
    assert labels_of(train) == [0, 3, -100, -100]
    assert labels_of(test) == [1, 0]
    assert train.label_names is None
    assert train.num_classes == test.num_classes == 4
    (as_floats,) = with_labels([0.0, 2.0, float("nan")])  # as CSV files with missing labels are read
    assert labels_of(as_floats) == [0, 2, -100]


def test_a_training_split_whose_labels_are_all_missing() -> None:
    (train,) = with_labels([None, None])
    assert train.labels is None
    assert train.num_classes is None


def test_labels_that_the_training_split_does_not_know() -> None:
    with pytest.raises(
        DataError, match=r"label 'what' in 'label' of test is none of the training split's: \['no', 'yes'\]"
    ):
        with_labels(["yes", "no"], ["no", "what"])
    with pytest.raises(
        DataError, match=r"label 2 in 'label' of test is no class: by the training split they are 0 to 1,"
    ):
        with_labels([0, 1], [2])
    with pytest.raises(DataError, match=r"label -7 in 'label' of train is no class"):
        with_labels([1, -7])


def test_splits_with_other_classes() -> None:
    made = {
        split: datasets.Dataset.from_dict({"x": [1.0], "label": [0]}).cast_column(
            "label", datasets.ClassLabel(names=names)
        )
        for split, names in (("train", ["a", "b"]), ("test", ["b", "a"]))
    }
    with pytest.raises(DataError, match=r"train has \['a', 'b'\] and test \['b', 'a'\]"):
        table(datasets.DatasetDict(made))
