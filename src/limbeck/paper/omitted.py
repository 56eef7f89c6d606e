"""Section 3: classes that the student never sees, and the correction of its predictions by a prior.

Two transfer sets: one without any 3, one of 7s and 8s alone. The biases of the classes are then shifted, once as the
paper did, by the offset with the fewest errors on the test set, and once without any label: so that the mean
prediction on held-out, unlabelled training images is the teacher's mean prediction there.
"""

import numpy as np
import torch
from torch import Tensor

import limbeck
from limbeck import match_prior
from limbeck.paper.lab import Lab, right, row
from limbeck.results import Json

BOTH = limbeck.Objective(temperature=20.0, hard_weight=0.1)
SECTIONS = (
    # classes the student sees, classes that the paper shifted, and the paper's errors: as trained, after its shift
    ("no 3s", [c for c in range(10) if c != 3], [3], 206, 109),
    ("7s and 8s alone", [7, 8], [7, 8], 4730, 1320),
)


def run(lab: Lab) -> Json:
    """Errors in all, and on the omitted 3s, as trained and after both corrections."""
    seen, held_out = lab.train.split(1 / 6, seed=0)
    teacher = lab.teacher()
    prior = limbeck.record(teacher, held_out).targets.all_log_probs(1.0).exp().mean(0)
    rows, offsets = [], {}
    for name, classes, shifted, paper, paper_after in SECTIONS:
        transfer_set = seen.select(torch.isin(seen.labels, torch.tensor(classes)))
        recorded = limbeck.record(teacher, transfer_set)
        tag = name.replace(" ", "-")
        nets = [
            lab.fit(f"{tag}-{s}", lab.small, BOTH, teacher=recorded, transfer_set=transfer_set, seed=s)
            for s in range(lab.seeds)
        ]
        logits = [lab.logits(net) for net in nets]
        missing = [c for c in range(lab.classes) if c not in classes]
        free = [match_prior(lab.logits(net, held_out), prior, missing) for net in nets]
        by_labels = [_best_on_test(z, lab.test.labels, shifted, lab.classes) for z in logits]
        offsets[name] = {"label_free": [o.tolist() for o in free], "test_labels": [o.tolist() for o in by_labels]}
        after = [z + o for z, o in zip(logits, free, strict=True)]
        after_by_labels = [z + o for z, o in zip(logits, by_labels, strict=True)]
        rows += [
            _row(f"{name}: as trained", logits, lab.test.labels, paper),
            _row(f"{name}: label-free prior correction", after, lab.test.labels),
            _row(
                f"{name}: offset chosen on the test labels, as the paper did",
                after_by_labels,
                lab.test.labels,
                paper_after,
            ),
        ]
    return lab.write("omitted", rows, offsets=offsets, prior=prior.tolist())


def _row(name: str, logits: list[Tensor], labels: Tensor, paper: int | None = None) -> Json:
    hits = [right(z, labels) for z in logits]
    threes = (labels == 3).numpy()
    return row(name, hits, paper, threes_right=float(np.mean([h[threes].mean() for h in hits])))


def _best_on_test(logits: Tensor, labels: Tensor, shifted: list[int], classes: int) -> Tensor:
    """The one offset for the shifted classes, in steps of 0.1, with the fewest errors on the test set."""
    best, fewest = torch.zeros(classes), len(labels) + 1
    for step in range(-150, 151):
        offset = torch.zeros(classes)
        offset[shifted] = step / 10
        errors = int(((logits + offset).argmax(-1) != labels).sum())
        if errors < fewest:
            best, fewest = offset, errors
    return best
