"""Which checkpoints are whole, and which are deleted: folders written by hand."""

import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import xxhash
from safetensors.torch import save_file

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


def flip(path: Path, place: int) -> None:
    """Changes one bit; the size stays."""
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def change_seal(checkpoint: Path, **changes: Any) -> None:
    content = json.loads((checkpoint / SEAL).read_text()) | {"seal": "gone"} | changes  # as older seals are
    (checkpoint / SEAL).write_text(json.dumps({name: value for name, value in content.items() if value != "gone"}))


def in_its_place(path: Path, what: str) -> None:
    path.unlink()
    path.mkdir() if what == "folder" else path.symlink_to(path.name)


def test_a_seal_lists_every_file_with_its_size_and_digest(tmp_path: Path) -> None:
    checkpoint = written(tmp_path, 5)
    content = {"empty": b"", "shards/1": b"s" * 7, "weights": b"w" * 105}
    listed = {
        "files": {name: len(data) for name, data in content.items()},
        "xxh3_128": {name: xxhash.xxh3_128_hexdigest(data) for name, data in content.items()},
    }
    own = xxhash.xxh3_128_hexdigest(json.dumps(listed, sort_keys=True).encode())
    assert json.loads((checkpoint / SEAL).read_text()) == listed | {"seal": own}
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
        (lambda c: flip(c / "weights", 60), "weights has other bytes than were written"),
        (lambda c: flip(c / "shards" / "1", 0), "shards/1 has other bytes than were written"),
        (lambda c: change_seal(c, xxh3_128={"weights": "0"}), f"its {SEAL} cannot be read"),
        (lambda c: change_seal(c, xxh3_128=["0"]), f"its {SEAL} cannot be read"),
        (lambda c: (c / SEAL).write_text("[" * 100_000), f"its {SEAL} cannot be read"),
        (lambda c: in_its_place(c / "weights", "folder"), "weights is missing"),
        (lambda c: in_its_place(c / "weights", "loop"), "weights is missing"),
        (lambda c: in_its_place(c / SEAL, "folder"), f"its {SEAL} cannot be read"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, damage, said: str) -> None:
    good, checkpoint = written(tmp_path, 4), written(tmp_path, 5)
    damage(checkpoint)
    assert fault(checkpoint) == said
    assert newest_whole(tmp_path) == (good, {checkpoint: said})
    with pytest.raises(CheckpointError, match=f"checkpoint-5 cannot be resumed from: {said}.*an earlier checkpoint"):
        require_whole(checkpoint)


@pytest.mark.parametrize("place", range(0, 105, 13))
def test_a_flip_anywhere_is_found(tmp_path: Path, place: int) -> None:
    checkpoint = written(tmp_path, 5)
    flip(checkpoint / "weights", place)
    assert fault(checkpoint) == "weights has other bytes than were written"


def test_a_flip_anywhere_in_the_seal_is_found(tmp_path: Path) -> None:
    checkpoint = written(tmp_path, 5, sealed=False)
    seal(checkpoint, {"examples_per_step": 8, "examples": 100, "drop_last": False})
    right = (checkpoint / SEAL).read_bytes()
    same = json.loads(right)
    for place in range(len(right)):
        for bit in (0, 5):
            changed = bytearray(right)
            changed[place] ^= 1 << bit
            (checkpoint / SEAL).write_bytes(changed)
            try:
                is_same = json.loads(changed) == same  # white space
            except ValueError:
                is_same = False
            said = fault(checkpoint)
            assert is_same == (said is None), (place, bit, said)
            assert said is None or SEAL in said or "is missing" in said or "bytes" in said


def of_another_time(run: Path) -> Path:
    """A checkpoint with what Trainer writes, and a seal that lists sizes only, as they were at first."""
    checkpoint = run / "checkpoint-3"
    checkpoint.mkdir()
    save_file({"w": torch.zeros(50)}, checkpoint / "model.safetensors")
    torch.save({"w": torch.zeros(50)}, checkpoint / "optimizer.pt")
    (checkpoint / "trainer_state.json").write_text('{"global_step": 3}')
    seal(checkpoint)
    change_seal(checkpoint, xxh3_128="gone")
    return checkpoint


def test_an_older_seal_is_trusted_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="limbeck"):
        assert fault(of_another_time(tmp_path)) is None
    assert "checkpoint-3 was sealed without digests" in caplog.text


@pytest.mark.parametrize(
    ("name", "place", "said"),
    [
        ("trainer_state.json", 0, "trainer_state.json cannot be read"),
        ("model.safetensors", 9, "model.safetensors cannot be read"),
        ("optimizer.pt", 0, "optimizer.pt "),
        ("optimizer.pt", None, "optimizer.pt is damaged"),
    ],
)
def test_what_cannot_be_opened_is_found_under_an_older_seal(
    tmp_path: Path, name: str, place: int | None, said: str
) -> None:
    """place: of the flipped bit; None for one in the middle of the tensor's zeros."""
    checkpoint = of_another_time(tmp_path)
    flip(checkpoint / name, (checkpoint / name).read_bytes().index(bytes(200)) + 100 if place is None else place)
    assert (fault(checkpoint) or "").startswith(said)


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
