"""Oracle: the arrays that were written in the format, and the published counts of MNIST."""

import gzip
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from limbeck.errors import DataError
from limbeck.transfer import idx

RNG = np.random.default_rng(0)
TRAIN = RNG.integers(0, 256, (7, 5, 4), dtype=np.uint8), np.array([0, 1, 2, 3, 4, 5, 9], dtype=np.uint8)
TEST = RNG.integers(0, 256, (3, 5, 4), dtype=np.uint8), np.array([0, 3, 1], dtype=np.uint8)


def packed(array: np.ndarray) -> bytes:
    return struct.pack(f">{1 + array.ndim}I", 0x0800 + array.ndim, *array.shape) + array.tobytes()


def write(folder: Path, split: str, arrays: tuple[np.ndarray, np.ndarray], dash: str = "-", gz: bool = False) -> None:
    for kind, array in zip(("images", "labels"), arrays, strict=True):
        name = f"{split}-{kind}{dash}idx{array.ndim}-ubyte" + (".gz" if gz else "")
        (folder / name).write_bytes(gzip.compress(packed(array)) if gz else packed(array))


@pytest.mark.parametrize(("dash", "gz"), [("-", False), ("-", True), (".", True)])
def test_a_folder_gives_back_its_arrays(tmp_path: Path, dash: str, gz: bool) -> None:
    write(tmp_path, "train", TRAIN, dash, gz)
    write(tmp_path, "t10k", TEST, dash, gz)
    sets = idx(tmp_path)
    assert list(sets) == ["train", "test"]
    for name, (images, labels) in (("train", TRAIN), ("test", TEST)):
        batch = sets[name].__getitems__(list(range(len(labels))))
        assert np.array_equal(batch["inputs"].numpy(), images.astype(np.float32) / 255)
        assert np.array_equal(batch["labels"].numpy(), labels)
        assert batch["row_id"].tolist() == (list(range(7)) if name == "train" else [7, 8, 9])  # none in both
        assert sets[name].num_classes == 10  # also of the test set, whose highest label is 3


def test_names_as_emnists(tmp_path: Path) -> None:
    write(tmp_path, "emnist-letters-train", TRAIN)
    write(tmp_path, "emnist-letters-test", TEST)
    assert {name: len(found) for name, found in idx(tmp_path).items()} == {"train": 7, "test": 3}
    write(tmp_path, "emnist-digits-test", TEST)
    with pytest.raises(DataError, match=r"several files of test images, emnist-digits-test-.*keep one"):
        idx(tmp_path)


def test_one_of_the_two_sets_is_enough(tmp_path: Path) -> None:
    write(tmp_path, "t10k", TEST)
    write(tmp_path, "t10k", TEST, gz=True)  # the same, packed
    assert {name: len(found) for name, found in idx(str(tmp_path)).items()} == {"test": 3}


def test_mnist_itself(data: Callable[[str], Path]) -> None:
    sets = idx(data("mnist"))
    assert len(sets["train"]) == 60_000
    assert sets["train"].labels is not None
    assert sets["test"].labels is not None
    assert sets["train"].labels.bincount().tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert sets["test"].labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    batch = sets["train"].__getitems__(
        torch.randperm(60_000, generator=torch.Generator().manual_seed(0))[:10_000].tolist()
    )
    assert batch["inputs"].shape == (10_000, 28, 28)
    assert batch["inputs"].dtype == torch.float32
    assert float(batch["inputs"].mean()) == pytest.approx(0.1307, abs=0.002)  # the mean that everyone normalises by


def test_no_such_folder_or_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte.*there is no such folder"):
        idx(tmp_path / "nowhere")
    with pytest.raises(DataError, match="the folder has nothing in it"):
        idx(tmp_path)
    (tmp_path / "cats.zip").touch()
    with pytest.raises(DataError, match=r"the folder has \['cats.zip'\]"):
        idx(tmp_path)
    write(tmp_path, "train", TRAIN)
    (tmp_path / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match="train-images-idx3-ubyte, but not the labels"):
        idx(tmp_path)


