"""Which checkpoints are whole, and which are deleted: folders written by hand."""

import json
import os
from pathlib import Path

import pytest

from limbeck.errors import CheckpointError
from limbeck.training.checkpoints import SEAL, fault, newest_whole, require_whole, rotate, seal


def written(run: Path, step: int, *, sealed: bool = True, at: float | None = None) -> Path:
    checkpoint = run / f"checkpoint-{step}"
    (checkpoint / "shards").mkdir(parents=True)
    (checkpoint / "weights").write_bytes(b"w" * (100 + step))
    (checkpoint / "shards" / "1").write_bytes(b"s" * 7)
    (checkpoint / "empty").touch()
    if sealed:
        seal(checkpoint)
    if at is not None:
        os.utime(checkpoint, (at, at))
    return checkpoint


def test_a_seal_lists_every_file_and_its_size(tmp_path: Path) -> None:
    checkpoint = written(tmp_path, 5)
    assert json.loads((checkpoint / SEAL).read_text()) == {"files": {"empty": 0, "shards/1": 7, "weights": 105}}
    assert fault(checkpoint) is None
    seal(checkpoint)
    assert fault(checkpoint) is None


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda c: (c / SEAL).unlink(), "it was cut off while it was being written"),
        (lambda c: (c / SEAL).rename(c / f"{SEAL}.partial"), "it was cut off while it was being written"),
        (lambda c: (c / SEAL).write_text(""), f"its {SEAL} cannot be read"),
        (lambda c: (c / SEAL).write_text('{"files": 3}'), f"its {SEAL} cannot be read"),
        (lambda c: (c / SEAL).write_text("[]"), f"its {SEAL} cannot be read"),
        (lambda c: (c / SEAL).write_bytes(b"\xff\xfe\x00"), f"its {SEAL} cannot be read"),
        (lambda c: (c / "weights").unlink(), "weights is missing"),
        (lambda c: (c / "shards" / "1").unlink(), "shards/1 is missing"),
        (lambda c: (c / "weights").write_bytes(b"w" * 50), "weights has 50 bytes instead of 105"),
        (lambda c: (c / "empty").write_bytes(b"?"), "empty has 1 bytes instead of 0"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, damage, said: str) -> None:
    good, checkpoint = written(tmp_path, 4), written(tmp_path, 5)
    damage(checkpoint)
    assert fault(checkpoint) == said
    assert newest_whole(tmp_path) == (good, {checkpoint: said})
    with pytest.raises(CheckpointError, match=f"checkpoint-5 cannot be resumed from: {said}.*an earlier checkpoint"):
        require_whole(checkpoint)


def test_files_that_came_later_do_not_matter(tmp_path: Path) -> None:
    checkpoint = written(tmp_path, 5)
    (checkpoint / "notes.txt").write_text("mine")
    assert require_whole(str(checkpoint)) == checkpoint


def test_the_newest_is_the_one_of_most_steps(tmp_path: Path) -> None:
    assert newest_whole(tmp_path) == (None, {})
    assert newest_whole(tmp_path / "nowhere") == (None, {})
    for step in (9, 10, 100):
        written(tmp_path, step)
    cut = written(tmp_path, 1000, sealed=False)
    written(tmp_path, 8, sealed=False)  # older than a whole one: nobody asks
    (tmp_path / "checkpoint-2000").write_text("a file")
    (tmp_path / "checkpoint-best").mkdir()
    newest, skipped = newest_whole(tmp_path)
    assert newest == tmp_path / "checkpoint-100"
    assert list(skipped) == [cut]


def test_what_is_not_there_cannot_be_resumed_from(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no such folder"):
        require_whole(tmp_path / "checkpoint-7")


@pytest.mark.parametrize(
    ("limit", "protected", "left"),
    [
        (None, [30], [10, 20, 30, 500]),
        (0, [30], [10, 20, 30, 500]),
        (4, [30], [10, 20, 30, 500]),
        (2, [30], [20, 30]),
        (1, [30], [30]),
        (2, [30, 10], [10, 30]),
        (1, [30, 10], [10, 30]),
        (3, [30, 500], [20, 30, 500]),
    ],
)
def test_the_first_written_goes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int | None, protected: list[int], left: list[int]
) -> None:
    """checkpoint-500 is of an earlier run in the same folder."""
    for at, step in enumerate([500, 10, 20, 30]):
        written(tmp_path, step, at=1e9 + at)
    (tmp_path / "checkpoint-best").mkdir()
    monkeypatch.chdir(tmp_path)  # the same folders by other names are protected too
    rotate(tmp_path, limit, [f"checkpoint-{step}" for step in protected])
    found = sorted(int(p.name.removeprefix("checkpoint-")) for p in tmp_path.glob("checkpoint-[0-9]*"))
    assert found == left
    assert (tmp_path / "checkpoint-best").is_dir()


def test_where_all_are_as_old_the_fewest_steps_go_first(tmp_path: Path) -> None:
    for step in (30, 100, 20):
        written(tmp_path, step, at=1e9)
    rotate(tmp_path, 2, [])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint-100", "checkpoint-30"]
