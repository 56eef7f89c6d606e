"""Section 5: a generalist, specialists for classes that it confuses, and what the paper left open.

Clusters come from the covariance of the generalist's predictions, no labels needed. A specialist starts from the
generalist's weights, tells its cluster's classes apart and counts the others as one; it is trained on its own classes
and on as many examples of the others, and its dustbin's logit is corrected for that. Eq. 5 combines them all.

The paper proposed and did not run: specialists over all classes, regularised by the generalist's soft targets
outside their classes (6.1), and distilling all of them back into one net (8). Both are run here.
"""

import copy
import math
from functools import partial
from typing import Any

import numpy as np
import torch
from sklearn.cluster import MiniBatchKMeans
from torch import Tensor, nn

import limbeck
from limbeck import FunctionTeacher, Specialist, Specialists, TransferSet, shift_bias
from limbeck.paper.lab import ON_LABELS, Lab, Recipe, row
from limbeck.results import Json

REGULARISED = limbeck.Objective(temperature=1.0, soft_weight=1.0, hard_weight=1.0)
DISTILLED = limbeck.Objective(temperature=2.0, hard_weight=0.5)


def run(lab: Lab, clusters: int = 3) -> Json:
    """Errors of the generalist, with specialists, with full-class specialists, and distilled back into one net."""
    generalist = lab.fit("generalist", lab.small, ON_LABELS)
    recorded = limbeck.record(generalist, lab.train)
    groups = cluster(recorded.targets.all_log_probs(1.0).exp(), clusters)
    experts, full = [], []
    recipe = Recipe(lab.budget.student_epochs / 5, config={"learning_rate": lab.budget.student_rate / 3})
    labels: Tensor = lab.train.labels
    for m, group in enumerate(groups):
        special = torch.isin(labels, torch.tensor(group))
        half_rows = _half_and_half(special, seed=m)
        half = lab.train.select(half_rows)
        with_dustbin = _with_dustbin(half, labels[half_rows], group)
        expert = lab.fit(
            f"specialist-{m}",
            partial(specialist_of, generalist, group),
            ON_LABELS,
            transfer_set=with_dustbin,
            seed=m,
            recipe=recipe,
        )
        natural = float(special.float().mean())
        corrected = copy.deepcopy(expert)
        offset = torch.zeros(len(group) + 1)
        offset[-1] = math.log((1 - natural) / natural)  # undoes the share of a half
        experts.append(Specialist(shift_bias(corrected, offset), tuple(group)))
        hard_where_special = half.without_labels(
            except_rows=torch.isin(labels[half_rows], torch.tensor(group)).nonzero().squeeze(1)
        )
        full.append(
            lab.fit(
                f"full-specialist-{m}",
                lambda: copy.deepcopy(generalist).requires_grad_(True),
                REGULARISED,
                teacher=recorded,
                transfer_set=hard_where_special,
                seed=m,
                recipe=recipe,
            )
        )
    together = Specialists(generalist, experts)
    together_full = FunctionTeacher(lambda batch: _mean_with_active(generalist, full, together, batch))
    back = limbeck.record(together, lab.train)
    seeds = range(lab.seeds)
    students = [lab.fit(f"from-specialists-{s}", lab.small, DISTILLED, teacher=back, seed=s) for s in seeds]
    alone = [lab.fit(f"hard-{s}", lab.small, ON_LABELS, seed=s) for s in seeds]
    return lab.write(
        "specialists",
        [
            row("generalist", [lab.right(generalist)], paper="25.0 % right"),
            row("with specialists, Eq. 5", [lab.right(together)], paper="26.1 % right"),
            row("with full-class specialists (6.1)", [lab.right(together_full)], paper="proposed"),
            row("distilled back into one net (8)", [lab.right(net) for net in students], paper="proposed"),
            row("one net, hard labels", [lab.right(net) for net in alone]),
        ],
        clusters=groups,
        conditional={str(g): _conditional(lab, generalist, e, g) for g, e in zip(groups, experts, strict=True)},
    )


def cluster(probs: Tensor, clusters: int) -> list[list[int]]:
    """Groups of classes that are predicted together: K-means on the columns of the covariance of `probs [n, C]`."""
    covariance = np.cov(probs.double().numpy(), rowvar=False)
    of_class = MiniBatchKMeans(clusters, random_state=0, n_init=10).fit_predict(covariance.T)
    return [np.flatnonzero(of_class == c).tolist() for c in range(clusters) if (of_class == c).any()]


def specialist_of(generalist: Any, group: list[int]) -> nn.Module:
    """The generalist with an output per class of the group and one for the dustbin, not yet trained.

    The dustbin starts as the mean of the outputs that it stands for, plus the log of their number.
    """
    settings = dict(generalist.settings)
    settings["sizes"] = [*settings["sizes"][:-1], len(group) + 1]
    net = limbeck.mlp(**settings)
    weights = generalist.state_dict()
    *_, output_weight, output_bias = weights
    rest = [c for c in range(len(weights[output_bias])) if c not in group]
    for name, extra in ((output_weight, 0.0), (output_bias, math.log(max(1, len(rest))))):
        rows = weights[name]
        weights[name] = torch.cat([rows[group], rows[rest].mean(0, keepdim=True) + extra])
    net.load_state_dict(weights)
    return net


def _half_and_half(is_special: Tensor, seed: int) -> Tensor:
    """The indices of the special examples, then of as many others, drawn at random."""
    special, rest = is_special.nonzero().squeeze(1), (~is_special).nonzero().squeeze(1)
    drawn = rest[torch.randperm(len(rest), generator=torch.Generator().manual_seed(seed))[: len(special)]]
    return torch.cat([special, drawn])


def _with_dustbin(examples: TransferSet, labels: Tensor, group: list[int]) -> TransferSet:
    """The same examples, with the index in the group as label; len(group) is the dustbin."""
    place = torch.full((examples.num_classes or 0,), len(group))
    place[group] = torch.arange(len(group))
    inputs = examples.__getitems__(list(range(len(examples))))["inputs"]
    return TransferSet({"inputs": inputs}, place[labels], num_classes=len(group) + 1, row_ids=examples.row_ids)


def _mean_with_active(generalist: Any, full: list[Any], who: Specialists, batch: Any) -> Tensor:
    """log of the arithmetic mean of generalist and active full-class specialists: Eq. 5 without dustbins."""
    general = generalist(batch["inputs"]).log_softmax(-1)
    active = who.active(general).float()  # [n, M]
    special = torch.stack([net(batch["inputs"]).softmax(-1) for net in full], 1)  # [n, M, C]
    total: Tensor = general.exp() + (active.unsqueeze(-1) * special).sum(1)
    return (total / (1 + active.sum(1, keepdim=True))).log()


def _conditional(lab: Lab, generalist: nn.Module, expert: Specialist, group: list[int]) -> dict[str, float]:
    """Accuracy among a group's classes on its own test examples, the other classes not counted."""
    special = torch.isin(lab.test.labels, torch.tensor(group))
    labels = lab.test.labels[special]
    classes = torch.tensor(group)
    general = classes[lab.logits(generalist)[special][:, group].argmax(-1)]
    expert_classes = classes[lab.logits(expert.model)[special][:, :-1].argmax(-1)]
    return {
        "generalist": float((general == labels).float().mean()),
        "specialist": float((expert_classes == labels).float().mean()),
    }
