"""Labelling that is cut off: killed at any moment, on a full disk, or by several processes at once.

Oracle: an undisturbed run of one process; its files, byte by byte.
"""

import errno
import json
import multiprocessing
import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from two_processes import in_two_processes

import limbeck
from limbeck import DataError, FunctionTeacher
from limbeck.networks.asking import Batch
from limbeck.store import folder as folder_module
from limbeck.store import label as label_module
from limbeck.store import writing
from limbeck.store.asking import Labeller
from limbeck.store.folder import Folder
from limbeck.store.kinds import Dense
from limbeck.store.manifest import Manifest
from limbeck.store.rows import rows_of

from .small import C, contents, images, llama, network, rows, words

FORKED = multiprocessing.get_context("fork")
KINDS: list[tuple[str, dict[str, Any]]] = [("dense", {"dtype": "float32"}), ("sampled", {"k": 3})]


ASKED = FORKED.Value("i", 0)
"""How often a teacher was asked, in all processes together."""


def slow_teacher(seconds: float = 0.0) -> FunctionTeacher:
    net = network()

    def says(batch: Batch) -> torch.Tensor:
        with ASKED.get_lock():
            ASKED.value += 1
        time.sleep(seconds)
        logits: torch.Tensor = net(batch["inputs"])
        return logits

    return FunctionTeacher(says, fingerprint="slow")