@pytest.mark.parametrize("gz", [False, True])
def test_a_file_that_is_cut_off(tmp_path: Path, gz: bool) -> None:
    write(tmp_path, "train", TRAIN, gz=gz)
    file = tmp_path / ("train-images-idx3-ubyte" + (".gz" if gz else ""))
    whole = file.read_bytes()
    file.write_bytes(whole[:100])
    with pytest.raises(DataError, match=rf"{file.name} is cut off: .*\[7, 5, 4\].* 156 bytes.*but has (100|\d\d);"):
        idx(tmp_path)
    file.write_bytes(whole[:10] if not gz else whole[:14])
    with pytest.raises(DataError, match=r"cut off: a header of 16 bytes was expected, but it has \d+ bytes"):
        idx(tmp_path)
    if gz:
        file.write_bytes(whole[:-3])
        with pytest.raises(DataError, match="cut off within the checksum"):
            idx(tmp_path)


def test_a_file_that_is_too_long(tmp_path: Path) -> None:
    write(tmp_path, "train", TRAIN)
    file = tmp_path / "train-labels-idx1-ubyte"
    file.write_bytes(file.read_bytes() + b"\0")
    with pytest.raises(DataError, match=r"too long: with its shape \[7\] it should have 15 bytes, but has more"):
        idx(tmp_path)


def test_corrupt_gzip(tmp_path: Path) -> None:
    write(tmp_path, "train", TRAIN, gz=True)
    file = tmp_path / "train-images-idx3-ubyte.gz"
    raw = bytearray(file.read_bytes())
    raw[-6] ^= 0xFF  # in the checksum
    file.write_bytes(raw)
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte.gz is a corrupt gzip file"):
        idx(tmp_path)


def test_wrong_format(tmp_path: Path) -> None:
    write(tmp_path, "train", TRAIN)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(packed(TRAIN[0].reshape(7, 20)))
    with pytest.raises(DataError, match="magic number 2051, but starts with 2050"):
        idx(tmp_path)


def test_images_and_labels_that_do_not_fit(tmp_path: Path) -> None:
    write(tmp_path, "train", (TRAIN[0], TEST[1]))
    with pytest.raises(DataError, match=r"images-idx3-ubyte has 7 and .*labels-idx1-ubyte 3"):
        idx(tmp_path)
    write(tmp_path, "train", (TRAIN[0][:0], TRAIN[1][:0]))
    with pytest.raises(DataError, match=r"holds no images: its shape is \[0, 5, 4\]"):
        idx(tmp_path)


@pytest.mark.parametrize("claimed", [[7, 5, 4], [7], [60_000, 28, 28]])
def test_a_gzip_file_that_unpacks_to_far_more_than_its_header_says(tmp_path: Path, claimed: list[int]) -> None:
    write(tmp_path, "train", TRAIN, gz=True)
    (tmp_path / "train-images-idx3-ubyte.gz").unlink()
    start = struct.pack(f">{1 + len(claimed)}I", 0x0800 + len(claimed), *claimed)
    bomb = gzip.compress(start + bytes(2**28))
    assert len(bomb) < 2**20
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(bomb)
    tracemalloc.start()
    with pytest.raises(DataError, match=r"is too long|not an IDX file of images"):
        idx(tmp_path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**27 + 60_000 * 28 * 28


@pytest.mark.parametrize("gz", [False, True])
def test_a_header_that_promises_more_than_any_such_file_holds(tmp_path: Path, gz: bool) -> None:
    write(tmp_path, "train", TRAIN, gz=gz)
    content = struct.pack(">4I", 0x0803, 2**31, 2**15, 2**15) + bytes(1000)
    file = tmp_path / ("train-images-idx3-ubyte" + (".gz" if gz else ""))
    file.write_bytes(gzip.compress(content) if gz else content)
    with pytest.raises(DataError, match=r"cut off: with its shape \[2147483648, 32768, 32768\]"):
        idx(tmp_path)
