"""Oracle: the lines that were written to disk on the spot."""

import csv
import gzip
import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest

from limbeck.errors import DataError
from limbeck.transfer import table
from limbeck.transfer.splits import load_splits

WORDS = ["NA", "None", "null", "nan", "N/A", "NULL", "n/a", "NaN", "#N/A", "<NA>"]


def write(folder: Path, lines: str, name: str = "train.csv") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(lines, newline="")
    return folder / name


def labels_of(sets: dict[str, Any]) -> tuple[Any, list[int]]:
    return sets["train"].label_names, sets["train"].labels.tolist()


@pytest.mark.parametrize("as_folder", [False, True])
@pytest.mark.parametrize(("name", "sign"), [("train.csv", ","), ("train.tsv", "\t")])
def test_words_for_nothing_are_classes(tmp_path: Path, name: str, sign: str, as_folder: bool) -> None:
    lines = "".join(f"{i}{sign}{word}\n" for i, word in enumerate([*WORDS, "cat", ""]))
    file = write(tmp_path / "data", f"x{sign}label\n{lines}", name)
    names, labels = labels_of(table(file.parent if as_folder else file, feature_columns=["x"]))
    assert names == tuple(sorted([*WORDS, "cat"]))
    assert [None if label == -100 else names[label] for label in labels] == [*WORDS, "cat", None]


def test_words_for_nothing_are_texts_and_completions(tmp_path: Path) -> None:
    for columns in (("text", "label"), ("prompt", "completion")):
        file = write(tmp_path, ",".join(columns) + "\nNA,None\nnull,nan\n,x\n")
        assert load_splits(file)["train"].to_list() == [
            dict(zip(columns, row, strict=True)) for row in (("NA", "None"), ("null", "nan"), (None, "x"))
        ]


def test_a_word_among_numbers_is_neither_a_class_nor_a_feature(tmp_path: Path) -> None:
    file = write(tmp_path, "x,y,label\n1,1,0\n2,NA,1\n3,3,N/A\n")
    with pytest.raises(DataError, match=r"labels in 'label' of train are numbers but for 'N/A'; leave the cell empty"):
        table(file, feature_columns=["x"])
    with pytest.raises(DataError, match=r"must be numbers, but 'y' in train has 'NA' in row 1 \(1 such in all\)"):
        table(write(tmp_path, "x,y,label\n1,1,0\n2,NA,1\n3,3,\n"))
    for text, missing in (("x,y,label\n1,1,0\n2,,1\n3,3,0\n", ()), ("x,y,label\n1,1,0\n2,NA,1\n3,3,0\n", ("NA", "?"))):
        gap = table(write(tmp_path, text), missing=missing)["train"]
        assert gap.__getitems__([0, 2])["inputs"].tolist() == [[1, 1], [3, 3]]
        assert gap.__getitems__([1])["inputs"].isnan().tolist() == [[False, True]]
        assert gap.columns_with_gaps == ("y",)


@pytest.mark.parametrize(
    ("name", "sign"), [("a.csv", ";"), ("a.csv", "\t"), ("a.csv", "|"), ("a.tsv", ","), ("a.tsv", ";"), ("a.csv", ",")]
)
def test_the_delimiter_is_that_of_the_lines(
    tmp_path: Path, name: str, sign: str, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [("text", "label"), ("good, very good", "yes"), ("bad; | bad", "no"), ("nothing", "no")]
    file = tmp_path / name
    with file.open("w", newline="") as opened:
        csv.writer(opened, delimiter=sign).writerows(rows)
    assert load_splits(file)["train"].to_list() == [dict(zip(rows[0], row, strict=True)) for row in rows[1:]]
    usual = name.endswith(".csv") and sign == ","
    named = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}[sign]
    said = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert said == ([] if usual else [f"{name} is read with {named} between its columns."])


