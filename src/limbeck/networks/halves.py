"""A language model in two halves: the states before its output layer, and that layer.

What this file does not know: losses, labels, which positions are compared.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.errors import ShapeError
from limbeck.losses.targets import Head
from limbeck.networks.asking import Batch, inputs_of, logits_of, where_it_is

ROWS = 128
"""So many rows of a language model's logits are made at a time where they are measured."""

TOKENS = 16
"""How many tokens of an example the checks read: that states and output layer give the logits, and that packed rows
keep examples apart."""


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
    """The output layer, with bias, scale (Cohere, Granite) and soft cap (Gemma); None where it is no plain Linear,
    or offloaded.

    Shards (FSDP2) are gathered, outside the forward that would do so; their gradient is found inside it only.
    """
    inner: Any = base_of(model)
    layer = inner.get_output_embeddings()
    # an adapter, a quantised layer: more than a product with its weight. (FSDP2 changes the class and not the forward.)
    if layer is None or type(layer).forward is not nn.Linear.forward or layer.weight.is_meta:
        return None
    if torch.is_grad_enabled() and hasattr(layer, "unshard"):  # sharded by itself, which its own forward would undo
        layer.unshard()
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
    batch, back = where_it_is(model, batch)
    states: Tensor = within_forward(model, model, batch, lambda hidden: hidden)
    return states if back is None else states.to(back)


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
    some = dict(where_it_is(model, some)[0])
    with torch.no_grad():
        whole = _without_autocast(model)(**_inputs(some)).logits.float()
        hidden = hidden_of(model, some)
        if hidden.dtype != head.weight.dtype:  # a residual kept in float32
            return False
        halves = head.to(hidden.device)(hidden)
    if whole.shape != halves.shape:
        return False
    size, difference = whole.norm(), (whole - halves).norm()  # a class that is masked makes the first infinite
    return bool(size.isfinite() and difference <= _tolerance(head.weight) * size)


def _without_autocast(model: nn.Module) -> Callable[..., Any]:
    """The model's forward out of what an earlier training in mixed precision has wrapped it in."""
    own: Any = type(model).forward
    found = getattr(model.__dict__.get("forward"), "__func__", None)
    while found is not None and found is not own:
        found = getattr(found, "__wrapped__", None)
    return model if found is None else partial(own, model)


def _tolerance(weight: Tensor) -> float:
    """The largest relative difference between two ways to compute one thing in the dtype of the weights."""
    return 1e-4 if weight.dtype in (torch.float32, torch.float64) else 2e-2


def keeps_apart(model: nn.Module, batch: Batch, examples: Sequence[tuple[int, Tensor]]) -> bool:
    """Whether a model reads the examples of a packed row as it reads each alone, `examples` being those of the batch.

    Two of them, the first few tokens of each, are read as one row and apart: in two rows where the batch has several,
    since flash attention keeps examples apart in a batch of one row only. The model is in eval mode.
    """
    inputs = {name: values for name, values in batch.items() if isinstance(values, Tensor)}
    shape, rows = batch["input_ids"].shape, min(2, len(batch["input_ids"]))

    def cut(row: int, columns: Tensor) -> dict[str, Tensor]:
        some = {name: v[row, columns[:TOKENS]] for name, v in inputs.items() if v.shape[:2] == shape}
        return {name: v.expand(rows, *v.shape) for name, v in some.items()}

    alone = [cut(row, columns) for row, columns in (*examples, *examples)[:2]]
    packed = {name: torch.cat([each[name] for each in alone], 1) for name in alone[0]}
    in_halves = logits_are_heads(model, packed)

    def read(some: Batch) -> Tensor:
        found = (hidden_of(model, some) if in_halves else logits_of(model, some)).float()
        return found.masked_fill(found < -1e4, 0)  # of classes that a model masks, which are beyond all others

    with torch.no_grad():
        together, apart = read(packed), [read(each) for each in alone]
    tolerance = _tolerance(base_of(model).get_output_embeddings().weight)
    parts = torch.split(together, [each.shape[1] for each in apart], 1)
    return all(
        (a - b).norm() <= tolerance * b.norm() or not b.isfinite().all()  # which is no matter of packing
        for a, b in zip(parts, apart, strict=True)
    )


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
