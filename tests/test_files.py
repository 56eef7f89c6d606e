"""Files that are written whole: what is left where writing succeeds, fails half-way, or fails at the last step."""

import os
from pathlib import Path

import pytest

from limbeck.files import final_name, publish, whole_file, whole_folder, write_whole


def test_a_file_is_made_with_its_folder_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "run" / "page.html"
    for text in ("ä\n", ""):
        write_whole(path, text)
        assert path.read_bytes() == text.encode("utf-8")
    assert [file.name for file in path.parent.iterdir()] == ["page.html"]


@pytest.mark.parametrize("temporary", [None, "elsewhere.partial"])
def test_half_a_file_is_never_met(tmp_path: Path, temporary: str | None) -> None:
    path = tmp_path / "log.jsonl"
    write_whole(path, "before")
    beside = None if temporary is None else tmp_path / temporary

    def interrupted() -> None:
        with whole_file(path, beside) as file:
            file.write(b"after, half")
            file.flush()
            assert path.read_text() == "before"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "before"
    assert [file.name for file in tmp_path.iterdir()] == ["log.jsonl"]


def test_what_is_published_was_brought_to_the_disk_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr("os.fsync", lambda handle: (calls.append("fsync"), sync(handle)))
    monkeypatch.setattr("os.replace", lambda *names: (calls.append("replace"), replace(*names)))
    (tmp_path / "new").write_text("after")
    publish(tmp_path / "new", tmp_path / "file")
    assert calls == ["fsync", "replace", *(["fsync"] if os.name == "posix" else [])]
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("file", "after")]


def test_a_folder_stays_until_the_new_one_is_finished(tmp_path: Path) -> None:
    path = tmp_path / "student"
    with whole_folder(path) as new:
        (new / "older").write_text("")
    with pytest.raises(OSError, match="disk"), whole_folder(path) as new:
        raise OSError("disk full")
    assert [file.name for file in path.iterdir()] == ["older"]
    with whole_folder(path) as new:
        (new / "newer").write_text("")
    assert [file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("*")] == ["student", "student/newer"]


def test_the_name_that_an_unfinished_file_would_have_got() -> None:
    names = ("student.partial", "results.json.4711.partial", "results.json", "a.partial.json", "v1.5")
    assert [final_name(name) for name in names] == ["student", "results.json", "results.json", "a.partial.json", "v1.5"]
