"""Section 2.1: at high temperatures distillation is logit matching.

The gradient of the soft objective, Eq. 2, `(q_i - p_i) / T`, against its limit, Eq. 4, `(z_i - v_i) / (N T^2)` with
zero-meaned logits, on the logits of a real teacher and student; and the same student trained both ways.
"""

import numpy as np
from torch import Tensor

import limbeck
from limbeck.paper.lab import ON_LABELS, Lab, row
from limbeck.paper.plots import plot_limit
from limbeck.results import Json

HIGH = 100.0


def run(lab: Lab) -> Json:
    """The relative error of Eq. 4 over T with its slope, and what the two students have in common."""
    teacher = lab.fit("teacher-small", lambda: lab.net(100, 100), ON_LABELS)
    recorded = limbeck.record(teacher, lab.train)
    soft = limbeck.Objective(limbeck.forward_kl, temperature=HIGH)
    match = limbeck.Objective(limbeck.logit_matching, temperature=HIGH)
    seeds = range(lab.seeds)
    softened = [lab.fit(f"soft-T100-{s}", lab.small, soft, teacher=recorded, seed=s) for s in seeds]
    matched = [lab.fit(f"matched-{s}", lab.small, match, teacher=recorded, seed=s) for s in seeds]
    z, v = lab.logits(softened[0]).double(), lab.logits(teacher).double()
    temperatures = np.geomspace(1, 1000, 31)
    errors = [relative_error(z, v, float(t)) for t in temperatures]
    high = temperatures >= 30
    slope = float(np.polyfit(np.log(temperatures[high]), np.log(np.array(errors)[high]), 1)[0])
    plot_limit(lab.results_of("limit") / "limit.png", temperatures, errors, slope)
    pairs = [(lab.logits(a), lab.logits(b)) for a, b in zip(softened, matched, strict=True)]
    return lab.write(
        "limit",
        [
            row("teacher", [lab.right(teacher)]),
            row(f"student, soft targets at T = {HIGH:g}", [lab.right(net) for net in softened]),
            row("student, logit matching", [lab.right(net) for net in matched]),
        ],
        curve=[{"temperature": float(t), "relative_error": e} for t, e in zip(temperatures, errors, strict=True)],
        slope=slope,
        agreement=float(np.mean([(a.argmax(-1) == b.argmax(-1)).float().mean() for a, b in pairs])),
        logit_difference=float(np.mean([_distance(a, b) for a, b in pairs])),
    )


def relative_error(z: Tensor, v: Tensor, temperature: float) -> float:
    """|Eq. 2 - Eq. 4| / |Eq. 2|, norms over all cases and classes; z and v `[n, N]` are student's and teacher's logits.

    O(1/T) for three classes or more, O(1/T^2) for two.
    """
    q = (z / temperature).softmax(-1)
    p = (v / temperature).softmax(-1)
    exact = (q - p) / temperature
    centred = (z - z.mean(-1, keepdim=True)) - (v - v.mean(-1, keepdim=True))
    limit = centred / (z.shape[-1] * temperature**2)
    return float((exact - limit).norm() / exact.norm())


def _distance(a: Tensor, b: Tensor) -> float:
    """Root mean square of the difference of zero-meaned logits, relative to that of the first."""
    a, b = (x - x.mean(-1, keepdim=True) for x in (a, b))
    return float((a - b).norm() / a.norm())
