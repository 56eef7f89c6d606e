"""Label columns by their task: what is guessed, what must be said, and the labels that come out."""

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from limbeck.errors import DataError
from limbeck.networks.outputs import CLASSES, Task
from limbeck.transfer import TransferSet, table

RNG = np.random.default_rng(0)
ROWS = 300
X = {"a": RNG.normal(size=ROWS), "b": RNG.normal(size=ROWS)}


def read(more: dict[str, Any], **options: Any) -> TransferSet:
    return table(pd.DataFrame(X | more), **options)["train"]


def test_numbers_with_a_fraction_are_regression() -> None:
    target = RNG.normal(size=ROWS) * 1000
    target[3] = np.nan
    found = read({"target": target}, label_column="target")
    assert found.task == Task("regression", outputs=1)
    assert found.labels is not None
    assert torch.equal(found.labels.isnan().nonzero()[:, 0], torch.tensor([3]))
    assert np.allclose(found.labels[:3], target[:3], rtol=1e-6)
    assert found.label_names == ("target",)
    assert found.column_names == ("inputs",)
    assert found.__getitems__([0, 1])["inputs"].shape == (2, 2)


@pytest.mark.parametrize("values", [RNG.permutation(ROWS), RNG.integers(0, 60, ROWS)], ids=["each once", "sixty"])
def test_whole_numbers_of_many_values_must_be_said_to_be_classes_or_numbers(values: Any) -> None:
    with pytest.raises(DataError, match=r"different whole numbers in 300 examples.*--task"):
        read({"price": values}, label_column="price")
    assert read({"price": values}, label_column="price", task="regression").task == Task("regression", outputs=1)
    found = read({"price": values}, label_column="price", task="classification")
    assert (found.task, found.num_classes) == (CLASSES, values.max() + 1)


def test_few_values_are_classes_also_as_text() -> None:
    for values in (RNG.integers(0, 10, ROWS), RNG.integers(0, 10, ROWS).astype(str)):
        assert read({"label": values}).task == CLASSES
    rated = RNG.choice(["1.5", "2.0", "3.5"], ROWS)
    assert read({"label": rated}).task == Task("regression", outputs=1)
    assert read({"label": RNG.choice(["1.0", "2.0"], ROWS)}).task == CLASSES


def test_several_columns_are_labels_of_0_and_1_or_numbers() -> None:
    red, blue = RNG.integers(0, 2, ROWS), RNG.integers(0, 2, ROWS).astype(bool)
    found = read({"red": red, "blue": blue}, label_column=["red", "blue"])
    assert found.task == Task("multi_label", outputs=2)
    assert found.label_names == ("red", "blue")
    assert found.labels is not None
    assert np.array_equal(found.labels, np.stack([red, blue], 1))
    numbers = read({"red": red * 1.5, "blue": blue.astype(int)}, label_column=["red", "blue"])
    assert numbers.task == Task("regression", outputs=2)
    with pytest.raises(DataError, match=r"neither all 0 or 1 \(or true and false\), as several labels are, nor all"):
        read({"red": red, "blue": RNG.choice(["x", "y"], ROWS)}, label_column=["red", "blue"])


def test_lists_of_names_and_vectors_of_0_and_1() -> None:
    tags = [["sad", "old"], [], ["new"], None]
    found = table(datasets.Dataset.from_dict({"a": [0.5, 1.0, 2.5, 3.0], "label": tags}))["train"]
    assert found.label_names == ("new", "old", "sad")
    assert found.labels is not None
    assert found.labels.tolist() == [[0, 1, 1], [0, 0, 0], [1, 0, 0], [-100, -100, -100]]
    vectors = [[0, 1, 1], [0, 0, 0], [1, 0, 1], [1, 1, 1]]
    found = table(datasets.Dataset.from_dict({"a": [0.5, 1.0, 2.5, 3.0], "label": vectors}))["train"]
    assert found.labels is not None
    assert found.labels.tolist() == vectors


def test_joined_names_are_several_labels_where_that_is_said() -> None:
    tags = ["sad|old", "new", None, "old"]  # an empty cell of a csv file: none of the labels
    frame = {"a": [0.5, 1.0, 2.5, 3.0], "label": tags}
    found = table(datasets.Dataset.from_dict(frame), task="multi_label")["train"]
    assert found.label_names == ("new", "old", "sad")
    assert found.labels is not None
    assert found.labels.tolist() == [[0, 1, 1], [1, 0, 0], [0, 0, 0], [0, 1, 0]]


def test_texts_that_are_hardly_classes_must_be_said_to_be() -> None:
    tags = [["sad|old", "old", "new|sad", "new"][i % 4] for i in range(ROWS)]
    with pytest.raises(DataError, match=r"holds names joined by .* such as 'sad\|old'"):
        read({"label": tags})
    assert read({"label": tags}, task="classification").num_classes == 4
    prices = [f"${i}.50" for i in range(ROWS)]
    with pytest.raises(DataError, match=r"300 different texts in 300 examples.*remove signs and separators"):
        read({"label": prices})


def test_labels_of_all_splits_have_places_and_others_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"task \(--task\) must be one of classification, multi_label"):
        read({"label": [0, 1] * 150}, task="detection")
    with pytest.raises(DataError, match=r"Labels must be numbers, but 'label' in train has 'x'"):
        read({"label": ["1", "x"] * 150}, task="regression")
    with pytest.raises(DataError, match="A column of several labels holds 0 and 1, but 'b' has 2"):
        read({"a": [0, 1] * 150, "b": [2, 1] * 150, "c": X["a"]}, label_column=["a", "b"], task="multi_label")


def masks(folder: Path, mode: str = "L") -> datasets.Dataset:
    folder.mkdir()
    pictures, marks = [], []
    for i in range(4):
        pixels = RNG.integers(0, 255, (6, 8), dtype=np.uint8)
        mark = (pixels > 128).astype(np.uint8)
        mark[0, 0] = 255
        for name, values, into in (("image", pixels, pictures), ("mask", mark, marks)):
            image = Image.fromarray(values)
            into.append(str(folder / f"{name}{i}.png"))
            (image.convert(mode) if name == "mask" else image).save(into[-1])
    rows = datasets.Dataset.from_dict({"image": pictures, "mask": marks})
    return rows.cast_column("image", datasets.Image()).cast_column("mask", datasets.Image())


def test_images_of_classes_are_masks(tmp_path: Path) -> None:
    found = table(masks(tmp_path / "set"), label_column="mask")["train"]
    assert found.task == Task("segmentation")
    batch = found.__getitems__([2])
    expected = np.where(np.asarray(Image.open(tmp_path / "set" / "image2.png")) > 128, 1, 0)
    expected[0, 0] = -100
    assert np.array_equal(batch["labels"][0], expected)
    assert found.num_classes == 2
    smaller = table(masks(tmp_path / "again"), label_column="mask", image_size=(3, 4))["train"].__getitems__([0])
    assert (smaller["labels"].shape, smaller["pixel_values"].shape) == ((1, 3, 4), (1, 1, 3, 4))
    with pytest.raises(DataError, match=r"one number per pixel.*row 0 of train has the mode RGB"):
        table(masks(tmp_path / "colour", "RGB"), label_column="mask")
