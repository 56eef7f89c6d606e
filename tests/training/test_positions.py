"""The positions of a batch are found once: when they are counted, or when it is evaluated."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, TrainerCallback

from limbeck.losses.objective import Objective
from limbeck.networks import positions
from limbeck.networks.mlp import mlp
from limbeck.networks.positions import Positions, next_tokens
from limbeck.teachers import model as model_teacher
from limbeck.training.config import DistillConfig
from limbeck.training.trainer import DistillTrainer
from limbeck.transfer import arrays

BOTH = Objective(temperature=2.0, hard_weight=0.5)
STEPS, ACCUMULATION, SIZE = 3, 2, 2
N = STEPS * ACCUMULATION * SIZE


def language_model(seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    shape = {"vocab_size": 13, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    return LlamaForCausalLM(LlamaConfig(**shape, num_attention_heads=2, num_key_value_heads=2))


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return mlp([4, 5, 3])


TEXTS = [{"input_ids": [3, 4, 5, i], "labels": [-100, 4, 5, i]} for i in range(N)]
IMAGES = arrays(torch.randn(N, 4, generator=torch.Generator().manual_seed(0)), torch.arange(N) % 3)


class AfterTheCheck(TrainerCallback):
    """Empties a list when the steps begin."""

    def __init__(self, found: list[str]):
        self.found = found

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.found.clear()


@pytest.mark.parametrize("kind", ["classifier", "language model"])
def test_once_per_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    found: list[str] = []
    make = Positions.__init__

    def counted(self: Positions, *arguments: Any, **named: Any) -> None:
        found.append("positions")
        make(self, *arguments, **named)

    def shifted(batch: Any) -> Any:
        found.append("shift")
        return next_tokens(batch)

    monkeypatch.setattr(Positions, "__init__", counted)
    monkeypatch.setattr(positions, "next_tokens", shifted)
    monkeypatch.setattr(model_teacher, "next_tokens", shifted)
    build, examples = (network, IMAGES) if kind == "classifier" else (language_model, TEXTS)
    config = DistillConfig(
        output_dir=str(tmp_path),
        num_train_epochs=1,
        per_device_train_batch_size=SIZE,
        per_device_eval_batch_size=SIZE,
        gradient_accumulation_steps=ACCUMULATION,
        save_strategy="no",
        disable_tqdm=True,
    )
    trainer = DistillTrainer(
        build(0),
        build(1),
        BOTH,
        config,
        train_dataset=examples,
        eval_dataset=examples,
        callbacks=[AfterTheCheck(found)],
    )
    trainer.train()
    batches = N // SIZE
    once = {"classifier": ["positions"], "language model": ["positions", "shift"]}[kind]
    assert sorted(found) == sorted(once * batches)
    found.clear()
    trainer.evaluate()
    assert sorted(found) == sorted(once * batches)
