"""Sets that are not what was written: what opening refuses, and what verify finds.

Oracle: the one file, or the one field, that was changed here; it must be named.
"""

import hashlib
import json
import os
import re
import shutil
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

import limbeck
from limbeck import DataError, ModelTeacher, SoftTargets
from limbeck.networks.asking import Batch
from limbeck.networks.positions import Positions, next_token_positions
from limbeck.store import verifying

from .small import images, llama, network, rows

SHARD = "part-00001-of-00004.parquet"


@pytest.fixture
def made(tmp_path: Path) -> Path:
    limbeck.label(network(), images(), tmp_path / "set", "top_k", k=3, rows_per_shard=16)
    return tmp_path / "set"


def rewrite(path: Path, **changes: Any) -> None:
    """Changes fields of the manifest, and its hash with them."""
    manifest = json.loads((path / "manifest.json").read_text()) | changes
    manifest = {name: value for name, value in manifest.items() if value != "gone" and name != "sha256"}
    content = json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()
    (path / "manifest.json").write_text(json.dumps(manifest | {"sha256": hashlib.sha256(content).hexdigest()}))


def test_a_whole_set_has_no_findings(made: Path) -> None:
    assert limbeck.verify(made, network()) == []


def test_a_flipped_byte_is_found_by_its_file(made: Path) -> None:
    content = bytearray((made / SHARD).read_bytes())
    content[len(content) // 2] ^= 1
    (made / SHARD).write_bytes(content)
    (finding,) = limbeck.verify(made)
    assert SHARD in finding
    assert "SHA-256" in finding


def test_a_shard_that_is_no_parquet_any_more_is_refused_when_it_is_read(made: Path) -> None:
    (made / SHARD).write_bytes(bytes((made / SHARD).stat().st_size))
    with pytest.raises(DataError, match=rf"{SHARD} has other bytes than were written"):
        _ = limbeck.open(made).dataset


def flip(path: Path, place: int, bit: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << bit
    path.write_bytes(content)


@pytest.mark.parametrize("share", [0.0, 0.05, 0.2, 0.37, 0.5, 0.61, 0.73, 0.88, 0.96, 0.9999])
def test_a_flip_anywhere_in_a_shard_is_refused_when_rows_are_read(made: Path, tmp_path: Path, share: float) -> None:
    """Pages, their headers, the footer: as far through the file as `share`."""
    flip(made / SHARD, int(share * (made / SHARD).stat().st_size), bit=int(100 * share) % 8)
    stored = limbeck.open(made, cache_dir=str(tmp_path / "cache"))
    for _ in range(2):  # nothing that was damaged is cached
        with pytest.raises(
            DataError, match=rf"{SHARD} has other bytes than were written: its SHA-256 differs; restore"
        ):
            _ = stored.dataset
    (finding,) = limbeck.verify(made)
    assert SHARD in finding


@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.6, 0.9999])
def test_a_flip_anywhere_in_the_head_is_refused_when_it_is_read(tmp_path: Path, share: float) -> None:
    limbeck.label(llama(), rows(), tmp_path / "set", "hidden")
    head = tmp_path / "set" / "head.safetensors"
    flip(head, int(share * head.stat().st_size))
    with pytest.raises(DataError, match=r"head.safetensors has other bytes than were written"):
        _ = limbeck.open(tmp_path / "set").teacher


