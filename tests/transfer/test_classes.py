"""Oracle: the labels written out by hand."""

from typing import Any

import datasets
import numpy as np
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
        DataError, match=r"label 'what' in 'label' of test is not one of the training split's: \['no', 'yes'\]"
    ):
        with_labels(["yes", "no"], ["no", "what"])
    with pytest.raises(
        DataError, match=r"label 2 in 'label' of test is not a class: by the training split they are 0 to 1,"
    ):
        with_labels([0, 1], [2])
    with pytest.raises(DataError, match=r"label -7 in 'label' of train is not a class"):
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


# Numbers as text, and numbers that are no places


@pytest.mark.parametrize("write", [str, "LABEL_{}".format, " {} ".format, "{:02d}".format, "{}.0".format])
def test_numbers_written_as_text_are_numbers(write: Any) -> None:
    numbers = [*range(12), 11, 2]
    train, test = with_labels([write(number) for number in numbers], [write(10), write(2), None, "-100"])
    assert labels_of(train) == numbers
    assert labels_of(test) == [10, 2, -100, -100]
    assert train.label_names is None
    assert train.num_classes == 12


def test_numbers_in_one_split_and_their_text_in_the_other() -> None:
    _, test = with_labels([str(number) for number in range(12)], [10, 2, 11])
    assert labels_of(test) == [10, 2, 11]


@pytest.mark.parametrize("around", ["class {}", "digit_{}", "{}th", "C{}-b"])
def test_names_that_differ_in_a_number_are_in_its_order(around: str) -> None:
    names = [around.format(number) for number in (10, 2, 0, 1, 11)]
    (train,) = with_labels(names)
    assert train.label_names == tuple(around.format(number) for number in (0, 1, 2, 10, 11))
    assert labels_of(train) == [3, 2, 0, 1, 4]


def test_other_names_are_in_sorted_order() -> None:
    assert with_labels(["b10", "b2", "c1"])[0].label_names == ("b10", "b2", "c1")
    assert with_labels(["3", "ten", "1"])[0].label_names == ("1", "3", "ten")
    assert with_labels(["v1.10", "v1.9"])[0].label_names == ("v1.10", "v1.9")  # two numbers each


@pytest.mark.parametrize(
    ("values", "ids"),
    [
        ([1, 2, 3, 4, 5], [1, 2, 3, 4, 5]),
        ([2, 1, 1, 2], [1, 2]),
        ([10_000, 20_000], [10_000, 20_000]),
        ([0, 10_000_000], [0, 10_000_000]),
        ([7, 5_000_000, 12], [7, 12, 5_000_000]),
        (["1", "2", "10", "3", "4", "5", "6", "7", "8", "9"], list(range(1, 11))),
        ([1.0, float("nan"), 2.0], [1, 2]),
    ],
)
def test_numbers_that_are_no_places_are_mapped_and_said(
    values: list[Any], ids: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    train, test = with_labels(values, [ids[1], None])
    expected = [-100 if value != value else ids.index(int(value)) for value in values]
    assert labels_of(train) == expected
    assert labels_of(test) == [1, -100]
    assert train.label_names == test.label_names == tuple(map(str, ids))
    (said,) = [record.getMessage() for record in caplog.records]
    assert f"these {len(ids)} classes become 0 to {len(ids) - 1}, in this order" in said
    with pytest.raises(DataError, match=f"label {ids[-1] + 1} in 'label' of test is not one of the training split's"):
        with_labels(values, [ids[-1] + 1])


def test_places_with_gaps_stay_and_the_absent_classes_are_said(caplog: pytest.LogCaptureFixture) -> None:
    (train,) = with_labels([0, 217, 482, 990])  # a part of ImageNet
    assert labels_of(train) == [0, 217, 482, 990]
    assert train.num_classes == 991
    assert "987 of the 991 classes of 'label' of train have no example in the training split" in caplog.text


@pytest.mark.parametrize("labels", [[1, 2, 3], [10_000, 20_000], ["1", "2"]])
def test_num_classes_keeps_numbers_as_they_are(labels: list[Any], caplog: pytest.LogCaptureFixture) -> None:
    count = int(labels[-1]) + 5
    data = datasets.Dataset.from_dict({"x": [float(i) for i in range(len(labels))], "label": labels})
    train = table(data, num_classes=count)["train"]
    assert labels_of(train) == [int(label) for label in labels]
    assert train.num_classes == count
    assert train.label_names is None
    assert "become" not in caplog.text
    with pytest.raises(DataError, match=rf"label {labels[-1]} in 'label' of train is not a class: classes are 0 to"):
        table(data, num_classes=int(labels[-1]))
    named = datasets.Dataset.from_dict({"x": [1.0], "label": ["cat"]})
    with pytest.raises(DataError, match=r"num_classes is for labels that are numbers, but .* has 'cat'"):
        table(named, num_classes=2)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0.0, float("inf")], "whole numbers or names, but 'label' of train has inf"),
        ([0.0, -float("inf")], "whole numbers or names, but 'label' of train has -inf"),
        ([1, 2**64 - 1], "numbers of 64 bits, but 'label' of train has 18446744073709551615"),
        ([0.0, 1e300], "numbers of 64 bits, but 'label' of train has 1e\\+300"),
        (["0", "1.5"], "whole numbers or names, but 'label' of train has '1.5'"),
        (["a", "a\0"], r"label 'a\\x00' in 'label' of train has a sign that cannot be seen"),
        (["a", "a\u200b"], r"label 'a\\u200b' in 'label' of train has a sign that cannot be seen"),
        (["0", "1", "NA"], "are numbers but for 'NA'; leave the cell empty"),
        (["0", "1", "none", "?"], "are numbers but for 'none'; leave the cell empty"),
    ],
)
def test_labels_that_are_neither_numbers_nor_names(labels: list[Any], message: str) -> None:
    values = np.array(labels, dtype=np.uint64) if labels[-1] == 2**64 - 1 else labels
    data = datasets.Dataset.from_dict({"x": [1.0] * len(labels), "label": values})
    with pytest.raises(DataError, match=message):
        table(data, task="classification")


