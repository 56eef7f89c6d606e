"""Files that end the process or fill its memory inside the libraries that read them: refused before.

Oracles: the line or element that is null here; the size that a file unpacks to.
"""

import bz2
import gzip
import json
import lzma
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from limbeck.errors import DataError
from limbeck.transfer import raw
from limbeck.transfer.raw import refuse_bombs, refuse_null_records
from limbeck.transfer.splits import load_splits

BOM = "\ufeff"
PACKERS: dict[str, Callable[[bytes], bytes]] = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}


@pytest.fixture(params=["", *PACKERS])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], Path]:
    """Writes a text, as it is or packed. The kind is told by the content, and not by the name."""

    def write(text: str) -> Path:
        content = text.encode()
        (tmp_path / "d.jsonl").write_bytes(PACKERS[request.param](content) if request.param else content)
        return tmp_path / "d.jsonl"

    return write


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("null", 1),
        ("null\n" * 5, 1),
        (BOM + "null\n" * 5, 1),
        ("\r\nnull\r\n", 2),
        ("\n\n  null\n", 3),
        (" \t null {}\n", 1),
        ("null{}\n", 1),
        ("null,\n", 1),
        ('{"x": 1}\nnull{}\n', 2),
        ('{"x": 1}\n \tnull \t\n', 2),
        (BOM + '{"x": 1}\n\nnull\n', 3),
        ('{"x": 1}\n' * 600_000 + "null\n", 600_001),
    ],
    ids=range(12),
)
def test_a_record_that_is_null_is_named_by_its_line(file: Callable[[str], Path], text: str, line: int) -> None:
    with pytest.raises(DataError, match=rf"d\.jsonl must be an object, but line {line} is null; remove it"):
        refuse_null_records([file(text)])


@pytest.mark.parametrize(
    ("text", "place"),
    [('[null, {"x": 1}]', 0), ('[{"x": 1}, null]', 1), (' [\n{"x": 1},\n{"x": 2},\n  null\n]', 2)],
)
def test_an_element_that_is_null_is_named_by_its_place(file: Callable[[str], Path], text: str, place: int) -> None:
    with pytest.raises(DataError, match=rf"d\.jsonl must be an object, but element {place} is null; remove it"):
        refuse_null_records([file(text)])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        '{"x": null}\n{"x": 1}\n',
        '{"x": [\nnull,\n1]}\n',
        json.dumps([{"x": [None, 1]}], indent=0),
        '{"x": "null"}\n',
        '{"nullable": 1}\n',
        "[",
        "[null",
        "nul\n",
    ],
)
def test_null_within_records_is_a_value_and_the_rest_is_left_to_the_reader(
    file: Callable[[str], Path], text: str
) -> None:
    refuse_null_records([file(text)])


@pytest.mark.parametrize("name", ["train.jsonl.gz", "train.ndjson", "train.jsonl", "deep/train.jsonl.gz"])
def test_files_of_a_folder_are_looked_at_as_datasets_finds_them(name: str, tmp_path: Path) -> None:
    path = tmp_path / "data" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(gzip.compress(b"null\n") if name.endswith("gz") else b"null\n")
    with pytest.raises(DataError, match=r"must be an object, but line 1 is null"):
        load_splits(tmp_path / "data")


@pytest.mark.parametrize("packer", PACKERS)
def test_a_file_that_unpacks_to_far_more_is_refused(
    packer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(raw, "ENOUGH", 2**20)
    bomb, right, small = (tmp_path / name for name in ("train.csv", "right.csv", "small.csv"))
    bomb.write_bytes(PACKERS[packer](b"a,label\n" + b"0.5,1\n" * 2_000_000))
    right.write_bytes(PACKERS[packer](b"".join(b"%d,%d\n" % (i * i * 7919 % 99991, i % 2) for i in range(200_000))))
    small.write_bytes(PACKERS[packer](b"0" * 2**20))
    with pytest.raises(
        DataError, match=r"train\.csv has [\d,]+ bytes and unpacks to more than [\d,]+; if that is right"
    ):
        refuse_bombs([right, small, bomb])
    with pytest.raises(DataError, match=r"unpacks to more than"):
        load_splits(bomb)
    bomb.rename(tmp_path / f"train.csv.{packer}")
    right.unlink()
    small.unlink()
    with pytest.raises(DataError, match=r"unpacks to more than"):
        load_splits(tmp_path)


def test_archives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raw, "ENOUGH", 2**20)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("train.csv", "0" * 2**24)
    with pytest.raises(DataError, match=r"a\.zip has [\d,]+ bytes and unpacks to more than"):
        refuse_bombs([tmp_path / "a.zip"])
    with pytest.raises(DataError, match=r"a\.zip is a ZIP archive; unpack it first"):
        refuse_null_records([tmp_path / "a.zip"])
    (tmp_path / "a.zip").write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(DataError, match=r"a\.zip cannot be unpacked"):
        refuse_bombs([tmp_path / "a.zip"])


@pytest.mark.parametrize(("magic", "kind"), [(b"\x28\xb5\x2f\xfd", "zstandard"), (b"\x04\x22\x4d\x18", "lz4")])
def test_other_packed_files_are_refused(magic: bytes, kind: str, tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").write_bytes(magic + bytes(50))
    with pytest.raises(DataError, match=rf"d\.jsonl is packed as {kind}; unpack it first"):
        load_splits(tmp_path / "d.jsonl")


@pytest.mark.parametrize("packer", PACKERS)
def test_packed_files_that_are_damaged(packer: str, tmp_path: Path) -> None:
    content = PACKERS[packer](b'{"x": 1}\n' * 1000)
    for damaged in (content[:-4], content[: len(content) // 2], content[:20] + bytes(20) + content[40:]):
        (tmp_path / "d.jsonl").write_bytes(damaged)
        with pytest.raises(DataError, match=r"d\.jsonl cannot be unpacked"):
            load_splits(tmp_path / "d.jsonl")
