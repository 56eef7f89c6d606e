"""Where a file cannot be written: one line that names it, the reason and how to go on; and the run that does go on."""

import errno
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from limbeck.cli import main
from limbeck.commands.full_disk import message_of_unwritable

SHORT = ["--hidden", "400", "--max_steps", "3", "--save_strategy", "steps", "--save_steps", "1", "--data", "data.csv"]

Says = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [f"{i * 7 % 11 / 3},{i * 5 % 13 / 4},{i % 2}" for i in range(40)]
    Path("data.csv").write_text("\n".join(["a,b,label", *lines]) + "\n")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """`small_disk("size=64k")`: a folder on a disk of its own; again, with other options, it is mounted anew."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options: str) -> Path:
        again = "remount," if os.path.ismount(folder) else ""
        words = ["mount", "-t", "tmpfs", "-o", again + options, "tmpfs", str(folder)]
        try:
            done = subprocess.run(words, capture_output=True, text=True, check=False)
        except OSError as error:
            pytest.skip(f"no disk can be mounted here: {error}")
        if done.returncode:
            pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}")
        return folder

    yield mount
    if os.path.ismount(folder):
        subprocess.run(["umount", "--lazy", str(folder)], check=False)  # a file may still be open


def raised(action: Callable[[], Any]) -> Exception:
    try:
        action()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


@pytest.mark.parametrize("size", [8, 24, 56, 100])  # a model, a folder, a scheduler's state, and a second checkpoint
@pytest.mark.filterwarnings("ignore")
def test_a_run_goes_on_once_its_disk_has_room(
    size: int, small_disk: Callable[[str], Path], limbeck_says: Says, tmp_path: Path
) -> None:
    run = ["distill", *SHORT, "--output_dir", str(small_disk(f"size={size}k") / "run")]
    code = main(run)
    assert code == 1
    small_disk("size=8m")
    code, out, err = limbeck_says(*run, "--resume")
    message = err.partition(" limbeck distill: ")[2] or err
    assert "could not be written: the disk is full (" in message
    assert "Make room, and the same command with --resume continues; or set --output_dir to another place." in message
    assert re.search(rf"limbeck distill: {tmp_path}/disk/run/\S+ could not be written", err)
    assert code == 0
    assert "student, results.json, report.html, log.jsonl, config.yaml" in out
    assert (tmp_path / "disk" / "run" / "student" / "model.safetensors").exists()


@pytest.mark.filterwarnings("ignore")
def test_a_file_in_the_place_of_a_folder_is_named(limbeck_says: Says) -> None:
    assert limbeck_says("distill", *SHORT, "--output_dir", "run")[0] == 0
    Path("file").write_text("mine")
    student = ["--data", "data.csv", "--student", "run/student"]
    teacher = ["--data", "data.csv", "--teacher", "run/student"]
    for words in (
        ["distill", *SHORT, "--output_dir", "file/run"],
        ["label", *teacher, "--kind", "dense", "--output_dir", "file/stored"],
        ["tune", *teacher, "--hidden", "4", "--max_steps", "1", "--output_dir", "file/tune"],
        ["evaluate", *student, "--output", "file/results.json"],
        ["report", "run", "--output", "file/page.html"],
        ["export", "run", "--output_dir", "file/onnx"],
    ):
        code, _, err = limbeck_says(*words)
        message = err[err.rindex(f"limbeck {words[0]}: ") :]
        assert code == 1
        assert "file is a file, where a folder is needed" in message, words
        assert ("(--output)" if words[0] == "evaluate" else "--output") in message
    assert Path("file").read_text() == "mine"


@pytest.mark.filterwarnings("ignore")
def test_a_disk_that_can_only_be_read_is_found_before_the_work(
    small_disk: Callable[[str], Path], limbeck_says: Says
) -> None:
    disk = small_disk("size=8m")
    assert limbeck_says("distill", *SHORT, "--output_dir", f"{disk}/run")[0] == 0
    small_disk("ro")
    student = ["--data", "data.csv", "--student", f"{disk}/run/student"]
    teacher = ["--data", "data.csv", "--teacher", f"{disk}/run/student"]
    for words in (
        ["distill", *SHORT, "--output_dir", f"{disk}/new"],
        ["distill", *SHORT, "--output_dir", f"{disk}/run", "--resume"],
        ["label", *teacher, "--kind", "dense", "--output_dir", f"{disk}/stored"],
        ["tune", *teacher, "--hidden", "4", "--max_steps", "1", "--output_dir", f"{disk}/tune"],
        ["evaluate", *student, "--output", f"{disk}/results.json"],
        ["report", f"{disk}/run"],
        ["export", f"{disk}/run"],
    ):
        code, _, err = limbeck_says(*words)
        assert code == 1
        assert "its disk can only be read (it is mounted read-only)" in err, words


# Whose exception it is


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_the_path_is_found_among_the_variables_of_whoever_wrote(tmp_path: Path) -> None:
    def write(json_path: Path) -> None:
        with open(json_path, "w"):
            full()

    message = message_of_unwritable(raised(lambda: write(tmp_path / "trainer_state.json")), "distill", [])
    assert message is not None
    assert message.startswith(f"{tmp_path}/trainer_state.json could not be written: the disk is full (")


def test_an_exception_raised_from_the_systems_is_looked_into(tmp_path: Path) -> None:
    def generate() -> None:
        try:
            raise OSError(errno.EDQUOT, "Disk quota exceeded", f"{tmp_path}/x.json.4711.partial")
        except OSError as error:
            raise RuntimeError("An error occurred while generating the dataset") from error

    assert message_of_unwritable(raised(generate), "label", ["--output_dir", str(tmp_path)]) == (
        f"{tmp_path}/x.json could not be written: the disk quota of this user is used up. Make room, and the same "
        "command continues; or set --output_dir to another place."
    )


def test_the_texts_of_safetensors_and_torch_are_understood(small_disk: Callable[[str], Path]) -> None:
    disk = small_disk("size=16k")
    error = raised(lambda: save_file({"w": torch.zeros(2**15)}, disk / "w.safetensors"))
    assert isinstance(error, SafetensorError)
    assert "w.safetensors could not be written: the disk is full (" in str(message_of_unwritable(error, "evaluate", []))
    error = raised(lambda: torch.save(torch.zeros(2**15), disk / "w.pt"))
    assert isinstance(error, RuntimeError)
    assert "w.pt could not be written: the disk is full (" in str(message_of_unwritable(error, "tune", []))


def test_a_full_cache_is_named_by_its_variable(tmp_path: Path) -> None:
    cache = Path(sys.modules["datasets"].config.HF_DATASETS_CACHE)  # of this test: conftest.py
    error = OSError(errno.ENOSPC, "No space left on device", str(cache / "csv" / "data.arrow"))
    message = message_of_unwritable(error, "evaluate", ["--data", "data.csv"])
    assert message is not None
    assert message.endswith("and the same command can be run again; or set HF_DATASETS_CACHE to another place.")


@pytest.mark.parametrize("words", [["--output_dir", "mine"], ["--output_dir=mine"]])
def test_permissions_are_about_writing_where_the_command_writes(words: list[str]) -> None:
    error = PermissionError(errno.EACCES, "Permission denied", "mine/student/model.safetensors")
    message = message_of_unwritable(error, "tune", words)
    assert message is not None
    here = Path.cwd()
    assert message.startswith(
        f"mine/student/model.safetensors could not be written: this user may not write to {here}."
    )
    assert message.endswith("Change that, and the same command continues; or set --output_dir to another place.")


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(errno.ENOENT, "No such file or directory", "data.csv"),
        IsADirectoryError(errno.EISDIR, "Is a directory", "data"),
        PermissionError(errno.EACCES, "Permission denied", "data.csv"),
        BrokenPipeError(errno.EPIPE, "Broken pipe"),
        RuntimeError("iostream error"),
        ValueError("errno 2"),
    ],
)
def test_other_exceptions_are_left_to_others(error: Exception) -> None:
    assert message_of_unwritable(error, "distill", ["--data", "data.csv"]) is None
