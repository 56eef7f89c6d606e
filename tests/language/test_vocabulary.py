"""One tokenizer for both, and output layers padded beyond it; oracle: the logits of the tokens that exist."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from limbeck import DataError, Objective
from limbeck.transfer.text.vocabulary import shared_vocabulary

from .test_training import EXAMPLES, SMALL, V, gradients_of, model, padded, trainer


def tokenizer(words: int = V - 1, split: Any = None, added: str = "<end>") -> Any:
    backend = Tokenizer(models.WordLevel({f"w{i}": i for i in range(words)}, unk_token="w0"))
    backend.pre_tokenizer = split or pre_tokenizers.Whitespace()
    made = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="w0")
    made.add_tokens([added])
    return made


def test_the_classes_are_the_highest_id_and_one_added_tokens_included() -> None:
    assert tokenizer().vocab_size == V - 1
    assert shared_vocabulary(tokenizer(), tokenizer()) == V


def test_one_token_more_or_another_name_is_an_error_that_names_it() -> None:
    with pytest.raises(DataError, match=r"differ in 2 tokens: id 60 is '<end>' for the student only"):
        shared_vocabulary(tokenizer(), tokenizer(added="<stop>"))
    with pytest.raises(DataError, match="same tokenizer, but theirs differ"):
        shared_vocabulary(tokenizer(), tokenizer(words=V))


def test_another_way_to_split_is_an_error() -> None:
    with pytest.raises(DataError, match="differ in their pre_tokenizer"):
        shared_vocabulary(tokenizer(), tokenizer(split=pre_tokenizers.WhitespaceSplit()))


@pytest.mark.parametrize("impl", ["auto", "reference"])
def test_padded_output_layers_are_cut_to_the_tokens_that_exist(impl: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    student = LlamaForCausalLM(LlamaConfig(**(SMALL | {"vocab_size": V + 3}))).eval()
    teacher = LlamaForCausalLM(LlamaConfig(**(SMALL | {"vocab_size": V + 7}))).eval()
    batch = padded(EXAMPLES, 12)
    worker = trainer(
        student, teacher, tmp_path, Objective(temperature=1.0), impl=impl, tokenizers=(tokenizer(), tokenizer())
    )
    worker.check()
    loss = worker.compute_loss(student, batch)
    loss.backward()
    found = gradients_of(student)
    student.zero_grad()
    keep = batch["labels"][:, 1:] != -100
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    log_q, log_p = (m(**inputs).logits[:, :-1][keep][:, :V].log_softmax(-1) for m in (student, teacher))
    expected = (log_p.exp() * (log_p - log_q)).sum(-1).mean()
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    for a, b in zip(found, gradients_of(student), strict=True):
        assert (a - b).norm() <= 1e-4 * b.norm() + 1e-7
    assert worker.evaluate()["eval_forward_kl"] == pytest.approx(expected.item(), rel=1e-4)


def test_equal_layers_need_no_tokenizers(tmp_path: Path) -> None:
    worker = trainer(model(), model(seed=1), tmp_path)
    worker.check()
    assert worker.plan.classes is None
    assert worker.plan.in_halves
