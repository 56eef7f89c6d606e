"""Files that are written whole: what is left where writing succeeds, fails half-way, or fails at the last step."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import xxhash

from limbeck.errors import ConfigError
from limbeck.files import (
    digest,
    digests,
    final_name,
    in_use,
    publish,
    require_writable,
    whole_file,
    whole_folder,
    why_unwritable,
    write_whole,
)


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


def test_digests_are_those_of_xxhash(tmp_path: Path) -> None:
    contents = {"empty": b"", "small": b"abc", "large": os.urandom(2**22 + 17)}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    expected = {name: xxhash.xxh3_128_hexdigest(content) for name, content in contents.items()}
    assert digests(tmp_path, contents) == expected
    assert digest(tmp_path / "large") == expected["large"]


# Why a file cannot be written


@pytest.mark.parametrize(
    ("number", "name", "expected"),
    [
        (errno.ENOSPC, "new/page.html", "the disk is full ("),
        (errno.EROFS, "page.html", "its disk can only be read (it is mounted read-only)"),
        (errno.EACCES, "new/page.html", "this user may not write to {}"),
        (errno.ENOTDIR, "file/page.html", "{}/file is a file, where a folder is needed"),
        (errno.EEXIST, "file", "{}/file is a file, where a folder is needed"),
        (errno.EISDIR, "folder", "{}/folder is a folder, where a file is needed"),
        (errno.EIO, "page.html", os.strerror(errno.EIO)),
    ],
)
def test_the_reason_is_in_words(tmp_path: Path, number: int, name: str, expected: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    reason = why_unwritable(tmp_path / name, OSError(number, os.strerror(number)))
    assert reason.startswith(expected.format(tmp_path))


def test_whether_a_folder_can_be_written_to_is_found_without_leaving_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_writable(tmp_path / "new" / "run")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"run cannot be .*file is a file, where a folder is needed.*\(--output\)"):
        require_writable(tmp_path / "file" / "run", "--output")

    def refuses(**_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("tempfile.TemporaryFile", refuses)
    with pytest.raises(ConfigError, match=r"run cannot be a folder to write to: its disk can only be read"):
        require_writable(tmp_path / "new" / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


# A folder that one process writes to

HOLD = """
import os, sys, time
from limbeck.files import in_use
with in_use(sys.argv[1]):
    if "fork" in sys.argv:
        told, tells = os.pipe()
        if os.fork() == 0:
            os.close(1)
            os.write(tells, b".")  # a new child closes its copy of the lock before this
            time.sleep(60)
            os._exit(0)
        os.read(told, 1)
    print("held", flush=True)
    time.sleep(60)
"""


def refused(folder: Path) -> bool:
    try:
        with in_use(folder):
            return False
    except ConfigError as error:
        return f"{folder} is in use by another process" in str(error)


def test_a_folder_is_held_while_the_block_runs_and_nothing_is_left(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "run"
    with in_use(folder):
        assert refused(folder)
        assert not refused(tmp_path / "other")
        assert refused(folder)  # a refusal lets nothing go
    with pytest.raises(OSError, match="mine"), in_use(folder):
        raise BlockingIOError("mine")
    assert not refused(folder)
    assert list(folder.iterdir()) == []
    with pytest.raises(OSError, match="mine"), in_use(tmp_path / "never"):
        raise OSError("mine")
    assert not (tmp_path / "never").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="file cannot be a folder to write to"), in_use(tmp_path / "file"):
        pass


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.parametrize("how", [[], ["fork"]])
def test_a_process_that_is_killed_holds_nothing(tmp_path: Path, how: list[str]) -> None:
    """Not even where a process that it forked lives on, as workers that load data do for a while."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path), *how], stdout=subprocess.PIPE, start_new_session=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        assert refused(tmp_path)
        process.kill()
        process.wait()
        assert not refused(tmp_path)
    finally:
        os.killpg(process.pid, signal.SIGKILL) if how else process.kill()
        process.wait()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes of POSIX")
def test_a_pipe_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    write_whole(path, "page")
    assert os.read(reader, 100) == b"page"
    os.close(reader)
    assert path.is_fifo()
    assert [file.name for file in tmp_path.iterdir()] == ["pipe"]
