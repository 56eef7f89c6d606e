"""A teacher that runs once on every row of a transfer set, and its targets looked up from then on.

The answers belong to the rows as they are, without augmentation: the trainer refuses to mix the two.
What this file does not know: files (that is the store), the objective.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from limbeck.errors import DataError
from limbeck.losses.targets import SoftTargets, concatenate
from limbeck.networks.asking import Batch, Examples, device_of, is_placed, networks_of
from limbeck.networks.outputs import Task, settle_task
from limbeck.networks.positions import Positions
from limbeck.teachers.conversion import as_teacher
from limbeck.teachers.protocol import BaseTeacher, TeacherLike, models_of


def record(
    teacher: TeacherLike, transfer_set: Examples | Sequence[Examples], batch_size: int = 512
) -> "RecordedTeacher":
    """Runs `teacher` on each row of `transfer_set` and returns a teacher that looks its targets up.

    transfer_set: a set, or a list of sets, such as the training examples and those that are held out.

    One pass of the teacher then serves any number of students, temperatures and divergences. Rows are told apart by
    their ids: parts of one set have distinct ids, but two sets made by `arrays` both count from 0, and are
    refused together (DataError).
    """
    teacher = as_teacher(teacher)
    sets = transfer_set if isinstance(transfer_set, Sequence) else [transfer_set]
    if sets:
        settle_task(models_of(teacher), sets[0])
    networks = [network for network in networks_of(teacher) or [] if not is_placed(network)]
    device = next(filter(None, map(device_of, networks)), torch.device("cpu"))
    targets, ids = [], []
    each: set[float] = set()
    for rows in sets:
        for start in range(0, len(rows), batch_size):
            batch = rows.__getitems__(list(range(start, min(start + batch_size, len(rows)))))
            moved = {name: values.to(device) for name, values in batch.items()}
            answers = teacher(moved).to("cpu")
            each.add(len(answers) / len(batch["row_id"]))
            if len(each) > 1 or not all(ratio.is_integer() for ratio in each):
                raise DataError(
                    f"record needs as many distributions of each example, but the teacher gave {len(answers)} for "
                    f"{len(batch['row_id'])} examples after others; train with the teacher itself."
                )
            targets.append(answers)
            ids.append(batch["row_id"].cpu())
    return RecordedTeacher(concatenate(targets), torch.cat(ids), teacher)


class RecordedTeacher(BaseTeacher):
    """A teacher's targets for the rows `row_ids [n]`, looked up by `batch["row_id"]`.

    targets: of all the rows, in the order of `row_ids`; as many of each row, such as one for each of its labels.
    teacher: the teacher that gave them, as `as_teacher` takes it; it gives its fingerprint and label names only.
    """

    one_view = True  # its answers hold for the rows as they were read, without augmentation

    def __init__(self, targets: SoftTargets, row_ids: Tensor, teacher: TeacherLike):
        self.targets = targets
        self.teacher = as_teacher(teacher)
        self._ids, self._places = row_ids.sort()
        twice = self._ids[1:][self._ids[1:] == self._ids[:-1]]
        if len(twice):
            raise DataError(
                f"A teacher was recorded on two rows with the row_id {int(twice[0])}, and could not tell them apart; "
                "give the sets distinct row_ids, or split them from one set."
            )

    def __call__(self, batch: Batch, positions: Positions | None = None) -> SoftTargets:
        """The recorded targets of the batch's rows."""
        row_ids = batch["row_id"]
        ids = row_ids.cpu()
        found = torch.searchsorted(self._ids, ids).clamp(max=len(self._ids) - 1)
        unknown = self._ids[found] != ids
        if unknown.any():
            raise DataError(
                f"Row {int(ids[unknown][0])} was not in the transfer set that this teacher was recorded on; record it "
                "on all the rows that the student is trained on."
            )
        each = len(self.targets) // len(self._ids)
        places = self._places[found][:, None] * each + torch.arange(each)
        return self.targets[places.flatten()].to(row_ids.device)

    @property
    def label_names(self) -> tuple[str, ...] | None:
        """The names of the classes in order, where the teacher has them."""
        return self.teacher.label_names

    @property
    def task(self) -> Task | None:
        """What the recorded answers mean, where the teacher that gave them knows."""
        return self.teacher.task

    @property
    def networks(self) -> list[nn.Module] | None:
        """The networks of the teacher that gave the recorded answers."""
        return self.teacher.networks

    @property
    def live(self) -> BaseTeacher:
        """The teacher that gave the recorded answers."""
        return self.teacher

    def close(self) -> None:
        """Closes the teacher that gave the recorded answers."""
        self.teacher.close()

    def fingerprint(self) -> str:
        """The fingerprint of the teacher that gave the recorded answers."""
        return self.teacher.fingerprint()
