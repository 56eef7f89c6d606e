"""Section 6: with 3 % of the data, soft targets keep a student from overfitting; labels alone do not."""

from typing import Any

from transformers import EarlyStoppingCallback

import limbeck
from limbeck.paper.lab import BATCH, ON_LABELS, Lab, Recipe, row
from limbeck.results import Json

SOFT = limbeck.Objective(temperature=2.0)
PAPER = {"all": "63.4 / 58.9 %", "hard": "67.3 / 44.5 %", "stopped": "67.3 / 44.5 %", "soft": "65.4 / 57.0 %"}


def run(lab: Lab) -> Json:
    """Accuracy on what was trained on and on the test set: all data, 3 % with labels, 3 % with soft targets."""
    share = 0.1 if lab.small_data else 0.03
    rest, few = lab.train.split(share, seed=0)
    _, watched = rest.split(1 / 6, seed=1)  # early stopping looks here, never at the test set
    full = lab.fit("all-hard", lab.small, ON_LABELS)
    recorded = limbeck.record(full, few)
    seeds = range(lab.seeds)
    every = max(1, len(lab.train) // BATCH // 4)
    watch = {
        "eval_strategy": "steps",
        "eval_steps": every,
        "save_strategy": "steps",
        "save_steps": every,
        "load_best_model_at_end": True,
        "metric_for_best_model": "loss",
        "greater_is_better": False,
    }
    hard = [lab.fit(f"few-hard-{s}", lab.small, ON_LABELS, transfer_set=few, seed=s) for s in seeds]
    stopped = []
    for s in seeds:
        recipe = Recipe(eval_dataset=watched, callbacks=[EarlyStoppingCallback(3)], config=watch)
        stopped.append(lab.fit(f"few-stopped-{s}", lab.small, ON_LABELS, transfer_set=few, seed=s, recipe=recipe))
    soft = [lab.fit(f"few-soft-{s}", lab.small, SOFT, teacher=recorded, transfer_set=few, seed=s) for s in seeds]

    def line(name: str, nets: list[Any], trained_on: Any, paper: str) -> Json:
        train = sum(float(lab.right(net, trained_on).mean()) for net in nets) / len(nets)
        test = [lab.right(net) for net in nets]
        return row(name, test, paper, train_right=train, test_right=sum(float(r.mean()) for r in test) / len(test))

    return lab.write(
        "regulariser",
        [
            line("all data, hard labels", [full], lab.train, PAPER["all"]),
            line(f"{share:.0%} of it, hard labels", hard, few, PAPER["hard"]),
            line(f"{share:.0%} of it, hard labels, early stopping", stopped, few, PAPER["stopped"]),
            line(f"{share:.0%} of it, soft targets at T = 2", soft, few, PAPER["soft"]),
        ],
    )
