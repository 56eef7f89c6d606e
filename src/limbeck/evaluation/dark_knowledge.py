"""Dark knowledge: the probabilities that a teacher gives to classes it does not choose, over the temperature.

    knowledge = DarkKnowledge()
    knowledge.add(log_p, log_q, labels)        # batch by batch
    means_of([knowledge.sums])                 # results["dark_knowledge"]

With p = softmax(log_p / T) the teacher's targets, q = softmax(log_q / T) the student, the gradients of the two terms at
the student's logits are T^2 (1/T) (q - p) for forward KL and cross-entropy (arXiv 1503.02531, Eq. 2, times T^2) and
q - [is the label] at T = 1 for the labels. A student that knows nothing yet has q = 1/C.

What this file does not know: models, batches, the temperature that a student was trained at.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from limbeck.losses.numbers import NO_LABEL
from limbeck.results import Json

TEMPERATURES = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 8.0, 10.0, 20.0)
LIKELIEST = 10
"""For how many classes the mean target is written where there are too many to write all."""


OVER_T = ("entropy", "off_top", "evenness", "student_soft", "untrained_soft")


class DarkKnowledge:
    """Sums over examples, float64; K temperatures, C classes.

    count `[C]`: examples whose most probable class, by the teacher, it is. targets `[K, C, C]`: of those, the sum of
    the targets. entropy, off_top, evenness `[K]`: nats; 1 minus the largest probability; the entropy of the other
    classes among themselves over log(C - 1). student_soft, untrained_soft `[K]` and student_hard, untrained_hard:
    norms of the gradients; the hard ones are of the labelled examples.
    """

    def __init__(self) -> None:
        self.sums: dict[str, np.ndarray] = {}

    def add(self, log_p: Tensor, log_q: Tensor, labels: Tensor) -> None:
        """log_p, log_q `[n, C]`: of teacher and student at T = 1. labels `[n]`: -100 is no label."""
        classes = log_p.shape[-1]
        if not self.sums:
            self.sums = _zeros(classes)
        top = log_p.argmax(-1)
        rows, found = top.cpu(), []
        for k, temperature in enumerate(TEMPERATURES):
            p = (log_p / temperature).softmax(-1)
            off = p.scatter(-1, top[:, None], 0.0)  # [n, C]
            off_top = off.sum(-1)
            among = torch.special.entr(off / off_top.clamp(min=1e-30)[:, None]).sum(-1)
            values = (
                torch.special.entr(p).sum(-1),
                off_top,
                among / math.log(max(classes - 1, 2)),
                temperature * ((log_q / temperature).softmax(-1) - p).norm(dim=-1),
                temperature * (1 / classes - p).norm(dim=-1),
            )
            found.append(torch.stack(values).sum(-1))
            # a few rows of [C, C] are touched in place, and never all of it
            torch.from_numpy(self.sums["targets"][k]).index_add_(0, rows, p.cpu().double())
        for name, sums in zip(OVER_T, torch.stack(found, 1).cpu().double().numpy(), strict=True):
            self.sums[name] += sums
        with_label = labels != NO_LABEL
        q, right = log_q[with_label].softmax(-1), labels[with_label][:, None]
        hard = (q - torch.zeros_like(q).scatter_(-1, right, 1.0)).norm(dim=-1).sum()
        self.sums["student_hard"] += float(hard)
        self.sums["untrained_hard"] += len(q) * math.sqrt(1 - 1 / classes)
        self.sums["labelled"] += len(q)
        self.sums["count"] += np.bincount(rows.numpy(), minlength=classes)


def means_of(parts: Sequence[Mapping[str, np.ndarray]], most_drawn: int) -> Json:
    """The means of all parts together (docs/results.md); in full for up to `most_drawn` classes."""
    total = _total(parts)
    count, labelled = total["count"], float(total["labelled"])
    examples = count.sum()
    with np.errstate(invalid="ignore"):
        targets = total["targets"] / count[:, None]  # [K, C, C]; nan where the teacher never predicts the class
    classes = len(count)
    listed: Json = {"mean_targets": None, "likeliest": None}
    if classes <= most_drawn:
        listed["mean_targets"] = np.round(targets, 6)
    else:
        likeliest = np.argsort(-targets, -1, kind="stable")[..., :LIKELIEST]
        listed["likeliest"] = {
            "classes": likeliest,
            "mean": np.round(np.take_along_axis(targets, likeliest, -1), 6),
        }
    return {
        "temperatures": list(TEMPERATURES),
        "entropy": total["entropy"] / examples,
        "off_top": total["off_top"] / examples,
        "evenness": total["evenness"] / examples if classes > 2 else None,
        "gradient": {
            who: {
                "soft": total[f"{who}_soft"] / examples,
                "hard": float(total[f"{who}_hard"]) / labelled if labelled else None,
            }
            for who in ("untrained", "student")
        },
        "count": count,
        **listed,
    }


def _total(parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.sum([part[name] for part in parts], 0) for name in parts[0]}


def _zeros(classes: int) -> dict[str, np.ndarray]:
    shapes: dict[str, tuple[int, ...]] = {name: (len(TEMPERATURES),) for name in OVER_T}
    shapes |= {"targets": (len(TEMPERATURES), classes, classes), "count": (classes,)}
    shapes |= dict.fromkeys(("student_hard", "untrained_hard", "labelled"), ())
    return {name: np.zeros(shape) for name, shape in shapes.items()}
