"""Whether a labelled transfer set is what was written, and whether a teacher still says what it said.

What this file does not know: how files are read, how targets are encoded.
"""

from typing import Any

import torch
from torch import Tensor

from limbeck.losses.targets import SoftTargets, is_partition
from limbeck.networks.positions import next_token_positions
from limbeck.store.asking import settle, this_process
from limbeck.store.folder import Folder
from limbeck.store.manifest import NEXT_TOKENS
from limbeck.store.opened import Labelled, open_stored
from limbeck.store.reading import read_manifest
from limbeck.store.verifying import damage
from limbeck.teachers import BaseTeacher, as_teacher

APART = 0.05
"""The most total variation, the mean of a few rows, between what is kept and what the teacher says now."""

POSITIONS = 256  # compared at once, over all classes


def verify(path: Any, teacher: Any = None, *, rows: int = 32) -> list[str]:
    """What is wrong with the labelled transfer set at `path`, a sentence each; none where nothing is.

    Every file's SHA-256, how many rows and positions there are, that ids are distinct, and that every target is a
    distribution. With a teacher: that its fingerprint is the stored one, and for `rows` rows, evenly through the set,
    that it says what is kept: a mean total variation of at most 0.05, which 8 bits stay well below. Samples and
    augmented views are not compared. The teacher is asked where `label` asks it: on the process's own device.

    DataError where there is no finished set, or its manifest was changed.
    """
    folder = Folder(path)
    manifest = read_manifest(folder)
    found = damage(folder, manifest)
    if teacher is None:
        return found
    teacher = as_teacher(teacher)
    if teacher.fingerprint() != manifest.teacher:
        found.append(f"{folder}: the teacher is another: stored {manifest.teacher}, given {teacher.fingerprint()}.")
    if not found and manifest.augmentation is None:
        found += _said_otherwise(open_stored(path), teacher, rows)
    return found


def _said_otherwise(labelled: Labelled, teacher: BaseTeacher, rows: int) -> list[str]:
    device = settle(teacher, this_process().device)
    if labelled.manifest.tokenizer is not None:
        teacher = teacher.cut(labelled.manifest.classes)
    stored = labelled.teacher.to(device)
    apart, compared = 0.0, 0
    for place in range(0, len(labelled), max(1, len(labelled) // rows)):
        batch = {name: values.to(device) for name, values in labelled.__getitems__([place]).items()}
        kept = stored(batch)
        if not is_partition(kept):
            return []
        positions = next_token_positions(batch) if labelled.manifest.positions_are == NEXT_TOKENS else None
        now = teacher(batch, positions).to(device)
        differs = _total_variation(kept, now, getattr(kept, "made_at", 1.0))
        apart, compared = apart + float(differs.sum()), compared + len(differs)
    if compared and apart / compared > APART:
        return [
            f"{labelled.folder}: the teacher says something else than is kept: a total variation of "
            f"{apart / compared:.3f}, the mean of {compared} positions."
        ]
    return []


def _total_variation(kept: SoftTargets, said: SoftTargets, temperature: float) -> Tensor:
    """`[n]`, over the events that are kept; some positions at a time."""
    found = []
    for start in range(0, len(said), POSITIONS):
        now, before = said[start : start + POSITIONS], kept[start : start + POSITIONS]
        log_q, log_p = before.events(now.all_log_probs(temperature), temperature)
        found.append((log_q.exp() - log_p.exp()).abs().sum(-1) / 2)
    return torch.cat(found)