def sentiment(*labels: str) -> datasets.Dataset:
    return datasets.Dataset.from_dict({"x": [float(i) for i in range(len(labels))], "label": list(labels)})


def test_labels_are_matched_with_the_names_of_a_model(caplog: pytest.LogCaptureFixture) -> None:
    data = sentiment("positive", "negative", "positive")
    for names in (("POSITIVE", "NEGATIVE"), ("positive", "negative"), ("Positive", "neutral", "Negative")):
        train = table(data, model_names=names)["train"]
        assert train.label_names == names
        assert [names[place].lower() for place in train.labels.tolist()] == data["label"]  # type: ignore[union-attr]
    assert "matched with the classes of the model by name: [\"'negative' is class 1, 'NEGATIVE'\"" in caplog.text
    caplog.clear()
    same = table(data, model_names=("negative", "positive"))["train"]
    assert same.labels.tolist() == [1, 0, 1]  # type: ignore[union-attr]
    assert caplog.text == ""


@pytest.mark.parametrize("names", [("bad", "good"), ("positive", "neutral"), ("Negative", "NEGATIVE", "positive")])
def test_names_without_one_match_each_leave_the_classes_alone(names: tuple[str, ...]) -> None:
    train = table(sentiment("positive", "negative"), model_names=names)["train"]
    assert train.label_names == ("negative", "positive")
    with pytest.raises(DataError, match=r"The label '\w+' is none of label_names, .*correct the labels or the names"):
        table(sentiment("positive", "negative"), label_names=names)


def test_classes_that_differ_in_case_alone_are_two(caplog: pytest.LogCaptureFixture) -> None:
    data = sentiment("It", "it", "IT")
    assert table(data, model_names=("it", "It", "IT"))["train"].labels.tolist() == [1, 0, 2]  # type: ignore[union-attr]
    assert table(data, model_names=("iT", "X"))["train"].label_names == ("IT", "It", "it")


def test_class_labels_and_numbers_get_the_names_that_are_given() -> None:
    feature = datasets.ClassLabel(names=["neg", "pos"])
    data = sentiment("neg", "pos", "neg").cast_column("label", feature)
    train = table(data, label_names=("POS", "NEG"))["train"]
    assert (train.label_names, train.labels.tolist()) == (("POS", "NEG"), [1, 0, 1])  # type: ignore[union-attr]
    numbers = datasets.Dataset.from_dict({"x": [0.0, 1.0], "label": [1, 0]})
    train = table(numbers, label_names=("no", "yes", "perhaps"))["train"]
    assert (train.label_names, train.labels.tolist(), train.num_classes) == (  # type: ignore[union-attr]
        ("no", "yes", "perhaps"), [1, 0], 3
    )  # fmt: skip
    with pytest.raises(DataError, match="label_names must be a name per class, but there are 2 classes"):
        table(numbers, label_names=("no",))
