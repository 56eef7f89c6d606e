"""Oracle: the records and images that were written to disk on the spot."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from limbeck.errors import DataError
from limbeck.transfer import TransferSet, collate, table

FLOWERS = pd.DataFrame(
    {"width": [1.5, 2.5, 3.5, 4.5], "petals": [5, 6, 7, 8], "label": ["rose", "iris", "rose", "lily"]}
)
REVIEWS = pd.DataFrame({"sentence": ["a good movie", "very bad", "good good good"], "label": [1, 0, 1]})


def everything(examples: TransferSet) -> dict[str, torch.Tensor]:
    return examples.__getitems__(list(range(len(examples))))


def write(frame: pd.DataFrame, file: Path) -> str:
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".parquet":
        frame.to_parquet(file)
    elif file.suffix == ".json":
        frame.to_json(file, orient="records")
    elif file.suffix == ".jsonl":
        frame.to_json(file, orient="records", lines=True)
    else:
        frame.to_csv(file, index=False, sep="\t" if file.suffix == ".tsv" else ",")
    return str(file)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".json", ".jsonl", ".parquet"])
def test_files_of_numbers(tmp_path: Path, suffix: str) -> None:
    sets = table(write(FLOWERS, tmp_path / f"flowers{suffix}"))
    assert list(sets) == ["train"]
    batch = everything(sets["train"])
    assert batch["inputs"].dtype == torch.float32
    assert batch["inputs"].tolist() == [[1.5, 5], [2.5, 6], [3.5, 7], [4.5, 8]]
    assert batch["labels"].tolist() == [2, 0, 2, 1]
    assert sets["train"].label_names == ("iris", "lily", "rose")
    assert sets["train"].num_classes == 3


def test_feature_columns_are_taken_in_their_order(tmp_path: Path) -> None:
    file = write(FLOWERS.rename(columns={"label": "species"}), tmp_path / "flowers.csv")
    sets = table(file, feature_columns=["petals", "width"], label_column="species")
    assert everything(sets["train"])["inputs"][1].tolist() == [6, 2.5]
    bare = table(file, feature_columns=["petals"], label_column="")["train"]
    assert bare.labels is None
    assert everything(bare)["inputs"].tolist() == [[5], [6], [7], [8]]


@pytest.mark.parametrize("pattern", ["", "/*.csv"])
def test_the_splits_of_a_folder_share_their_classes(tmp_path: Path, pattern: str) -> None:
    folder = tmp_path / "flowers"
    write(FLOWERS, folder / "train.csv")
    write(FLOWERS[FLOWERS.label != "iris"], folder / "dev.csv")
    write(FLOWERS[:1], folder / "test-1.csv")
    sets = table(f"{folder}{pattern}")
    assert {name: len(found) for name, found in sets.items()} == {"train": 4, "validation": 3, "test": 1}
    assert everything(sets["validation"])["labels"].tolist() == [2, 2, 1]
    assert sets["validation"].label_names == ("iris", "lily", "rose")
    only = table(f"{folder}{pattern}", split="validation")
    assert list(only) == ["validation"]
    assert everything(only["validation"])["labels"].tolist() == [2, 2, 1]


def test_a_frame_and_frames_by_split() -> None:
    frame = FLOWERS.set_index(pd.Index([7, 7, 3, 1]))  # what stands beside the rows is no column of theirs
    alone = table(frame)
    assert list(alone) == ["train"]
    batch = everything(alone["train"])
    assert batch["inputs"].tolist() == [[1.5, 5], [2.5, 6], [3.5, 7], [4.5, 8]]
    assert batch["labels"].tolist() == [2, 0, 2, 1]
    assert alone["train"].label_names == ("iris", "lily", "rose")
    split = table({"train": frame, "test": FLOWERS[1:2]})
    assert {name: len(found) for name, found in split.items()} == {"train": 4, "test": 1}
    assert everything(split["test"])["inputs"].tolist() == [[2.5, 6]]
    assert everything(split["test"])["labels"].tolist() == [0]
    mixed = table({"train": datasets.Dataset.from_pandas(FLOWERS), "test": FLOWERS})
    assert torch.equal(everything(mixed["train"])["inputs"], everything(mixed["test"])["inputs"])


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (FLOWERS["label"], r"from a path, .*, but got Series \(its to_frame\(\) is a DataFrame\)"),
        ([{"width": 1.5}], "from a path, .*, but got list"),
        ({}, "The data has no split"),
        ({"train": FLOWERS, "test": [1]}, "The split test must be a pandas DataFrame or a Dataset, but got list"),
        (FLOWERS.set_axis(["a", "a", "label"], axis=1), "The split train has several columns named a; rename them"),
        (FLOWERS.assign(width=[1, "two", 3, 4]), "The split train cannot be read: .*two.*column width.*one type"),
    ],
)
def test_what_is_no_table_is_named(source: Any, expected: str) -> None:
    with pytest.raises(DataError, match=expected):
        table(source)


def test_no_two_examples_of_any_splits_share_a_row_id() -> None:
    rows = datasets.Dataset.from_pandas(FLOWERS)
    splits = datasets.DatasetDict({"test": rows.select([0, 1]), "train": rows})
    assert {name: examples.row_ids.tolist() for name, examples in table(splits).items()} == {
        "test": [4, 5],
        "train": [0, 1, 2, 3],
    }
    assert table(splits, split="test")["test"].row_ids.tolist() == [4, 5]


def test_a_loaded_dataset_with_some_of_its_rows() -> None:
    data = datasets.Dataset.from_pandas(FLOWERS, preserve_index=False)
    splits = datasets.DatasetDict(train=data, test=data.select([3, 1]).remove_columns("label"))
    sets = table(splits)
    assert everything(sets["test"])["inputs"].tolist() == [[4.5, 8], [2.5, 6]]
    assert sets["test"].labels is None
    assert sets["test"].num_classes == 3
    assert everything(table(data.select([2, 0]))["train"])["inputs"].tolist() == [[3.5, 7], [1.5, 5]]


def test_a_name_is_looked_for_on_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Builder:
        config = datasets.BuilderConfig()

        def download_and_prepare(self) -> None: ...

        def as_dataset(self) -> datasets.DatasetDict:
            return datasets.DatasetDict(train=datasets.Dataset.from_pandas(FLOWERS, preserve_index=False))

    def load_dataset_builder(*arguments: Any) -> Builder:
        asked.append(arguments)
        if arguments[0] == "nobody/nothing":
            raise datasets.exceptions.DatasetNotFoundError("it does not exist")
        return Builder()

    monkeypatch.setattr(datasets, "load_dataset_builder", load_dataset_builder)
    assert len(table("somebody/flowers")["train"]) == 4
    assert len(table("somebody/flowers:2020")["train"]) == 4
    assert asked == [("somebody/flowers", None), ("somebody/flowers", "2020")]
    with pytest.raises(
        DataError, match=r"nobody/nothing is neither a local file or folder nor a data set on the hub: it does"
    ):
        table("nobody/nothing")


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet", ".jsonl"])
def test_files_of_text(tmp_path: Path, tokenizer: Any, suffix: str) -> None:
    examples = table(write(REVIEWS, tmp_path / f"train{suffix}"), tokenizer=tokenizer)["train"]
    batch = examples.__getitems__([1, 0])
    assert batch["input_ids"].tolist() == [[2, 8, 6, 3, 0], [2, 4, 5, 7, 3]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]
    assert batch["labels"].tolist() == [0, 1]
    assert examples.__getitems__([1])["input_ids"].shape == (1, 4)  # padded to its own batch only
    assert {values.dtype for values in batch.values()} == {torch.int64}


def test_files_without_a_header_line(tmp_path: Path, tokenizer: Any) -> None:
    folder = tmp_path / "reviews"
    folder.mkdir()
    file = folder / "train.tsv"
    file.write_text('a "good movie\t1\nvery bad\t0\n')  # a lone quote is a character
    examples = table(file, column_names=("text", "label"), tokenizer=tokenizer)["train"]
    assert len(examples) == 2
    assert everything(examples)["labels"].tolist() == [1, 0]
    with pytest.raises(DataError, match=r"No label column.*without a header line needs column_names="):
        table(file, tokenizer=tokenizer)
    (folder / "dev.tsv").write_text("bad\t0\n")
    both = table(folder, column_names=("text", "label"), tokenizer=tokenizer)
    assert {name: len(found) for name, found in both.items()} == {"train": 2, "validation": 1}
    with pytest.raises(DataError, match=r"cannot be read: (.|\n)*without a header line needs column_names="):
        table(folder, tokenizer=tokenizer)


def test_sst2(data: Callable[[str], Path], tokenizer: Any) -> None:
    sets = table(data("sst2"), column_names=("text", "label"), tokenizer=tokenizer)
    assert {name: len(found) for name, found in sets.items()} == {"train": 6920, "validation": 872}
    assert sets["validation"].labels is not None
    assert sets["validation"].labels.bincount().tolist() == [428, 444]


def draw(file: Path, mode: str = "RGB", size: tuple[int, int] = (4, 3), seed: int = 0) -> np.ndarray:
    shape = (*size[::-1], 3) if mode == "RGB" else size[::-1]
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)
    return pixels


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_folder_of_images(tmp_path: Path, mode: str) -> None:
    folder = tmp_path / "animals"
    pixels = {
        (split, kind, i): draw(folder / split / kind / f"{i}.png", mode, seed=i + 10 * (kind == "cat"))
        for split, n in (("train", 3), ("test", 1))
        for kind in ("cat", "dog")
        for i in range(n)
    }
    sets = table(folder)
    assert {name: len(found) for name, found in sets.items()} == {"train": 6, "test": 2}
    assert sets["train"].label_names == ("cat", "dog")
    batch = sets["train"].__getitems__([4, 0])
    assert batch["labels"].tolist() == [1, 0]
    expected = np.stack([pixels["train", "dog", 1], pixels["train", "cat", 0]]) / 255
    expected = expected[:, None] if mode == "L" else expected.transpose(0, 3, 1, 2)
    assert batch["pixel_values"].shape == (2, 1 if mode == "L" else 3, 3, 4)
    np.testing.assert_allclose(batch["pixel_values"].numpy(), expected, atol=1e-7)


def test_workers_decode_the_same_images(tmp_path: Path) -> None:
    for i in range(6):
        draw(tmp_path / "images" / f"{i}.png", seed=i)
    examples = table(tmp_path / "images")["train"]
    loader = DataLoader(examples, batch_size=4, collate_fn=collate, num_workers=2)
    gathered = torch.cat([batch["pixel_values"] for batch in loader])
    assert torch.equal(gathered, everything(examples)["pixel_values"])


def test_images_of_several_sizes_and_modes(tmp_path: Path) -> None:
    gray = draw(tmp_path / "images" / "train" / "0.png", "L", (4, 4))
    draw(tmp_path / "images" / "train" / "1.png", "RGB", (6, 2))
    with pytest.raises(DataError, match=r"have 2: 4 x 4 \(1 of them\), 2 x 6 \(1 of them\)...; pass image_size="):
        table(tmp_path / "images")
    examples = table(tmp_path / "images", image_size=(4, 4))["train"]
    batch = everything(examples)
    assert batch["pixel_values"].shape == (2, 3, 4, 4)
    np.testing.assert_allclose(batch["pixel_values"][0].numpy(), np.stack([gray / 255] * 3), atol=1e-7)
    assert examples.labels is None
    assert table(tmp_path / "images", image_size=2)["train"].__getitems__([0])["pixel_values"].shape == (1, 3, 2, 2)


def test_images_that_cannot_be_used(tmp_path: Path) -> None:
    pixels = np.arange(12, dtype=np.uint16).reshape(3, 4) * 5000
    (tmp_path / "deep").mkdir()
    Image.fromarray(pixels).save(tmp_path / "deep" / "0.png")
    with pytest.raises(DataError, match=r"8 bits per channel, but some have the mode \['I;16'\]"):
        table(tmp_path / "deep")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "0.png").write_bytes(b"no image at all")
    with pytest.raises(DataError, match="image of row 0 of train cannot be opened"):
        table(tmp_path / "broken")
    draw(tmp_path / "cut" / "0.png", size=(40, 40))
    whole = (tmp_path / "cut" / "0.png").read_bytes()
    (tmp_path / "cut" / "0.png").write_bytes(whole[:2000])
    examples = table(tmp_path / "cut")["train"]
    with pytest.raises(DataError, match="image of row 0 cannot be decoded"):
        examples.__getitems__([0])


def test_images_lying_on_their_side(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: to be shown turned by 90 degrees clockwise
    Image.fromarray(pixels).save(tmp_path / "photos" / "0.png", exif=exif)
    batch = everything(table(tmp_path / "photos")["train"])
    expected = np.rot90(pixels, k=-1).transpose(2, 0, 1) / 255
    np.testing.assert_allclose(batch["pixel_values"][0].numpy(), expected, atol=1e-7)
    draw(tmp_path / "photos" / "1.png")
    with pytest.raises(DataError, match=r"rows \[0, 1\] have \[\(3, 4\), \(4, 3\)\]; pass image_size="):
        everything(table(tmp_path / "photos")["train"])


def dataset(**columns: Any) -> datasets.Dataset:
    return datasets.Dataset.from_dict(columns)


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (lambda: "./nowhere", {}, "no file or folder ./nowhere"),
        (lambda: "nowhere/*.csv", {}, "no file or folder nowhere"),
        (lambda: dataset(x=[1.0], label=[0]), {"split": "test"}, r"no split 'test'; there are \['train'\]"),
        (lambda: dataset(x=[1.0], label=[0]), {"label_column": "y"}, r"no column 'y'; there are \['x', 'label'\]"),
        (lambda: dataset(x=[1.0], label=[0]), {"feature_columns": ["z"]}, "no column 'z'"),
        (
            lambda: dataset(x=[1.0], s=["a"], label=[0]),
            {"feature_columns": ["x"], "text_column": "s"},
            "Give one of .'text_column', 'image_column', 'feature_columns'",
        ),
        (lambda: dataset(x=[1.0], y=[0]), {}, r"No label column .*\['x', 'y'\]; pass label_column="),
        (lambda: dataset(title=["a"], body=["b"], label=[0]), {}, r"texts \['title', 'body'\].*pass image_column="),
        (lambda: dataset(text=["a"], sentence=["b"], label=[0]), {}, r"texts \['text', 'sentence'\]"),
        (lambda: dataset(text=["a"], id=[7]), {}, "No label column could be guessed"),
        (lambda: dataset(text=["a"], label=[7]), {}, r"tokenizer, the student's \(--tokenizer; in Python"),
        (
            lambda: dataset(x=[[1]], y=[1], label=[0]),
            {"feature_columns": ["x"]},
            "dates or categories, but 'x' in train",
        ),
        (lambda: dataset(x=[1.0, math.inf], label=[0, 1]), {}, "row 1 of train has an infinite 'x'"),
        (
            lambda: dataset(x=[1.0, 2.0], label=[0.5, 1.0]),
            {"task": "classification"},
            "whole numbers or names, but 'label' of train has 0.5",
        ),
        (lambda: dataset(x=[1.0], label=[[0, 1]]), {"task": "classification"}, "lists of labels"),
        (lambda: dataset(x=[1.0], label=[{"a": 1}]), {}, "must be whole numbers or names"),
        (
            lambda: datasets.DatasetDict(train=dataset(x=[1.0], label=[0]), test=dataset(y=[1.0])),
            {},
            "test has no .*'x'",
        ),
        (lambda: dataset(x=[1.0], label=[0]).select([]), {}, "the split train is empty"),
    ],
)
def test_refusals(make: Callable[[], Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        table(make(), **options)


def test_files_of_several_kinds_or_an_unknown_one(tmp_path: Path) -> None:
    write(FLOWERS, tmp_path / "train.csv")
    write(FLOWERS, tmp_path / "test.parquet")
    (tmp_path / "notes.docx").touch()
    for pattern in ("t*", "notes.docx"):
        with pytest.raises(DataError, match=re.escape("Files must be of one kind out of ['.csv', '.json'")):
            table(tmp_path / pattern)


def test_a_broken_file(tmp_path: Path) -> None:
    (tmp_path / "train.json").write_text(json.dumps([{"x": 1}])[:-3])
    with pytest.raises(DataError, match=r"train.json cannot be read"):
        table(tmp_path / "train.json")


@pytest.mark.parametrize("value", [2**53 + 1, 2**63 - 1, -(2**63)])
def test_whole_numbers_of_64_bits_are_features(value: int) -> None:
    rows = datasets.Dataset.from_dict({"a": [value, 0], "label": ["x", "y"]})
    inputs = table(rows, split="train")["train"].__getitems__([0, 1])["inputs"]
    assert inputs.tolist() == [[float(np.float32(value))], [0.0]]


@pytest.mark.parametrize("value", [1e39, -1e300])
def test_numbers_beyond_float32_are_refused(value: float) -> None:
    rows = datasets.Dataset.from_dict({"a": [0.0, value], "label": ["x", "y"]})
    with pytest.raises(DataError, match=r"read as float32, but row 1 of train has .* in 'a'; scale"):
        table(rows)
