"""Verification of a stored set: that its files are as written, and that a teacher still gives the stored targets.

What this file does not know: how files are read, how targets are encoded.
"""

import torch
from torch import Tensor

from limbeck.errors import DataError
from limbeck.losses.targets import SoftTargets, is_partition
from limbeck.networks.positions import next_token_positions
from limbeck.store.asking import settle, this_process
from limbeck.store.folder import Folder, Location
from limbeck.store.manifest import NAME, NEXT_TOKENS
from limbeck.store.opened import Labelled, open_stored
from limbeck.store.reading import read_manifest
from limbeck.store.verifying import damage
from limbeck.teachers import BaseTeacher, as_teacher
from limbeck.teachers.protocol import TeacherLike

APART = 0.05
"""The largest accepted mean total variation between the stored targets and what the teacher gives now."""

POSITIONS = 256  # compared at a time, over all classes


def verify(path: Location, teacher: TeacherLike | None = None, *, rows: int = 32) -> list[str]:
    """Returns the problems of the stored set at `path`, one sentence each; an empty list where there are none.

    It checks every file's SHA-256, the numbers of rows and positions, that row ids are distinct, and that every target
    is a probability distribution. With a teacher, it also checks that the fingerprint is the stored one, and that on
    `rows` rows, spread evenly over the set, the teacher gives the stored targets: a mean total variation of at most
    0.05, which 8 bits stay well below. Samples and augmented views are not compared. The teacher runs on the device
    that `label` uses.

    path: a local folder, or a URL that fsspec opens. teacher: as for `label`, or None. rows: how many are compared.

    A manifest that was changed is the only problem that is returned, since nothing can be checked without it.
    DataError where there is no finished set.
    """
    folder = Folder(path)
    if folder.size(NAME) is None:
        read_manifest(folder)  # raises what it is instead
    try:
        manifest = read_manifest(folder)
    except DataError as error:
        return [str(error)]
    found = damage(folder, manifest)
    if teacher is None:
        return found
    teacher = as_teacher(teacher)
    if teacher.fingerprint() != manifest.teacher:
        found.append(f"{folder}: the teacher is another one: stored {manifest.teacher}, given {teacher.fingerprint()}.")
    if not found and manifest.augmentation is None:
        found += _differs_from_teacher(open_stored(path), teacher, rows)
    return found


def _differs_from_teacher(stored: Labelled, teacher: BaseTeacher, rows: int) -> list[str]:
    """A sentence where the teacher's answers are too far from the stored targets of these many rows."""
    device = settle(teacher, this_process().device)
    if stored.manifest.tokenizer is not None:
        teacher = teacher.cut(stored.manifest.classes)
    stored_teacher = stored.teacher.to(device)
    apart, compared = 0.0, 0
    for place in range(0, len(stored), max(1, len(stored) // rows)):
        batch = {name: values.to(device) for name, values in stored.__getitems__([place]).items()}
        targets = stored_teacher(batch)
        if not is_partition(targets):
            return []
        positions = next_token_positions(batch) if stored.manifest.positions_are == NEXT_TOKENS else None
        now = teacher(batch, positions).to(device)
        differs = _total_variation(targets, now, getattr(targets, "made_at", 1.0))
        apart, compared = apart + float(differs.sum()), compared + len(differs)
    if compared and apart / compared > APART:
        return [
            f"{stored.folder}: the teacher gives other targets than the stored ones: a total variation of "
            f"{apart / compared:.3f}, the mean of {compared} positions."
        ]
    return []


def _total_variation(stored: SoftTargets, given: SoftTargets, temperature: float) -> Tensor:
    """The total variation over the stored events, `[n]`, computed for a few positions at a time."""
    found = []
    for start in range(0, len(given), POSITIONS):
        now, before = given[start : start + POSITIONS], stored[start : start + POSITIONS]
        log_q, log_p = before.events(now.all_log_probs(temperature), temperature)
        found.append((log_q.exp() - log_p.exp()).abs().sum(-1) / 2)
    return torch.cat(found)
