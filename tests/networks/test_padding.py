"""Classifiers of texts read each text as if it stood alone. The oracle is the model, asked about that text alone."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

import limbeck
from limbeck.networks.asking import logits_of
from limbeck.teachers import ModelTeacher, fingerprint_of
from limbeck.transfer import TransferSet

V, LENGTHS = 23, (7, 2, 4)
LLAMA: dict[str, Any] = {
    "vocab_size": V,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
HEADS = {"num_key_value_heads": 2, "head_dim": 8}


def gpt2(pad: int | None) -> Any:
    config = transformers.GPT2Config(vocab_size=V, n_embd=16, n_layer=1, n_head=2, n_positions=16, num_labels=3)
    config.pad_token_id = pad
    return transformers.GPT2ForSequenceClassification(config)


def llama(pad: int | None) -> Any:
    return transformers.LlamaForSequenceClassification(
        transformers.LlamaConfig(**LLAMA, pad_token_id=pad, num_labels=3)
    )


def qwen(pad: int | None) -> Any:
    return transformers.Qwen3ForSequenceClassification(
        transformers.Qwen3Config(**LLAMA, **HEADS, pad_token_id=pad, num_labels=3)
    )


def bert(pad: int | None) -> Any:
    return transformers.BertForSequenceClassification(
        transformers.BertConfig(**LLAMA, max_position_embeddings=16, pad_token_id=pad or 0, num_labels=3)
    )


def roberta(pad: int | None) -> Any:
    """Its positions are counted from its pad tokens."""
    return transformers.RobertaForSequenceClassification(
        transformers.RobertaConfig(**LLAMA, max_position_embeddings=32, pad_token_id=pad or 1, num_labels=3)
    )


MODELS = {"gpt2": gpt2, "llama": llama, "qwen": qwen, "bert": bert, "roberta": roberta}
DRAWN = torch.Generator().manual_seed(0)
TEXTS = [torch.randint(3, V - 1, (length,), generator=DRAWN) for length in LENGTHS]


def padded(pad: int, side: str = "right") -> dict[str, Tensor]:
    """The texts as a tokenizer with this pad token makes them."""
    ids, mask = torch.full((3, max(LENGTHS)), pad), torch.zeros(3, max(LENGTHS), dtype=torch.long)
    for row, text in enumerate(TEXTS):
        there = slice(0, len(text)) if side == "right" else slice(max(LENGTHS) - len(text), None)
        ids[row, there], mask[row, there] = text, 1
    return {"input_ids": ids, "attention_mask": mask}


def each_alone(model: Any) -> Tensor:
    """The logits of each text alone; a batch of one needs no pad token."""
    return torch.cat([model(input_ids=text[None]).logits for text in TEXTS])


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("of_tokenizer", [0, 2, V - 1])
@pytest.mark.parametrize("of_model", [None, 0, 1, V - 1])
@pytest.mark.parametrize("family", MODELS)
@torch.no_grad()
def test_each_text_is_read_as_if_it_stood_alone(
    family: str, of_model: int | None, of_tokenizer: int, side: str
) -> None:
    if side == "left" and family in ("gpt2", "bert", "roberta"):
        pytest.skip("it reads, or counts positions from, the first column")
    torch.manual_seed(0)
    model = MODELS[family](of_model).eval()
    before = model.config.to_dict()
    found = logits_of(model, padded(of_tokenizer, side))
    torch.testing.assert_close(found, each_alone(model), rtol=1e-4, atol=1e-5)
    assert model.config.to_dict() == before


@torch.no_grad()
def test_rows_of_one_length_need_no_pad_token() -> None:
    model = gpt2(None).eval()
    ids = torch.stack([TEXTS[0], TEXTS[0].flip(0)])
    found = logits_of(model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)})
    torch.testing.assert_close(found, torch.cat([model(input_ids=row[None]).logits for row in ids]))


def test_a_student_without_a_pad_token_is_trained_stored_and_measured(tmp_path: Path) -> None:
    torch.manual_seed(0)
    teacher, student = gpt2(None).eval(), llama(1)
    expected = each_alone(teacher).log_softmax(-1)
    columns = padded(2)
    examples = TransferSet(columns, torch.arange(3))
    before = fingerprint_of(teacher)
    stored = limbeck.label(teacher, examples, tmp_path / "stored", kind="dense", dtype="float32")
    said = stored.teacher(stored.__getitems__([0, 1, 2])).all_log_probs(1.0)
    torch.testing.assert_close(said, expected, rtol=1e-4, atol=1e-5)
    assert fingerprint_of(teacher) == before
    torch.testing.assert_close(ModelTeacher(teacher)(columns).all_log_probs(1.0), expected, rtol=1e-4, atol=1e-5)
    config = limbeck.DistillConfig(output_dir=str(tmp_path / "run"), max_steps=2, disable_tqdm=True)
    limbeck.DistillTrainer(student, teacher, args=config, train_dataset=examples).train()
    results = limbeck.evaluate(student.eval(), examples, teacher=teacher, latency=False, resamples=10)
    nll = -expected[torch.arange(3), torch.arange(3)].mean()
    assert results["roles"]["teacher"]["nll"]["mean"] == pytest.approx(nll.item(), rel=1e-4)
