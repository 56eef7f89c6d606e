"""A language model in two halves: the states before its output layer, and that layer.

What this file does not know: losses, labels, which positions are compared.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.errors import ShapeError
from limbeck.models import Batch, inputs_of
from limbeck.targets import Head

TOKENS = 16
"""Of the first example, on which it is proven that the two halves make the whole."""


def is_language_model(model: Any) -> bool:
    """Whether a model is a transformers model that predicts the next token, with an encoder before it or without."""
    inner: Any = base_of(model)
    writes: Any = getattr(inner, "can_generate", None)
    if writes is None or not writes():
        return False
    return inner.get_output_embeddings() is not None


def base_of(model: Any) -> Any:
    """The transformers model itself, out of a PEFT model; others as they are."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def head_of(model: nn.Module) -> Head | None:
    """The output layer, with bias, scale (Cohere, Granite) and soft cap (Gemma); None where it is no plain Linear.

    Shards (FSDP2) are gathered, outside the forward that would do so; their gradient is found inside it only.
    """
    inner: Any = base_of(model)
    layer = inner.get_output_embeddings()
    if type(layer) is not nn.Linear:  # an adapter, a quantised layer: more than a product with its weight
        return None
    config = inner.config.get_text_config()
    scale = getattr(config, "logit_scale", None) or 1 / (getattr(config, "logits_scaling", None) or 1)
    weight, bias = (x.full_tensor() if hasattr(x, "full_tensor") else x for x in (layer.weight, layer.bias))
    return Head(weight, bias, float(scale), getattr(config, "final_logit_softcapping", None))


def position_limit(model: nn.Module) -> int | None:
    """The longest row that a model can read, where its configuration says so (an encoder-decoder's: None)."""
    config: Any = base_of(model).config
    if getattr(config, "is_encoder_decoder", False):
        return None
    limit: int | None = getattr(config.get_text_config(), "max_position_embeddings", None)
    return limit


def hidden_of(model: nn.Module, batch: Batch) -> Tensor:
    """The states that the output layer reads, `[B, L, H]`."""
    states: Tensor = within_forward(model, model, batch, lambda hidden: hidden)
    return states


def logits_are_heads(model: nn.Module, batch: Batch) -> bool:
    """Whether the model's logits are its head's of its hidden states, on a few tokens of the first example.

    So no scale, cap or other step that a model takes after its output layer is missed. The model is in eval mode.
    """
    some = {name: values[:1] for name, values in _inputs(batch).items() if isinstance(values, Tensor)}
    length = batch["input_ids"].shape[1]
    if all(values.ndim <= 2 for values in some.values()):  # beside masks of L x L, or images, all is taken whole
        some = {name: v[:, :TOKENS] if v.shape[1:] == (length,) else v for name, v in some.items()}
    head = head_of(model)
    if head is None:
        return False
    with torch.no_grad():
        whole = model(**some).logits.float()
        halves = head(hidden_of(model, some))
    at_most = 1e-4 if head.weight.dtype in (torch.float32, torch.float64) else 2e-2
    if whole.shape != halves.shape:
        return False
    size, difference = whole.norm(), (whole - halves).norm()  # a class that is masked makes the first infinite
    return bool(size.isfinite() and difference <= at_most * size)


def within_forward(model: nn.Module, student: nn.Module, batch: Batch, then: Callable[[Tensor], Any]) -> Any:
    """`then(hidden [B, L, H])`, called inside the forward of `model`, which may be `student` in a wrapper.

    There DDP sees every gradient, and FSDP has gathered the output layer's weight; outside it would be in shards.
    """

    def forward(**inputs: Any) -> Any:
        inner = base_of(student)
        whole = inner.base_model is inner  # T5: no module of its own for all before the output layer
        return then(_into_output_layer(inner, inputs) if whole else inner.base_model(**inputs).last_hidden_state)

    usual = student.__dict__.get("forward")
    student.forward = forward  # type: ignore[method-assign]
    try:
        return model(**_inputs(batch))
    finally:
        if usual is None:
            del student.forward
        else:
            student.forward = usual  # type: ignore[method-assign]


def _into_output_layer(model: Any, inputs: dict[str, Any]) -> Tensor:
    """What a model gives to its output layer, which meanwhile gives it back."""
    layer, seen = model.get_output_embeddings(), []

    def forward(hidden: Tensor) -> Tensor:
        seen.append(hidden)
        return hidden

    layer.forward = forward
    try:
        type(model).forward(model, **inputs)
    finally:
        del layer.forward
    hidden: Tensor = seen[0]
    return hidden


def _inputs(batch: Batch) -> dict[str, Any]:
    return inputs_of(batch) | {"use_cache": False}


def require_positions(found: Tensor, batch: Batch, who: str) -> Tensor:
    """`found [B, L, ...]` flattened to `[B * L, ...]`, if it has the places of the batch's labels `[B, L]`."""
    if found.shape[:2] != batch["labels"].shape:
        raise ShapeError(
            f"The {who} speaks of {list(found.shape[:2])} tokens and its labels are {list(batch['labels'].shape)}: "
            "each label stands beside a token. Give teacher_labels beside teacher_input_ids; prompts that a model adds "
            "itself (prompt tuning) cannot be followed."
        )
    return found.flatten(0, 1)
