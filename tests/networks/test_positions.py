"""Oracle: rows without padding, one at a time, in float64."""

import copy
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from transformers import DataCollatorForLanguageModeling, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from limbeck import Objective
from limbeck.networks.positions import next_token_positions, next_tokens

NO = -100
ROWS = ([5, 6, 7], [8, 9, 10, 11, 12], [13, 14])


def padded(side: str, first_is_learned: bool = True) -> dict[str, Tensor]:
    width = max(map(len, ROWS)) + 1
    batch = {name: torch.full((len(ROWS), width), value) for name, value in (("input_ids", 0), ("labels", NO))}
    batch["attention_mask"] = torch.zeros(len(ROWS), width, dtype=torch.int64)
    for row, ids in enumerate(ROWS):
        part = slice(width - len(ids), width) if side == "left" else slice(0, len(ids))
        batch["input_ids"][row, part] = torch.tensor(ids)
        batch["attention_mask"][row, part] = 1
        batch["labels"][row, part] = torch.tensor(ids if first_is_learned else [NO, *ids[1:]])
    return batch


@pytest.mark.parametrize("first_is_learned", [True, False])
@pytest.mark.parametrize("side", ["left", "right"])
def test_every_token_but_the_first_of_a_row_has_a_position_wherever_the_padding_is(
    side: str, first_is_learned: bool
) -> None:
    batch = padded(side, first_is_learned)
    rows, labels, places = next_tokens(batch)
    assert labels.tolist() == [token for ids in ROWS for token in ids[1:]]
    flat = batch["input_ids"].flatten()
    assert flat[places].tolist() == labels.tolist()
    assert flat[rows].tolist() == [token for ids in ROWS for token in ids[:-1]]


def test_a_hole_in_the_mask_and_a_mask_of_another_shape() -> None:
    batch = padded("right")
    batch["attention_mask"][1, 2] = 0  # token 10 is not read, so nothing at its place predicts token 11
    assert next_tokens(batch).labels.tolist() == [6, 7, 9, 10, 12, 14]
    batch["attention_mask"] = torch.ones(3, 1, 6, 6)  # a mask that the user made: it tells nothing about padding
    assert len(next_tokens(batch).labels) == 7


def test_an_encoder_decoder_reads_the_mask_of_its_source_only() -> None:
    batch = padded("right") | {"decoder_input_ids": torch.zeros(3, 6, dtype=torch.int64)}
    batch["attention_mask"][:] = 0
    assert len(next_tokens(batch).labels) == sum(map(len, ROWS))


@pytest.mark.parametrize("side", ["left", "right"])
def test_loss_and_gradient_of_transformers_own_collator(side: str, make_llama: Any) -> None:
    tokenizer = word_tokenizer(padding_side=side)
    collator = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    texts = ["two and two", "what is the sum of two and two", "four"]
    encoded = [tokenizer(text) for text in texts]
    batch = dict(collator([dict(row) for row in encoded]))
    student, teacher = make_llama(0), make_llama(1)

    def loss_of(net: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, int]:
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        positions = next_token_positions(batch)
        with torch.no_grad():
            targets = teacher(**inputs).logits.flatten(0, 1)[positions.rows]
        logits = net(**inputs).logits.flatten(0, 1)[positions.rows]
        return Objective()(logits, targets).mean, len(logits)

    loss, count = loss_of(student, batch)
    loss.backward()
    alone = copy.deepcopy(student)
    alone.zero_grad()
    total = torch.zeros((), dtype=torch.float64)
    for row in encoded:
        ids = torch.tensor([row["input_ids"]])
        one = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
        part, n = loss_of(alone, one)
        total = total + part * n
    (total / count).backward()
    assert count == sum(len(row["input_ids"]) - 1 for row in encoded)
    torch.testing.assert_close(loss.double(), (total / count).double(), rtol=1e-6, atol=1e-8)
    for (name, mine), theirs in zip(student.named_parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-5, atol=1e-9, msg=name)


def word_tokenizer(padding_side: str) -> PreTrainedTokenizerFast:
    words = ["<pad>", *["two", "and", "what", "is", "the", "sum", "of", "four"]]
    backend = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", padding_side=padding_side)


@pytest.fixture
def make_llama() -> Any:
    def make(seed: int) -> LlamaForCausalLM:
        torch.manual_seed(seed)
        sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
        return LlamaForCausalLM(LlamaConfig(vocab_size=16, num_key_value_heads=1, **sizes)).double().eval()

    return make
