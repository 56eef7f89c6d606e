"""Language models that see the tokens that they are to predict are refused before anything is trained or measured."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from datasets import Dataset

import limbeck
from limbeck import DistillConfig, DistillTrainer, ModelError
from limbeck.networks.causal import require_causal

SIZES: dict[str, Any] = {"vocab_size": 40, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
XLM = {"vocab_size": 40, "emb_dim": 16, "n_layers": 2, "n_heads": 2, "pad_index": 0, "pad_token_id": 0}
BIDIRECTIONAL = {
    "BertLMHeadModel": lambda **more: transformers.BertConfig(hidden_size=16, **SIZES, **more),
    "RobertaForCausalLM": lambda **more: transformers.RobertaConfig(hidden_size=16, **SIZES, **more),
    "XLMWithLMHeadModel": lambda **more: transformers.XLMConfig(**XLM, **more),
    "XLNetLMHeadModel": lambda: transformers.XLNetConfig(vocab_size=40, d_model=16, n_layer=2, n_head=2, d_inner=16),
}
CAUSAL = {"BertLMHeadModel": "is_decoder", "RobertaForCausalLM": "is_decoder", "XLMWithLMHeadModel": "causal"}
LABELS = torch.tensor([-100, 5, 9, 6])
ROWS = Dataset.from_list([{"row_id": 0, "input_ids": [4, 5, 9, 6], "labels": LABELS.tolist()}])


def model(name: str, **more: bool) -> Any:
    torch.manual_seed(0)
    made = getattr(transformers, name)(BIDIRECTIONAL[name](**more)).eval()
    for parameter in made.parameters():
        if parameter.ndim > 1:
            parameter.data.mul_(6)  # or the tokens would hardly depend on each other
    return made


@pytest.mark.parametrize("name", BIDIRECTIONAL)
def test_a_model_that_reads_later_tokens_is_refused(name: str, tmp_path: Path) -> None:
    """Its logits at a token change with the next one: the oracle."""
    student = model(name)
    with torch.no_grad():
        one, other = (student(input_ids=torch.tensor([[4, 5, last]])).logits[0, 1] for last in (9, 6))
    assert not torch.allclose(one, other, rtol=1e-3, atol=1e-3)
    with pytest.raises(ModelError, match=f"The student, {name}, is to predict each token from those before it"):
        limbeck.evaluate_language(student, ROWS, resamples=10)
    config = DistillConfig(str(tmp_path), max_steps=1, disable_tqdm=True, use_cpu=True)
    with pytest.raises(ModelError, match=f"The student, {name}, is to predict each token from those before it"):
        DistillTrainer(student, model(name), args=config, train_dataset=ROWS).train()


@pytest.mark.parametrize("name", CAUSAL)
def test_the_same_model_as_a_decoder_passes(name: str) -> None:
    student = model(name, **{CAUSAL[name]: True})
    with torch.no_grad():
        one, other = (student(input_ids=torch.tensor([[4, 5, last]])).logits[0, 1] for last in (9, 6))
    torch.testing.assert_close(one, other)
    require_causal(student, LABELS, "student")
    results = limbeck.evaluate_language(student, ROWS, resamples=10)
    assert results["test"]["tokens"] == 3