def test_decimal_commas(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sets = table(write(tmp_path, "width;petals;label\n1,5;5;rose\n2,25;6;iris\n"))
    assert sets["train"].__getitems__([0, 1])["inputs"].tolist() == [[1.5, 5], [2.25, 6]]
    assert "train.csv is read with semicolons between its columns and decimal commas." in caplog.text
    thousands = write(tmp_path, "width;label\n1,500;rose\n2,250;iris\n")  # one and a half, or fifteen hundred
    with pytest.raises(DataError, match=r"guessed|tokenizer"):
        table(thousands)


def test_names_without_a_header_line_tell_the_delimiter(tmp_path: Path) -> None:
    file = write(tmp_path, "good, very;yes\nbad, very;no\nbad;no\n")
    rows = load_splits(file, ("text", "label"))["train"].to_list()
    assert rows[0] == {"text": "good, very", "label": "yes"}
    assert load_splits(write(tmp_path, "a;b\nc;d\n"), ("text",))["train"]["text"][:] == ["a;b", "c;d"]


def test_one_column_of_text_stays_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = write(tmp_path, "text\ngood; very good\nbad | bad\nfine\n")
    assert load_splits(file)["train"]["text"][:] == ["good; very good", "bad | bad", "fine"]
    assert not caplog.records


def test_files_with_different_delimiters_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "data", "x,label\n1,2\n")
    write(tmp_path / "data", "x;label\n1;2\n", "test.csv")
    for source in (tmp_path / "data", f"{tmp_path}/data/*.csv"):
        with pytest.raises(DataError, match=r"t\w+.csv has \w+ between its columns and t\w+.csv \w+ between"):
            load_splits(source)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,b,label\n1,2,0,7\n1,2,1\n", "Row 0 of .*d.csv has 4 cells, but there are 3 columns in its header; a cell"),
        ("a,b,label\n1,2,0\n1,2,1,7\n", "Row 1 of .* has 4 cells, but there are 3 columns"),
        ("text\nhello, world\nwell, yes\n", "Row 0 of .* has 2 cells, but there are 1 columns"),
        ("a,b,label\n1,2,3,4,0\n1,2,3,4,1\n", "Row 0 of .* has 5 cells, but there are 3 columns"),
    ],
)
def test_rows_with_more_cells_than_the_header_are_refused(tmp_path: Path, text: str, said: str) -> None:
    """pandas would take the first cells as names of rows, and shift the others."""
    with pytest.raises(DataError, match=said):
        load_splits(write(tmp_path, text, "d.csv"))


def test_rows_with_fewer_cells_and_names_of_rows_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = load_splits(write(tmp_path, "a,b,label\n1,2,0\n1,2\n1,2,1\n3\n", "short.csv"))["train"]
    assert list(rows["label"]) == [0, None, 1, None]
    assert "Row 1 of short.csv has 2 of its 3 cells; the others are taken as empty (2 such rows" in caplog.text
    named = load_splits(write(tmp_path, "a,label\nr1,1,0\nr2,2,1\n", "named.csv"))["train"]
    assert (list(named["a"]), list(named["label"])) == ([1, 2], [0, 1])
    assert "named.csv has one cell more than its header: the first is read as the row's name" in caplog.text


def test_the_delimiter_of_a_packed_file_of_a_folder_is_found(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.csv.gz").write_bytes(gzip.compress(b"x;label\n1;a\n2;b\n"))
    assert load_splits(tmp_path / "data")["train"].to_list() == [{"x": 1, "label": "a"}, {"x": 2, "label": "b"}]


def test_the_folder_that_one_is_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "data", "x,label\n1,a\n", "train.csv")
    (tmp_path / "data" / "inner").mkdir()
    for folder, source in ((tmp_path / "data", "."), (tmp_path / "data" / "inner", "..")):
        monkeypatch.chdir(folder)
        assert load_splits(source)["train"].to_list() == [{"x": 1, "label": "a"}]


@pytest.mark.parametrize("suffix", [".CSV", ".Tsv", ".JSONL"])
def test_suffixes_in_any_case(tmp_path: Path, suffix: str) -> None:
    lines = {".CSV": "x,label\n1,a\n", ".Tsv": "x\tlabel\n1\ta\n", ".JSONL": '{"x": 1, "label": "a"}\n'}[suffix]
    assert load_splits(write(tmp_path, lines, f"d{suffix}"))["train"].to_list() == [{"x": 1, "label": "a"}]


@pytest.mark.parametrize("lines", ["null\n" * 5, '{"x": 1}\nnull\n', '{"x": 1}\n{"x": 2}\n  null  \r\n{"x": 3}\n'])
def test_null_lines_are_refused_before_they_are_read(tmp_path: Path, lines: str) -> None:
    file = write(tmp_path / "data", lines, "train.jsonl")
    line = 1 + [json.loads(line) for line in lines.splitlines()].index(None)
    for source in (file, file.parent):
        with pytest.raises(DataError, match=rf"train.jsonl must be an object, but line {line} is null; remove it"):
            load_splits(source)


def test_null_within_json_is_a_value(tmp_path: Path) -> None:
    written = [{"x": [None, 1.0], "label": "a"}]
    file = write(tmp_path, json.dumps(written, indent=1), "train.json")
    assert "\n   null" in file.read_text()
    assert load_splits(file)["train"].to_list() == written


def test_an_empty_file(tmp_path: Path) -> None:
    for name in ("train.csv", "train.jsonl", "train.json"):
        with pytest.raises(DataError, match=f"{name} cannot be read"):
            load_splits(write(tmp_path, "", name))


def test_a_pipe_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "d.csv")
    with pytest.raises(DataError, match=r"d\.csv is neither a file nor a folder"):
        load_splits(tmp_path / "d.csv")


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_a_file_that_is_not_utf_8_says_so(tmp_path: Path, encoding: str) -> None:
    file = tmp_path / "train.csv"
    file.write_bytes("x,label\n1,caf\u00e9\n2,th\u00e9\n".encode(encoding))
    with pytest.raises(DataError, match=r"cannot be read: .*codec can't decode(.|\n)*Save the file as UTF-8"):
        table(file)
