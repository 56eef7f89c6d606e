"""The seal of a model's folder: a small JSON file with the size and the XXH3-128 of each file that `load` reads.

A model is sealed when it is saved; before it is loaded, each byte is compared. Folders without a seal, such as those
of transformers or of older versions, are not checked. Tokenizers are not sealed: users may edit them.

What this file does not know: what the files hold.
"""

import json
from pathlib import Path
from typing import Any

from limbeck.errors import ModelError
from limbeck.files import DIGEST, digests

SEAL = "limbeck_model.json"

PATTERNS = (
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "table_encoder.json",
    "task.json",
    "adapter_config.json",
    "*.safetensors",
    "*.safetensors.index.json",
)
"""The files that decide what `load` returns."""


def seal(folder: Path) -> None:
    """Seals the model in a folder, once its files are written; an older seal there is replaced."""
    sizes = {name: (folder / name).stat().st_size for name in _found(folder)}
    content = {"files": sizes, DIGEST: digests(folder, sizes)}
    (folder / SEAL).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def require_as_sealed(folder: Path) -> None:
    """ModelError where a file of a sealed model is gone, was added, or has other bytes; nothing without a seal."""
    if not (folder / SEAL).exists():
        return
    sizes, hashed = _read(folder / SEAL)
    found = _found(folder)
    for name, size in sizes.items():
        if name not in found:
            _refuse(folder, f"{folder / name} is missing")
        if (there := (folder / name).stat().st_size) != size:
            _refuse(folder, f"{folder / name} has {there:,} bytes instead of {size:,}")
    if added := sorted(set(found) - set(sizes)):
        _refuse(folder, f"{folder / added[0]} was added after the model was saved")
    try:
        now = digests(folder, sizes)
    except OSError as error:
        raise ModelError(f"{folder} cannot be read: {error}.") from error
    for name, value in now.items():
        if value != hashed[name]:
            _refuse(folder, f"{folder / name} has other bytes than were saved")


def _refuse(folder: Path, what: str) -> None:
    raise ModelError(
        f"{what}. Restore the files as they were saved, or save the model again. If the change was intended, delete "
        f"{folder / SEAL}: the model then loads without this check."
    )


def _read(path: Path) -> tuple[dict[str, int], dict[str, str]]:
    """The sizes and the digests of a seal, by the name of the file."""
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        sizes, hashed = content["files"], content[DIGEST]
        sound = sizes.keys() == hashed.keys() and all(
            type(size) is int and isinstance(hashed[name], str) for name, size in sizes.items()
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OSError) as error:
        raise ModelError(f"{path} cannot be read, so the model cannot be checked: {error!r}.") from error
    if not sound:
        raise ModelError(f"{path} is damaged, so the model cannot be checked: it must list a size and a hash per file.")
    return sizes, hashed


def _found(folder: Path) -> list[str]:
    return sorted({path.name for pattern in PATTERNS for path in folder.glob(pattern) if path.is_file()})