def test_the_thread_that_encodes_begins_on_the_teachers_cuda_device(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without a current CUDA context in it, cuBLAS warns; a device of the CPU needs none."""
    calls: list[tuple[str, Any, bool]] = []

    def called(name: str) -> Callable[..., None]:
        return lambda *device: calls.append((name, *device, threading.current_thread() is threading.main_thread()))

    monkeypatch.setattr(torch.cuda, "set_device", called("set_device"))
    monkeypatch.setattr(torch.cuda, "synchronize", called("synchronize"))
    labeller = Labeller(slow_teacher(), Dense(), rows_of(images()), None, 1, 0, torch.device("cpu"))
    plan, _ = label_module._plan(labeller, images(), None, 3, 50)
    writer = writing.Writer(Folder(tmp_path), plan, {})
    for device in ("cpu", "cuda:3"):
        monkeypatch.setattr(labeller, "answers", lambda *_: iter(()))
        monkeypatch.setattr(labeller, "generator", lambda _: None)
        monkeypatch.setattr(label_module, "_write", lambda *_: calls.append(("write", None, False)))
        labeller.device = torch.device(device)
        label_module._make([0], labeller, writer, 3, lambda _: None)
    cuda = torch.device("cuda:3")
    assert calls == [
        ("write", None, False),
        ("set_device", cuda, False),
        ("synchronize", False),
        ("write", None, False),
    ]


def label(path: Path, kind: str = "dense", seconds: float = 0.0, n: int = 50, **options: Any) -> limbeck.Labelled:
    return limbeck.label(slow_teacher(seconds), images(n), path, kind, rows_per_shard=4, batch_size=3, **options)


def cut_off(path: Path, kind: str, options: dict[str, Any], batches: int, after: float) -> int | None:
    """The exit code of a process that labels and is killed some seconds after it has begun so many batches."""
    ASKED.value = 0
    process = FORKED.Process(target=label, args=(path, kind, 0.02), kwargs=options)
    process.start()
    while ASKED.value < batches and process.is_alive():
        time.sleep(0.001)
    time.sleep(after)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    return process.exitcode


@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_killed_eight_times_at_random_it_ends_with_the_bytes_of_an_undisturbed_run(
    tmp_path: Path, kind: str, options: dict[str, Any]
) -> None:
    label(tmp_path / "whole", kind, **options)
    moments = random.Random(7)
    codes = [
        cut_off(tmp_path / "cut", kind, options, moments.randint(2, 5), moments.uniform(0, 0.03)) for _ in range(8)
    ]
    assert codes == [-signal.SIGKILL] * 8
    begun = len(list((tmp_path / "cut").glob("part-*.parquet")))
    label(tmp_path / "cut", kind, **options)
    assert 0 < begun < 13
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")
    ids = [
        i for part in sorted((tmp_path / "cut").glob("*.parquet")) for i in pq.read_table(part)["row_id"].to_pylist()
    ]
    assert ids == list(range(1000, 1050))


def die_at_rename(path: Path, number: int, before: bool) -> None:
    """Labels, and is killed right before or right after the file of this number gets its own name."""
    rename, seen = os.replace, 0

    def counted(*names: Any) -> None:
        nonlocal seen
        seen += 1
        if seen == number and before:
            os.kill(os.getpid(), signal.SIGKILL)
        rename(*names)
        if seen == number:
            os.kill(os.getpid(), signal.SIGKILL)

    os.replace = counted
    label(path, n=10)


@pytest.mark.parametrize("before", [True, False])
def test_killed_around_each_file_it_goes_on(tmp_path: Path, before: bool) -> None:
    """Plan, three shards with their records, manifest."""
    label(tmp_path / "whole", n=10)
    for number in range(1, 9):
        path = tmp_path / f"cut{number}"
        process = FORKED.Process(target=die_at_rename, args=(path, number, before))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        if number < 8:
            with pytest.raises(DataError, match=r"not finished|no manifest.json"):
                limbeck.open(path)
        label(path, n=10)
        assert contents(path) == contents(tmp_path / "whole")


def test_what_is_whole_is_not_made_again(tmp_path: Path) -> None:
    asked: list[int] = []

    def says(batch: Batch) -> torch.Tensor:
        asked.append(len(batch["row_id"]))
        if sum(asked) > 8:  # two shards; what shows how the teacher speaks is the first batch of the first
            raise RuntimeError("away")
        return torch.zeros(len(batch["row_id"]), C)

    again: dict[str, Any] = {"kind": "dense", "rows_per_shard": 4, "batch_size": 3}
    with pytest.raises(RuntimeError, match="away"):
        limbeck.label(FunctionTeacher(says, "zero"), images(20), tmp_path / "set", **again)
    times = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "set").glob("*.parquet")}
    assert len(times) == 2
    asked.clear()
    calm = FunctionTeacher(
        lambda batch: (asked.append(len(batch["row_id"])), torch.zeros(len(batch["row_id"]), C))[1], "zero"
    )
    limbeck.label(calm, images(20), tmp_path / "set", **again)
    assert sum(asked) == 3 + 12  # the first batch again, to see whether it is the same
    assert {name: (tmp_path / "set" / name).stat().st_mtime_ns for name in times} == times
    asked.clear()
    limbeck.label(calm, images(20), tmp_path / "set", **again)
    assert sum(asked) == 3  # finished: only looked at whether it is the same
    assert not (tmp_path / "set" / "unfinished").exists()


@pytest.mark.parametrize("shards", [1, None])
def test_another_batch_size_goes_on_with_the_shards_that_there_are(
    tmp_path: Path, shards: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of several lengths, whose first batch says how many make a shard: 1 row and 16 rows disagree."""
    monkeypatch.setattr(label_module, "SHARD_BYTES", 1200)
    given: dict[str, Any] = {"teacher": llama(), "transfer_set": rows(), "kind": "top_k", "k": 3}
    sizes = [limbeck.label(**given, path=tmp_path / f"{n}", batch_size=n).manifest.rows_per_shard for n in (16, 1)]
    assert sizes[0] != sizes[1]
    made = writing.Writer.write

    def until(self: writing.Writer, shard: int, *args: Any) -> None:
        if shard == shards:
            raise KeyboardInterrupt
        made(self, shard, *args)

    with monkeypatch.context() as patch:
        patch.setattr(writing.Writer, "write", until)
        if shards is None:
            limbeck.label(**given, path=tmp_path / "cut", batch_size=16)
        else:
            with pytest.raises(KeyboardInterrupt):
                limbeck.label(**given, path=tmp_path / "cut", batch_size=16)
    manifest = limbeck.label(**given, path=tmp_path / "cut", batch_size=1).manifest
    assert manifest.rows_per_shard == sizes[0]
    assert sum(shard.rows for shard in manifest.shards) == 23
    assert limbeck.verify(tmp_path / "cut", llama()) == []


def test_a_teacher_may_speak_in_the_same_memory_again() -> None:
    """What it said of a batch is kept while it is asked about the next one."""
    memory = torch.empty(3, C)

    def says(batch: Batch) -> torch.Tensor:
        return memory.copy_(batch["row_id"].unsqueeze(-1).expand(3, C))

    labeller = Labeller(FunctionTeacher(says, "again"), Dense(), rows_of(images(9)), None, 1, 0, torch.device("cpu"))
    batches = list(labeller.answers(range(9), labeller.first(3), 3))
    said = [targets.logits[:, 0].tolist() for asked in batches for targets in asked.views]  # type: ignore[attr-defined]
    assert said == [[1000, 1001, 1002], [1003, 1004, 1005], [1006, 1007, 1008]]


CHANGES: dict[str, tuple[str, Callable[[], dict[str, Any]]]] = {
    "teacher": ("teacher: stored 'slow', given", lambda: {"teacher": network(1)}),
    "dataset": ("dataset: stored", lambda: {"transfer_set": images(50, seed=1)}),
    "kind": ("kind.dtype: stored 'float32', given 'float16'", lambda: {"dtype": "float16"}),
    "seed": ("seed: stored 0, given 1", lambda: {"seed": 1}),
    "shards": ("rows_per_shard: stored 4, given 5", lambda: {"rows_per_shard": 5}),
}


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("what", CHANGES)
def test_other_settings_are_refused_field_by_field(
    tmp_path: Path, what: str, finished: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {"teacher": slow_teacher(), "transfer_set": images(50), "path": tmp_path / "set"}
    given |= {"kind": "dense", "dtype": "float32", "rows_per_shard": 4}
    if not finished:
        monkeypatch.setattr(writing.Writer, "finish", lambda self: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            limbeck.label(**given)
        monkeypatch.undo()
    else:
        limbeck.label(**given)
    before = contents(tmp_path / "set")
    message, changed = CHANGES[what]
    with pytest.raises(DataError, match="other settings") as refused:
        limbeck.label(**given | changed())
    _, *fields = str(refused.value).splitlines()
    assert fields[0].startswith(f"  {message}")
    assert len(fields) == (2 if what == "kind" else 1)  # and what columns follow from it
    assert contents(tmp_path / "set") == before


def test_another_tokenizer_is_refused(tmp_path: Path) -> None:
    given: dict[str, Any] = {"kind": "top_k", "k": 3}
    limbeck.label(llama(), rows(5), tmp_path / "set", tokenizer=words(), **given)
    for other, field in ((words(chat_template="{{ 1 }}"), "chat_template"), (words(first="other"), "tokenizer")):
        with pytest.raises(DataError, match=rf"They differ in:\n  {field}: stored .*$"):
            limbeck.label(llama(), rows(5), tmp_path / "set", tokenizer=other, **given)


def test_a_disk_without_room_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_module.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 10**6, 999))  # type: ignore[attr-defined]
    with pytest.raises(DataError, match=r"\(1,000 bytes\) for the targets of 50 positions.*\(999 bytes\) are free"):
        label(tmp_path / "set", dtype="float32")  # 50 positions of 5 float32
    assert not (tmp_path / "set").exists()


def test_a_disk_that_fills_up_is_named_and_what_is_whole_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    label(tmp_path / "whole")
    write, calls = writing._write_parquet, []

    def full(stream: Any, *args: Any) -> None:
        calls.append(1)
        if len(calls) == 3:
            stream.write(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(stream, *args)

    monkeypatch.setattr(writing, "_write_parquet", full)
    with pytest.raises(DataError, match=r"part-00002-of-00013.parquet could not be written: .*No space left on device"):
        label(tmp_path / "set")
    assert len(list((tmp_path / "set").glob("*.parquet"))) == 2
    assert not list((tmp_path / "set").rglob("*.partial"))
    monkeypatch.undo()
    label(tmp_path / "set")
    assert contents(tmp_path / "set") == contents(tmp_path / "whole")


def limited(path: Path, found: Path) -> None:
    """Labels where no file may have more than 2,000 bytes."""
    import resource

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
    try:
        limbeck.label(network(), images(400), path, "dense", rows_per_shard=200)
    except DataError as error:
        found.write_text(str(error))


def test_a_file_that_the_system_does_not_take_is_named(tmp_path: Path) -> None:
    process = FORKED.Process(target=limited, args=(tmp_path / "set", tmp_path / "said"))
    process.start()
    process.join()
    said = (tmp_path / "said").read_text()
    assert "part-00000-of-00002.parquet could not be written" in said
    assert "File too large" in said


def test_files_of_somebody_else_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="is not a stored set"):
        label(tmp_path)
    assert contents(tmp_path) == {"notes.txt": b"mine"}


def labels_its_share(rank: int, path: str) -> None:
    made = writing.Writer.write

    def noted(self: writing.Writer, shard: int, *args: Any) -> None:
        made(self, shard, *args)
        Path(path).with_name(f"rank{rank}").open("a").write(f"{shard} ")

    writing.Writer.write = noted  # type: ignore[method-assign]
    label(Path(path), "sampled", k=3)


def test_two_processes_make_each_their_shards(tmp_path: Path) -> None:
    label(tmp_path / "whole", "sampled", k=3)
    in_two_processes(labels_its_share, str(tmp_path / "set"), start_method="fork")
    assert contents(tmp_path / "set") == contents(tmp_path / "whole")
    assert (tmp_path / "rank0").read_text().split() == [str(i) for i in range(0, 13, 2)]
    assert (tmp_path / "rank1").read_text().split() == [str(i) for i in range(1, 13, 2)]


def test_the_manifest_says_what_the_files_are(tmp_path: Path) -> None:
    import hashlib

    labelled = label(tmp_path / "set", dtype="float32")
    manifest: Manifest = labelled.manifest
    assert [shard.rows for shard in manifest.shards] == [4] * 12 + [2]
    for shard in manifest.shards:
        content = (tmp_path / "set" / shard.name).read_bytes()
        assert (shard.bytes, shard.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    written = json.loads((tmp_path / "set" / "manifest.json").read_text())
    assert written["kind"] == {"kind": "dense", "dtype": "float32"}
    assert (written["classes"], written["rows"], written["teacher"]) == (C, 50, "slow")
    assert set(written["versions"]) == {"limbeck", "torch", "transformers", "datasets", "pyarrow"}
