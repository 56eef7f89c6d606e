"""The methods of transformers' Trainer that DistillTrainer depends on are those that its module's docstring lists."""

import inspect
import re
from types import FunctionType

from transformers import Trainer

from limbeck.training import checkpointed, trainer
from limbeck.training.checkpointed import CheckpointedTrainer
from limbeck.training.trainer import DistillTrainer

HEADINGS = {
    "public": "Public methods of Trainer that are overridden:",
    "private": "Private methods of Trainer that are overridden",
    "called": "Private methods of Trainer that are called as they are:",
}


def listed(heading: str) -> set[str]:
    """The names in the indented list after a heading; each has a reason beside it."""
    lines = iter((trainer.__doc__ or "").splitlines())
    next(line for line in lines if line.startswith(heading))
    names = set()
    for line in lines:
        if line.startswith("    ") and (entry := re.match(r" {4}(\w+) +\w", line)):
            names.add(entry[1])
        elif names and not line.startswith(" "):
            break
    return names


def defined() -> set[str]:
    both = vars(CheckpointedTrainer) | vars(DistillTrainer)
    return {name for name, value in both.items() if isinstance(value, FunctionType)} - {"__init__"}


def test_every_overridden_method_is_listed_with_its_reason() -> None:
    overridden = {name for name in defined() if hasattr(Trainer, name)}
    assert listed(HEADINGS["private"]) == {name for name in overridden if name.startswith("_")}
    assert listed(HEADINGS["public"]) == {name for name in overridden if not name.startswith("_")}


def test_every_private_method_that_is_called_is_listed() -> None:
    called = set(re.findall(r"\bself\.(_[a-z]\w*)\(", inspect.getsource(trainer) + inspect.getsource(checkpointed)))
    assert listed(HEADINGS["called"]) == {name for name in called - defined() if hasattr(Trainer, name)}
