"""What a first batch may lack, and the tokens that a language model's embedding must have."""

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import LlamaConfig, LlamaForCausalLM

from limbeck import DataError, DistillConfig, DistillTrainer, Objective

SMALL: dict[str, Any] = {"vocab_size": 20, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}


def llama(**more: Any) -> Any:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SMALL | more, num_attention_heads=2, max_position_embeddings=16))


def row(number: int, labels: bool, highest: int = 5) -> dict[str, Any]:
    ids = [3, 4, highest, 6, 7]
    return {"row_id": number, "input_ids": ids, "labels": [-100] * 3 + [6, 7] if labels else [-100] * 5}


def trained(
    folder: Path, rows: list[dict[str, Any]], evaluated: list[dict[str, Any]] | None = None, **more: Any
) -> Any:
    config = DistillConfig(output_dir=str(folder), max_steps=3, per_device_train_batch_size=2, disable_tqdm=True)
    trainer = DistillTrainer(
        llama(),
        llama(**more),
        Objective(temperature=1.0, hard_weight=0.5),
        config,
        train_dataset=Dataset.from_list(rows),
        eval_dataset=None if evaluated is None else Dataset.from_list(evaluated),
    )
    trainer.train()
    return trainer


def test_a_first_batch_with_nothing_to_learn_is_no_reason_to_refuse(tmp_path: Path) -> None:
    rows = [row(i, labels=i >= 4) for i in range(6)]
    trainer = trained(tmp_path, rows, evaluated=rows)
    assert trainer.state.global_step == 3
    assert torch.isfinite(torch.cat([p.flatten() for p in trainer.model.parameters()])).all()
    assert trainer.evaluate()["eval_loss"] > 0


def test_a_set_with_nothing_to_learn_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No token of the transfer set is to be predicted"):
        trained(tmp_path, [row(i, labels=False) for i in range(6)])


@pytest.mark.parametrize(("student", "teacher", "who"), [(20, 21, "student"), (21, 20, "teacher")])
def test_a_token_beyond_the_embedding_is_refused_wherever_it_stands(
    student: int, teacher: int, who: str, tmp_path: Path
) -> None:
    rows = [row(i, labels=True, highest=20 if i == 5 else 5) for i in range(6)]  # a prompt's token, in the last batch
    config = DistillConfig(output_dir=str(tmp_path), max_steps=3, per_device_train_batch_size=2, disable_tqdm=True)
    models = llama(vocab_size=student), llama(vocab_size=teacher)
    trainer = DistillTrainer(*models, Objective(temperature=1.0), config, train_dataset=Dataset.from_list(rows))
    with pytest.raises(DataError, match=f"has the token 20, and the {who}'s embedding has 20 tokens, 0 to 19"):
        trainer.train()
    assert trainer.state.global_step == 0
