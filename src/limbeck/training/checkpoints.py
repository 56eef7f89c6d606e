"""Sealing the checkpoints of a run, and finding those that are whole.

A checkpoint is sealed when everything in it has been written: `limbeck_checkpoint.json`, written last, lists its
files with their sizes and digests, and in what batches the run takes its examples. One without a seal, or that no
longer agrees with it, was cut off while it was being written or deleted, or was damaged later; it is skipped with a
warning. One of a run with other batches is refused: Trainer would skip the wrong number of examples.
"""

import json
import logging
import os
import re
import shutil
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import xxhash
from safetensors import SafetensorError, safe_open

from limbeck.errors import CheckpointError, ConfigError
from limbeck.files import DIGEST, JsonView, digests, write_whole

log = logging.getLogger("limbeck")

SEAL = "limbeck_checkpoint.json"


RUN = "run"
OWN = "seal"
"""The field of a seal with the digest of its other fields."""
STATE = "trainer_state.json"

NAMES = {
    "examples_per_step": "examples per step (per_device_train_batch_size x gradient_accumulation_steps x processes)",
    "examples": "examples in the transfer set",
    "order_seed": "the seed of the order of examples (data_seed, or else seed)",
    "sampling": "train_sampling_strategy",
    "drop_last": "dataloader_drop_last",
}
"""What decides which examples a step takes -> how a message calls it."""


def seal(checkpoint: str | Path, run: JsonView | None = None) -> None:
    """Marks a checkpoint as whole, once all of it is on the disk.

    run: the values of NAMES, for `require_same_batches`.
    """
    checkpoint = Path(checkpoint)
    for name in _sizes(checkpoint):
        with open(checkpoint / name, "rb") as file:
            os.fsync(file.fileno())
    sizes = _sizes(checkpoint)
    content = {"files": sizes, DIGEST: digests(checkpoint, sizes)} | ({} if run is None else {RUN: dict(run)})
    write_whole(checkpoint / SEAL, json.dumps(content | {OWN: _digest_of(content)}, indent=1))


def fault(checkpoint: str | Path) -> str | None:
    """What is wrong with a checkpoint, in words; None where every byte is as it was when it was sealed.

    Older seals list sizes only: there, the files are opened, and a warning names what is not checked.
    """
    checkpoint = Path(checkpoint)
    try:
        content = json.loads((checkpoint / SEAL).read_text(encoding="utf-8"))
        own = content.pop(OWN, None)  # older seals have none
        if own not in (None, _digest_of(content)) or not content.keys() <= {"files", DIGEST, RUN}:
            return f"its {SEAL} was changed after it was written"
        listed, hashed = dict(content["files"]), content.get(DIGEST)
        if not isinstance(hashed, dict | None):
            return f"its {SEAL} cannot be read"
    except FileNotFoundError:
        return "it was cut off while it was being written"
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OSError):
        return f"its {SEAL} cannot be read"
    sizes = _sizes(checkpoint)
    for name, size in listed.items():
        if name not in sizes:
            return f"{name} is missing"
        if sizes[name] != size:
            return f"{name} has {sizes[name]} bytes instead of {size}"
    try:
        return _other_bytes(checkpoint, listed, hashed) if hashed else _unreadable(checkpoint, listed)
    except OSError as error:
        return f"it cannot be read ({error})"


def newest_whole(run: str | Path) -> tuple[Path | None, dict[Path, str]]:
    """The newest whole checkpoint of a run, or None; and each newer one with what is wrong with it."""
    skipped: dict[Path, str] = {}
    for checkpoint in sorted(_checkpoints(run), key=_step, reverse=True):
        wrong = fault(checkpoint)
        if wrong is None:
            return checkpoint, skipped
        skipped[checkpoint] = wrong
    return None, skipped


