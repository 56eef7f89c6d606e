"""Section 3: a small net learns from a big one, on images that were never jittered for it."""

import limbeck
from limbeck.paper.lab import ON_LABELS, Lab, row
from limbeck.results import Json

BOTH = limbeck.Objective(temperature=20.0, hard_weight=0.1)
SOFT = limbeck.Objective(temperature=20.0)


def run(lab: Lab) -> Json:
    """Errors of the teacher, of the small net on labels, and of the small net with soft targets at T = 20."""
    teacher = lab.teacher()
    recorded = limbeck.record(teacher, lab.train)  # the transfer set has no translations: one pass serves all
    seeds = range(lab.seeds)
    hard = [lab.fit(f"hard-{s}", lab.small, ON_LABELS, seed=s) for s in seeds]
    both = [lab.fit(f"distilled-{s}", lab.small, BOTH, teacher=recorded, seed=s) for s in seeds]
    soft = [lab.fit(f"soft-{s}", lab.small, SOFT, teacher=recorded, seed=s) for s in seeds]
    judged = limbeck.evaluate(both, lab.test, baseline=hard, teacher=teacher, latency=False)
    return lab.write(
        "mnist",
        [
            row("teacher, jittered images, dropout, max-norm", [lab.right(teacher)], paper=67),
            row("small net, hard labels", [lab.right(net) for net in hard], paper=146),
            row("small net, hard labels and soft targets", [lab.right(net) for net in both], paper=74),
            row("small net, soft targets alone", [lab.right(net) for net in soft]),
        ],
        verdict=judged["verdict"],
    )