def test_bytes_are_checked_before_a_copy_is_made_and_not_again(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    sha256 = verifying.Folder.sha256
    monkeypatch.setattr(verifying.Folder, "sha256", lambda self, name: (read.append(name), sha256(self, name))[1])
    for _ in range(2):
        assert len(limbeck.open(made, cache_dir=str(tmp_path / "cache")).dataset) == 50
        assert sorted(read) == [f"part-{i:05}-of-00004.parquet" for i in range(4)]


@pytest.mark.parametrize("name", ["../secret.parquet", "/etc/passwd", "part-00000-of-00004.parquet", "", "s3://x/y", 7])
def test_a_shards_name_never_leads_elsewhere(made: Path, name: Any) -> None:
    """Also with a manifest whose hash is right."""
    shutil.copy(made / SHARD, made.parent / "secret.parquet")
    manifest = json.loads((made / "manifest.json").read_text())
    manifest["shards"][1]["name"] = name
    rewrite(made, **manifest)
    with pytest.raises(DataError, match=r"manifest.json cannot be read: .*shard"):
        limbeck.open(made)
    assert len(limbeck.verify(made)) == 1


def in_its_place(path: Path, what: str) -> None:
    """A folder, or a link to itself, where a file was."""
    path.unlink()
    if what == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir() if what == "folder" else path.symlink_to(path.name)


@pytest.mark.parametrize("what", ["folder", "loop", "pipe"])
@pytest.mark.parametrize("name", ["manifest.json", SHARD, "head.safetensors"])
def test_what_is_no_file_is_refused_and_found(tmp_path: Path, name: str, what: str) -> None:
    limbeck.label(llama(), rows(), tmp_path / "set", "hidden", rows_per_shard=6)
    in_its_place(tmp_path / "set" / name, what)
    with pytest.raises(DataError, match=name):
        _ = limbeck.open(tmp_path / "set").dataset
    (finding,) = limbeck.verify(tmp_path / "set")
    assert name in finding


@pytest.mark.parametrize("opened", ["[", '{"kind":', '{"a": [{"b": '])
@pytest.mark.parametrize("deep", [20, 1_000, 100_000])
def test_manifests_that_are_nested_deep_are_refused(made: Path, opened: str, deep: int) -> None:
    closed = "".join({"[": "]", "{": "}"}[c] for c in reversed(opened) if c in "[{")
    (made / "manifest.json").write_text(opened * deep + "0" + closed * deep)
    with pytest.raises(DataError, match=r"manifest.json"):
        limbeck.open(made)
    assert len(limbeck.verify(made)) == 1
    rewritten = json.dumps({"kind": "x"})[:-1] + ', "more": ' + "[" * deep + "]" * deep + "}"
    (made / "manifest.json").write_text(rewritten)
    with pytest.raises(DataError, match=r"manifest.json"):
        limbeck.label(network(), images(), made, "top_k", k=3, rows_per_shard=16)


ODD = [None, True, -1, 0, 1.5, 2**70, "x", "", [], {}, [None], {"x": [1]}, [{"name": 3}], float("nan")]


@pytest.mark.parametrize("value", ODD, ids=repr)
def test_odd_values_of_fields_are_refused_or_change_nothing(made: Path, value: Any) -> None:
    """Each field in turn, with a right hash: never another error than DataError, and verify always answers."""
    whole = (made / "manifest.json").read_text()
    for field in json.loads(whole):
        if field == "sha256":
            continue
        (made / "manifest.json").write_text(whole)
        rewrite(made, **{field: value})
        found = limbeck.verify(made)
        try:
            opened = limbeck.open(made)
            _ = opened.dataset, opened.teacher, opened[0]
        except DataError:
            assert found, field


@pytest.mark.parametrize("value", ODD, ids=repr)
def test_odd_values_inside_of_fields_too(tmp_path: Path, value: Any) -> None:
    limbeck.label(llama(), rows(), tmp_path, "hidden", rows_per_shard=6)
    whole = json.loads((tmp_path / "manifest.json").read_text())
    places = [("kind", key) for key in whole["kind"]] + [("head", key) for key in whole["head"]]
    places += [("shards", 1, key) for key in whole["shards"][1]] + [("columns", "labels")]
    places += [("columns", "labels", key) for key in whole["columns"]["labels"]]
    for *path, last in places:
        changed = json.loads(json.dumps(whole))
        inner = changed
        for key in path:
            inner = inner[key]
        inner[last] = value
        rewrite(tmp_path, **changed)
        found = limbeck.verify(tmp_path)
        try:
            opened = limbeck.open(tmp_path)
            _ = opened.dataset, opened.teacher
        except DataError:
            assert found, (*path, last)


def test_a_note_of_an_unfinished_set_that_is_damaged_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as cut:
        cut.setattr("limbeck.store.writing.Writer.finish", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            limbeck.label(network(), images(), tmp_path, "top_k", k=3, rows_per_shard=16)
    for name, content in ((SHARD, "{"), ("part-00002-of-00004.parquet", "[" * 100_000)):
        (tmp_path / "unfinished" / f"{name}.json").write_text(content)
    limbeck.label(network(), images(), tmp_path, "top_k", k=3, rows_per_shard=16)
    assert limbeck.verify(tmp_path) == []


def test_a_truncated_shard_is_refused_and_found(made: Path) -> None:
    content = (made / SHARD).read_bytes()
    (made / SHARD).write_bytes(content[:-10])
    with pytest.raises(DataError, match=rf"{SHARD} has {len(content) - 10:,} bytes and had {len(content):,}"):
        limbeck.open(made)
    (finding,) = limbeck.verify(made)
    assert SHARD in finding


def test_a_missing_shard_is_refused_and_found(made: Path) -> None:
    (made / SHARD).unlink()
    with pytest.raises(DataError, match=f"{SHARD} is missing"):
        limbeck.open(made)
    assert limbeck.verify(made) == [f"{made / SHARD} is missing."]


def test_a_head_that_changed_is_found(tmp_path: Path) -> None:
    limbeck.label(llama(), rows(), tmp_path, "hidden")
    content = bytearray((tmp_path / "head.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "head.safetensors").write_bytes(content)
    (finding,) = limbeck.verify(tmp_path)
    assert "head.safetensors" in finding
    (tmp_path / "head.safetensors").unlink()
    with pytest.raises(DataError, match=r"head.safetensors is missing"):
        limbeck.open(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 2}, "version 2, and this Limbeck reads version 1"),
        ({"teacher": "gone"}, "no field 'teacher'"),
        ({"columns": [1]}, "cannot be read"),
        ({"shards": [{"name": "x"}]}, "cannot be read"),
        ({"kind": {"kind": "top_k", "k": 3, "temperature": "x"}}, "cannot be read: .*Temperature of top_k .* is 'x'"),
        ({"kind": {"kind": "top"}}, "cannot be read: .*name an unknown kind"),
        ({"kind": "top_k"}, "cannot be read"),
        ({"kind": {"kind": "top_k", "k": 4}}, r"'target_ids' as .*\(3,\).* has it as .*\(4,\)"),
        ({"kind": {"kind": "top_k", "k": 3, "bits": 16}}, "'target_codes' as .*uint8.* has it as .*int16"),
        ({"kind": {"kind": "dense"}}, "'target_logits' as None, but .* has it as .*float16"),
        ({"classes": 2}, "cannot be read: top_k with k = 3 stores more than the 2 classes"),
        ({"positions_are": "tokens"}, r"'target_ids' as .*\(3,\).* has it as .*\(None, 3\)"),
    ],
)
def test_a_manifest_of_another_making_is_refused(made: Path, changes: dict[str, Any], message: str) -> None:
    rewrite(made, **changes)
    with pytest.raises(DataError, match=f"manifest.json.*{message}"):
        limbeck.open(made)
    (finding,) = limbeck.verify(made)
    assert re.search(f"manifest.json.*{message}", finding)


def test_a_column_of_another_type_is_refused(made: Path) -> None:
    columns = json.loads((made / "manifest.json").read_text())["columns"]
    rewrite(made, columns=columns | {"target_ids": columns["target_ids"] | {"dtype": "int99"}})
    with pytest.raises(DataError, match=r"manifest.json has 'target_ids' as .*int99.* has it as .*int32"):
        limbeck.open(made)


CHANGED = {
    "classes": '"classes": 5',
    "kind.k": '"k": 3',
    "kind.temperature": '"temperature": 1.0',
    "a dtype": '"dtype": "uint8"',
    "a name": '"positions_are": "examples"',
    "a shard's hash": '"sha256": "',
}


@pytest.mark.parametrize("what", CHANGED)
def test_a_changed_manifest_is_refused(made: Path, what: str) -> None:
    """One character more in one field."""
    text, field = (made / "manifest.json").read_text(), CHANGED[what]
    assert field in text
    end = len(field) - (field.endswith('"') and what != "a shard's hash")
    (made / "manifest.json").write_text(text.replace(field, field[:end] + "1" + field[end:], 1))
    with pytest.raises(DataError, match=r"manifest.json was changed after it was written"):
        limbeck.open(made)
    (finding,) = limbeck.verify(made)
    assert "manifest.json was changed after it was written" in finding
    with pytest.raises(DataError, match=r"manifest.json was changed after it was written"):
        limbeck.label(network(), images(), made, "top_k", k=3, rows_per_shard=16)


def test_a_manifest_written_otherwise_with_the_same_fields_is_the_same(made: Path) -> None:
    """Its own hash is of what it says: another order and other spaces change nothing; without it, it is damaged."""
    manifest = json.loads((made / "manifest.json").read_text())
    (made / "manifest.json").write_text(json.dumps(dict(reversed(manifest.items()))))
    assert limbeck.verify(made) == []
    del manifest["sha256"]
    (made / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match=r"no field 'sha256'"):
        limbeck.open(made)


def test_no_manifest_is_refused(made: Path) -> None:
    (made / "manifest.json").write_text("{")
    with pytest.raises(DataError, match=r"manifest.json is not JSON"):
        limbeck.open(made)
    (made / "manifest.json").unlink()
    with pytest.raises(DataError, match=r"no manifest.json"):
        limbeck.open(made)


def resealed(made: Path, change: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What verify finds in rows that were changed and whose hash was changed with them."""
    table = change(pq.read_table(made / SHARD))
    pq.write_table(table, made / SHARD)
    manifest = json.loads((made / "manifest.json").read_text())
    manifest["shards"][1] |= {"bytes": (made / SHARD).stat().st_size}
    monkeypatch.setattr(
        verifying.Folder,
        "sha256",
        lambda self, name: next(s["sha256"] for s in manifest["shards"] if s["name"] == name),
    )
    rewrite(made, **manifest)
    return limbeck.verify(made)


def test_rows_that_stand_twice_are_found(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = pq.read_table(made / "part-00000-of-00004.parquet")
    (finding,) = resealed(made, lambda table: other, monkeypatch)
    assert "row_id 1000 occurs in several rows (16 such ids)" in finding


def test_rows_that_are_gone_are_found(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (finding,) = resealed(made, lambda table: table.slice(1), monkeypatch)
    assert "15 rows, but the manifest has 16" in finding


def test_targets_that_are_no_distribution_are_found(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoil(table: Any) -> Any:
        place = table.schema.get_field_index("target_tail_odds")
        odds = table.column(place).to_pylist()
        odds[5] = float("nan")
        import pyarrow as pa

        return table.set_column(place, table.schema.field(place), pa.array(odds, pa.float32()))

    (finding,) = resealed(made, spoil, monkeypatch)
    assert "row_id 1021 are not a probability distribution over 5 classes" in finding


def test_another_teacher_is_found_by_its_fingerprint(made: Path) -> None:
    (finding,) = limbeck.verify(made, network(1))
    assert "the teacher is another one: stored" in finding


def test_verify_asks_a_teacher_on_the_device_that_label_asks_it_on(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that no teacher is on, in the place of an accelerator: it is where both would bring theirs."""
    asked: list[torch.device] = []

    def settled(teacher: Any, device: torch.device) -> torch.device:
        asked.append(device)
        return torch.device("cpu")

    own = SimpleNamespace(device=torch.device("meta"), is_main_process=True)
    for name in ("label", "verify"):
        module = import_module(f"limbeck.store.{name}")
        monkeypatch.setattr(module, "settle", settled)
        monkeypatch.setattr(module, "this_process", lambda: own)
    limbeck.label(network(), images(), made, "top_k", k=3, rows_per_shard=16)
    assert limbeck.verify(made, network()) == []
    assert asked == [torch.device("meta")] * 2


def test_verify_hands_a_language_models_positions_to_the_teacher(tmp_path: Path) -> None:
    handed: list[Positions | None] = []

    class Watched(ModelTeacher):
        def __call__(self, batch: Batch, positions: Positions | None = None) -> SoftTargets:
            handed.append(positions)
            return super().__call__(batch, positions)

    limbeck.label(llama(), rows(), tmp_path, "top_k", k=3)
    assert limbeck.verify(tmp_path, Watched(llama()), rows=4) == []
    stored = limbeck.open(tmp_path)
    expected = [next_token_positions(stored.__getitems__([place])).rows for place in range(0, len(stored), 5)]
    assert [positions.rows.tolist() for positions in handed if positions] == [found.tolist() for found in expected]


@pytest.mark.skipif(not torch.accelerator.is_available(), reason="no accelerator")
@pytest.mark.parametrize(("kind", "teacher", "given"), [("top_k", network, images), ("hidden", llama, rows)])
def test_on_an_accelerator_the_teacher_is_brought_there(tmp_path: Path, kind: str, teacher: Any, given: Any) -> None:
    limbeck.label(teacher(), given(), tmp_path, kind, **({"k": 3} if kind == "top_k" else {}))
    asked = teacher()
    assert limbeck.verify(tmp_path, asked) == []
    assert next(asked.parameters()).device.type == torch.accelerator.current_accelerator().type


def test_targets_that_the_teacher_would_not_give_are_found(tmp_path: Path) -> None:
    """A teacher whose fingerprint is right and whose words are not; 0.5 sum |q - p|, from its own probabilities."""
    first, second = (limbeck.FunctionTeacher(lambda batch, n=n: network(n)(batch["inputs"]), "f") for n in (0, 1))
    limbeck.label(first, images(), tmp_path, "dense", dtype="float32")
    assert limbeck.verify(tmp_path, first, rows=50) == []
    (finding,) = limbeck.verify(tmp_path, second, rows=50)
    inputs = images().__getitems__(range(50))["inputs"]
    p, q = (net(inputs).detach().softmax(-1) for net in (network(), network(1)))
    apart = float((p - q).abs().sum(-1).mean() / 2)
    assert apart > 0.05
    assert f"a total variation of {apart:.3f}, the mean of 50 positions" in finding