def rotate(run: str | Path, limit: int | None, protected: Iterable[str | Path]) -> None:
    """Deletes the oldest checkpoints of a run.

    limit: how many stay; all where it is None or 0. protected: those that are never deleted.
    """
    never = {Path(checkpoint).resolve() for checkpoint in protected}
    found = sorted(_checkpoints(run), key=lambda p: (p.stat().st_mtime_ns, _step(p)))
    surplus = len(found) - max(limit, len(never)) if limit and limit > 0 else 0
    for checkpoint in [p for p in found if p.resolve() not in never][: max(surplus, 0)]:
        shutil.rmtree(checkpoint, ignore_errors=True)


def require_whole(checkpoint: str | Path) -> Path:
    """Returns the checkpoint; CheckpointError, with what is wrong with it, unless it is whole."""
    wrong = fault(checkpoint) if Path(checkpoint).is_dir() else "there is no such folder"
    if wrong is not None:
        raise CheckpointError(f"{checkpoint} cannot be resumed from: {wrong}. Resume from an earlier checkpoint.")
    return Path(checkpoint)


def require_same_batches(checkpoint: Path, now: JsonView) -> None:
    """ConfigError where the checkpoint's run took other examples per step than a run with these values of NAMES.

    A checkpoint without a record of them is compared by its steps per epoch. checkpoint: a whole one.
    """
    before = json.loads((checkpoint / SEAL).read_text(encoding="utf-8")).get(RUN)
    state = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
    step, epoch = state["global_step"], state.get("epoch")
    per_epoch = now["examples"] / now["examples_per_step"]
    if isinstance(before, dict):
        different = [name for name in NAMES if name in before and before[name] != now[name]]
        if epoch == int(epoch or 0):  # the next epoch may have another order
            different = [name for name in different if name not in ("order_seed", "sampling")]
        differ = "; ".join(f"{NAMES[name]}: {before[name]} when it was written, {now[name]} now" for name in different)
    else:
        same = not epoch or abs(step / epoch - per_epoch) <= 1
        differ = "" if same else f"steps per epoch: {step / epoch:.0f} when it was written, {per_epoch:.0f} now"
    if differ:
        raise ConfigError(
            f"{checkpoint} has taken {step:,} steps, and the run cannot continue after the same examples with other "
            f"settings. {differ}. Resume with what the run began with, or train without resuming."
        )


def _digest_of(content: JsonView) -> str:
    return xxhash.xxh3_128_hexdigest(json.dumps(content, sort_keys=True).encode())


def _other_bytes(checkpoint: Path, listed: Mapping[str, int], hashed: Mapping[str, str]) -> str | None:
    """Which file has other bytes than those that were sealed."""
    if hashed.keys() != listed.keys():
        return f"its {SEAL} cannot be read"
    found = digests(checkpoint, listed)
    wrong = [name for name in listed if found[name] != hashed[name]]
    return f"{wrong[0]} has other bytes than were written" if wrong else None


def _unreadable(checkpoint: Path, names: Iterable[str]) -> str | None:
    """Which file cannot be opened, of a seal without digests; weights of the right size with wrong bytes pass."""
    for name in names:
        path = checkpoint / name
        try:
            if path.suffix == ".json":
                json.loads(path.read_text(encoding="utf-8"))
            elif path.suffix == ".safetensors":
                with safe_open(path, framework="pt"):  # reads and checks the header
                    pass
            elif path.suffix in (".pt", ".pth", ".bin"):  # torch's archives carry a CRC-32 of each record
                with zipfile.ZipFile(path) as archive:
                    if archive.testzip() is not None:
                        return f"{name} is damaged"
        except (ValueError, RecursionError, SafetensorError, zipfile.BadZipFile, RuntimeError, EOFError) as error:
            return f"{name} cannot be read ({error})"
    log.warning("%s was sealed without digests: the bytes of its weights are not checked.", checkpoint)
    return None


def _checkpoints(run: str | Path) -> list[Path]:
    return [p for p in Path(run).glob("checkpoint-*") if p.is_dir() and re.fullmatch(r"checkpoint-\d+", p.name)]


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def _sizes(checkpoint: Path) -> dict[str, int]:
    files = (p for p in sorted(checkpoint.rglob("*")) if p.is_file() and not p.name.startswith(SEAL))
    return {p.relative_to(checkpoint).as_posix(): p.stat().st_size for p in files}
