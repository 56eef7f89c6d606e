"""The states of a language model in the place of its logits, read inside its forward."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from limbeck.networks.halves import head_of, within_forward

BATCH = {"input_ids": torch.tensor([[3, 4, 5], [6, 7, 8]]), "labels": torch.tensor([[-100, 4, 5], [-100, 7, 8]])}


def language_model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    shape = {"vocab_size": 13, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    return LlamaForCausalLM(LlamaConfig(**shape, num_attention_heads=2, num_key_value_heads=2)).eval()


def with_hooks(model: nn.Module, student: Any, batch: dict[str, Tensor], then: Callable[[Tensor], Any]) -> Any:
    """What `within_forward` would be, were it made of hooks; the plain output where the layer's hook does not run."""
    seen = []

    def cut(layer: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        seen.append(inputs[0])
        return (inputs[0][:, :0],)

    hooks = [
        student.get_output_embeddings().register_forward_pre_hook(cut),
        student.register_forward_hook(lambda module, inputs, output: then(seen[0]) if seen else output, prepend=True),
    ]
    try:
        return model(input_ids=batch["input_ids"], use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()


@pytest.mark.parametrize("compiled", [False, True])
def test_states_and_output_layer_give_the_logits(compiled: bool) -> None:
    student = language_model()
    model = torch.compile(student, backend="eager") if compiled else student
    logits = model(input_ids=BATCH["input_ids"], use_cache=False).logits
    head = head_of(student)
    assert head is not None
    for scale in (1.0, 2.0):  # each call has another function
        found = within_forward(model, student, BATCH, lambda hidden, scale=scale: scale * head(hidden))
        torch.testing.assert_close(found, scale * logits)
    assert "forward" not in vars(student)
    torch.testing.assert_close(model(input_ids=BATCH["input_ids"], use_cache=False).logits, logits)


def test_a_forward_that_was_replaced_before_is_restored() -> None:
    student = language_model()
    student.forward = replaced = student.forward
    within_forward(student, student, BATCH, lambda hidden: hidden)
    assert student.forward is replaced


def test_hooks_would_not_serve_under_compile() -> None:
    """They would otherwise be the better way; a module that was compiled before ignores them."""
    student = language_model()
    hidden = within_forward(student, student, BATCH, lambda hidden: hidden)
    torch.testing.assert_close(with_hooks(student, student, BATCH, lambda hidden: hidden), hidden)
    model = torch.compile(student, backend="eager")
    model(input_ids=BATCH["input_ids"], use_cache=False)
    found = with_hooks(model, student, BATCH, lambda hidden: hidden)
    assert not isinstance(found, Tensor)  # the hook on the output layer has not run
    assert found.logits.shape == (2, 3, 13)
