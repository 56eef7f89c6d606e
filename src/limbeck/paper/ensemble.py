"""Section 4: ten nets know more than one, and one student can learn it from them."""

import numpy as np

import limbeck
from limbeck.paper.lab import ON_LABELS, Lab, row
from limbeck.results import Json

MEMBERS = 10
DISTILLED = limbeck.Objective(temperature=2.0, hard_weight=0.5)  # the paper's choices, relative weight included


def run(lab: Lab) -> Json:
    """Errors of one net, of ten, and of students of the ten; the share of the ten's gain that reaches a student."""
    nets = [lab.fit(f"member-{s}", lab.small, ON_LABELS, seed=100 + s) for s in range(MEMBERS)]
    alone = row("one net, the mean of ten", [lab.right(net) for net in nets], paper="58.9 % frames right")
    rows = [alone]
    share = {}
    for mean in ("arithmetic", "geometric"):
        ensemble = limbeck.Ensemble(nets, mean=mean)
        recorded = limbeck.record(ensemble, lab.train)
        students = [lab.fit(f"{mean}-{s}", lab.small, DISTILLED, teacher=recorded, seed=s) for s in range(lab.seeds)]
        ten = row(f"ten nets, {mean} mean", [lab.right(ensemble)], paper="61.1 % frames right")
        learned = row(f"one student of the ten, {mean} mean", [lab.right(s) for s in students], "60.8 % frames right")
        gain = alone["errors"]["mean"] - ten["errors"]["mean"]
        share[mean] = (alone["errors"]["mean"] - learned["errors"]["mean"]) / gain if gain > 0 else None
        rows += [ten, learned]
    gains = [s for s in share.values() if s is not None]
    return lab.write("ensemble", rows, share_of_gain=share, paper_share=0.86, mean_share=float(np.mean(gains or [0.0])))
