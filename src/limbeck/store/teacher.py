"""A teacher whose targets are stored: they are columns of the batch.

What this file does not know: where batches come from, the objective.
"""

from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor

from limbeck.errors import ConfigError, DataError
from limbeck.losses.targets import Head, SoftTargets
from limbeck.networks.asking import TARGET_PREFIX, Batch
from limbeck.networks.positions import Positions
from limbeck.store.kinds import kind_of
from limbeck.store.manifest import Manifest, differences
from limbeck.teachers.protocol import Augment, BaseTeacher
from limbeck.transfer.text.vocabulary import template_hash, tokenizer_hash


class StoredTeacher(BaseTeacher):
    """A teacher that reads stored targets from the batch's columns `target_*`; `limbeck.open(path).teacher` is one.

    manifest: of the stored set. head: the teacher's output layer, where hidden states are stored.
    """

    in_batch = True

    def __init__(self, manifest: Manifest, head: Head | None = None):
        self.manifest, self.head = manifest, head
        self.kind = kind_of(manifest.kind)

    def __call__(self, batch: Batch, positions: Positions | None = None) -> SoftTargets:
        """The stored targets of the batch's examples, position by position."""
        missing = [name for name in self.manifest.targets if name not in batch]
        if missing:
            raise DataError(
                f"The batch has no {missing[0]!r}, only {sorted(batch)}: a stored teacher reads its targets "
                "from the batch; take batches from limbeck.open(path), or from a part of it."
            )
        columns: dict[str, Tensor] = {name.removeprefix(TARGET_PREFIX): batch[name] for name in self.manifest.targets}
        if any(column.ndim > 2 for column in columns.values()):
            raise DataError(
                f"These targets are of {self.manifest.views} augmented views ({self.manifest.augmentation}), which "
                "only training replays; evaluate, or tune, on a set that was stored without augmentation."
            )
        return self.kind.decode(columns, self.manifest.classes, self.head)

    @property
    def label_names(self) -> tuple[str, ...] | None:
        """The names of the classes, where they were stored."""
        return self.manifest.label_names

    @property
    def one_view(self) -> bool:
        """Whether the targets hold for the examples as they are, without augmentation."""
        return self.manifest.augmentation is None

    def fingerprint(self) -> str:
        """The fingerprint of the teacher that the targets came from."""
        return self.manifest.teacher

    def to(self, device: torch.device | str) -> Self:
        """Moves the output layer, if there is one; returns itself."""
        self.head = None if self.head is None else self.head.to(device)
        return self

    def cut(self, classes: int) -> BaseTeacher:
        """Itself where no more than the first `classes` were stored; otherwise its targets without the others."""
        return self if self.manifest.classes <= classes else super().cut(classes)

    def prepare(
        self, sets: Mapping[str, object], tokenizer: object, augment: Augment | None
    ) -> tuple[int | None, Augment | None]:
        """The number of classes that an output layer is cut to, and the augmentation that shows the stored views.

        sets: "transfer" and the evaluation sets, by name. Raises what the methods below raise.
        """
        for who, examples in sets.items():
            self.require_targets_in(who, examples)
        return self.classes_of(tokenizer), self.replayed(augment)

    def require_targets_in(self, who: str, examples: object) -> None:
        """DataError unless the targets of these examples are this teacher's."""
        theirs = getattr(examples, "manifest", None)
        if not isinstance(theirs, Manifest):
            raise DataError(
                f"The {who} set is a {type(examples).__name__} without stored targets, the only ones that this "
                "teacher has; use limbeck.open(path), a part of it (split), or another stored set of the same teacher."
            )
        same = ["teacher", "kind", "classes", "tokenizer"]
        if who == "transfer":  # others are read as they are
            same += ["augmentation", "augmentation_seed", "views"]
        mine, others = ({name: getattr(of, name) for name in same} for of in (self.manifest, theirs))
        if different := differences(mine, others):
            raise DataError(
                f"The {who} set {getattr(examples, 'folder', '')} has other settings than this teacher's set:\n"
                + "\n".join(different)
            )

    def classes_of(self, tokenizer: object) -> int | None:
        """The number of classes that an output layer is cut to; None where the targets were stored without a tokenizer.

        DataError, field by field, where `tokenizer` is not the one that the targets were stored with.
        """
        if tokenizer is None or self.manifest.tokenizer is None:
            return None
        stored = {"tokenizer": self.manifest.tokenizer, "chat_template": self.manifest.chat_template}
        given = {"tokenizer": tokenizer_hash(tokenizer), "chat_template": template_hash(tokenizer)}
        if different := differences(stored, given):
            raise DataError(
                "The stored targets were made with another tokenizer than the student's; pass that one (--tokenizer; "
                "in Python processing_class=), or label again. They differ in:\n" + "\n".join(different)
            )
        return self.manifest.classes

    def replayed(self, augment: Augment | None) -> Augment | None:
        """An augmentation that shows in every epoch a stored view together with its targets.

        ConfigError where `augment` is not the one that the views were stored with.
        """
        stored, seed = self.manifest.augmentation, self.manifest.augmentation_seed
        if stored is None:
            return augment  # the trainer refuses one, since the targets hold for one view only
        if repr(augment) != stored or getattr(augment, "seed", None) != seed:
            raise ConfigError(
                f"The stored targets are of views made by {stored} with seed {seed}, but training has "
                f"{'no augmentation' if augment is None else f'{augment!r}'}; pass the same one (--jitter; in Python "
                "augment=)."
            )
        return _Replay(augment, self.manifest)


class _Replay:
    """`(batch, epoch) -> batch`: epoch e shows view e modulo the number of views, and its targets."""

    def __init__(self, augment: Any, manifest: Manifest):
        self.augment, self.manifest = augment, manifest

    def __call__(self, batch: Batch, epoch: int) -> Batch:
        view = epoch % self.manifest.views
        targets = {name: batch[name][:, view] for name in self.manifest.targets}
        return {**self.augment(batch, view), **targets}

    def __repr__(self) -> str:
        return f"{self.augment!r}, replaying {self.manifest.views} stored views"
