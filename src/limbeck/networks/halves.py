"""A language model in two halves: the states before its output layer, and that layer.

What this file does not know: losses, labels, which positions are compared.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from limbeck.errors import ShapeError
from limbeck.losses.targets import Head
from limbeck.networks.asking import Adapted, Batch, inputs_of, logits_of, where_it_is

T = TypeVar("T")

ROWS = 128
"""The number of positions whose logits are computed at a time where a language model is measured."""

TOKENS = 16
"""The number of tokens of an example that `logits_are_heads` and `keeps_apart` read."""


def is_language_model(model: object) -> bool:
    """Whether a model is a transformers model that predicts the next token: decoder-only or encoder-decoder."""
    inner: Any = base_of(model)
    writes: Any = getattr(inner, "can_generate", None)
    if writes is None or not writes():
        return False
    return inner.get_output_embeddings() is not None


def base_of(model: object) -> Any:
    """The transformers model inside a PEFT model; any other model unchanged."""
    return model.get_base_model() if isinstance(model, Adapted) else model


def head_of(model: nn.Module) -> Head | None:
    """The output layer with bias, scale (Cohere, Granite) and soft cap (Gemma); None unless it is a plain Linear in
    memory.

    The shards of FSDP2 are gathered. Their gradient is right only where this is called inside the student's forward.
    """
    inner: Any = base_of(model)
    layer = inner.get_output_embeddings()
    # An adapter or a quantised layer computes more than a product with its weight. FSDP2 changes the class of a layer,
    # but not its forward.
    if layer is None or type(layer).forward is not nn.Linear.forward or layer.weight.is_meta:
        return None
    if torch.is_grad_enabled() and hasattr(layer, "unshard"):  # sharded alone: only the layer's forward would gather it
        layer.unshard()
    config = inner.config.get_text_config()
    scale = getattr(config, "logit_scale", None) or 1 / (getattr(config, "logits_scaling", None) or 1)
    weight, bias = (x.full_tensor() if hasattr(x, "full_tensor") else x for x in (layer.weight, layer.bias))
    return Head(weight, bias, float(scale), getattr(config, "final_logit_softcapping", None))


def position_limit(model: nn.Module) -> int | None:
    """The longest row that a model can read, in tokens; None where it is not configured.

    For an encoder-decoder, that of a source and of a target each.
    """
    config: Any = base_of(model).config
    limit: int | None = getattr(config.get_text_config(), "max_position_embeddings", None)
    return limit if limit is None or limit > 0 else None  # XLNet has -1


def hidden_of(model: nn.Module, batch: Batch) -> Tensor:
    """The states that the output layer reads, `[B, L, H]`."""
    batch, back = where_it_is(model, batch)
    states: Tensor = within_forward(model, model, batch, lambda hidden: hidden)
    return states if back is None else states.to(back)


def logits_are_heads(model: nn.Module, batch: Batch) -> bool:
    """Whether the model's logits are those of `head_of` for its hidden states, on a few tokens of the first example.

    They are not where a model computes more after its output layer than bias, scale and soft cap.

    model: a language model in eval mode, on the batch's device. batch: with `input_ids [B, L]`.
    """
    some = {name: values[:1] for name, values in _inputs(batch).items() if isinstance(values, Tensor)}
    length = batch["input_ids"].shape[1]
    if all(values.ndim <= 2 for values in some.values()):  # an L x L mask or an image cannot be cut to a few tokens
        some = {name: v[:, :TOKENS] if v.shape[1:] == (length,) else v for name, v in some.items()}
    head = head_of(model)
    if head is None:
        return False
    some = dict(where_it_is(model, some)[0])
    with torch.no_grad():
        whole = _without_autocast(model)(**_inputs(some)).logits.float()
        hidden = hidden_of(model, some)
        if hidden.dtype != head.weight.dtype:  # a residual stream in float32
            return False
        halves = head.to(hidden.device)(hidden)
    if whole.shape != halves.shape:
        return False
    size, difference = whole.norm(), (whole - halves).norm()  # a class that is masked makes the first infinite
    return bool(size.isfinite() and difference <= _tolerance(head.weight) * size)


def _without_autocast(model: nn.Module) -> Callable[..., Any]:
    """The model's forward without the autocast that an earlier training in mixed precision wrapped it in."""
    forward: Any = type(model).forward
    found = getattr(model.__dict__.get("forward"), "__func__", None)
    while found is not None and found is not forward:
        found = getattr(found, "__wrapped__", None)
    return model if found is None else partial(forward, model)


def _tolerance(weight: Tensor) -> float:
    """The largest relative difference between two ways to compute one thing in the dtype of the weights."""
    return 1e-4 if weight.dtype in (torch.float32, torch.float64) else 2e-2


def keeps_apart(model: nn.Module, batch: Batch, examples: Sequence[tuple[int, Tensor]]) -> bool:
    """Whether a model reads the examples of a packed row as it reads each alone.

    The first few tokens of two examples are read as one row, and each alone. Where the batch has several rows, two
    rows are read, since flash attention keeps examples apart only in a batch of one row.

    model: a language model in eval mode. batch: with `position_ids [B, L]`.
    examples: those of the batch, as `packed_examples` lists them.
    """
    inputs = {name: values for name, values in batch.items() if isinstance(values, Tensor)}
    shape, rows = batch["input_ids"].shape, min(2, len(batch["input_ids"]))

    def cut(row: int, columns: Tensor) -> dict[str, Tensor]:
        some = {name: v[row, columns[:TOKENS]] for name, v in inputs.items() if v.shape[:2] == shape}
        return {name: v.expand(rows, *v.shape) for name, v in some.items()}

    second = examples[1] if len(examples) > 1 else examples[0]
    alone = [cut(row, columns) for row, columns in (examples[0], second)]
    packed = {name: torch.cat([each[name] for each in alone], 1) for name in alone[0]}
    in_halves = logits_are_heads(model, packed)

    def read(some: Batch) -> Tensor:
        found = (hidden_of(model, some) if in_halves else logits_of(model, some)).float()
        return found.masked_fill(found < -1e4, 0)  # a model's masked classes would outweigh all others

    with torch.no_grad():
        together, apart = read(packed), [read(each) for each in alone]
    tolerance = _tolerance(base_of(model).get_output_embeddings().weight)
    parts = torch.split(together, [each.shape[1] for each in apart], 1)
    return all(
        (a - b).norm() <= tolerance * b.norm() or not b.isfinite().all()  # not due to packing
        for a, b in zip(parts, apart, strict=True)
    )


def within_forward(model: nn.Module, student: nn.Module, batch: Batch, then: Callable[[Tensor], T]) -> T:
    """Returns `then(hidden)`, computed inside the forward of `model`, without the logits of the batch.

    Inside, DDP sees every gradient, and FSDP has gathered the weight of the output layer; outside it is in shards.

    For the time of the call, the student's forward is replaced. No public way serves as well:
    - A forward hook runs after the logits `[B, L, C]` have been computed, which are what is to be avoided. A pre-hook
      on the output layer could cut its input to no positions, and a hook on the student could replace its output by
      `then(hidden)`; but torch.compile does not look for hooks that are registered after it has compiled a module, so
      that after any usual forward, such as an evaluation with logits, the hook on the output layer is ignored without
      an error (tests/networks/test_halves.py).
    - Hooks that stay registered would make the user's model impossible to pickle, and would run in the user's calls.
    - torch.func.functional_call replaces parameters, not what forward computes, and would have to be called on the
      student inside the wrapper: DDP and FSDP would not take part.
    - A wrapping module with a forward that returns the loss would have to go between the student and DDP, FSDP or
      torch.compile before Trainer prepares the model, and would rename the weights in every checkpoint.

    model: `student`, or a wrapper of it (DDP, FSDP, torch.compile). student: a language model, also with PEFT.
    then: of the last hidden states `[B, L, H]`.
    """

    def forward(**inputs: Any) -> T:
        inner = base_of(student)
        whole = inner.base_model is inner  # T5: no one module holds everything before the output layer
        return then(_into_output_layer(inner, inputs)[0] if whole else inner.base_model(**inputs).last_hidden_state)

    return _with_forward(model, student, batch, forward)


def within_whole_forward(model: nn.Module, student: nn.Module, batch: Batch, then: Callable[[Tensor, Any], T]) -> T:
    """`within_forward` for a student whose forward computes more than its logits, such as the loss of its routers.

    then: of the last hidden states `[B, L, H]`, and of what the student's forward returns, in which hidden states stand
        in the place of the logits.
    """

    def forward(**inputs: Any) -> T:
        return then(*_into_output_layer(base_of(student), inputs))

    return _with_forward(model, student, batch, forward)


def _with_forward(model: nn.Module, student: nn.Module, batch: Batch, forward: Callable[..., T]) -> T:
    """Returns `model(**batch)` with another forward of the student."""
    attributes = vars(student)  # where accelerate keeps a forward in autocast, too
    usual = attributes.get("forward")
    attributes["forward"] = forward
    try:
        found: T = model(**_inputs(batch))
        return found
    finally:
        if usual is None:
            del attributes["forward"]
        else:
            attributes["forward"] = usual


def _into_output_layer(model: Any, inputs: dict[str, Any]) -> tuple[Tensor, Any]:
    """The input of a model's output layer, which returns it unchanged during the call, and the model's output."""
    layer, seen = model.get_output_embeddings(), []

    def forward(hidden: Tensor) -> Tensor:
        seen.append(hidden)
        return hidden

    layer.forward = forward
    try:
        output = type(model).forward(model, **inputs)
    finally:
        del layer.forward
    return seen[0], output


def _inputs(batch: Batch) -> dict[str, Any]:
    return inputs_of(batch) | {"use_cache": False}


def require_positions(found: Tensor, batch: Batch, who: str) -> Tensor:
    """An output with one row per token, flattened to `[B * L, ...]`; ShapeError unless there is one row per label.

    found: logits or hidden states, `[B, L, ...]`. batch: with `labels [B, L]`. who: "teacher" or "student".
    """
    if found.shape[:2] != batch["labels"].shape:
        raise ShapeError(
            f"The {who}'s output has {list(found.shape[:2])} tokens and its labels are {list(batch['labels'].shape)}: "
            "there must be one label per token. Give teacher_labels with teacher_input_ids; models that add tokens of "
            "a learned prompt (prompt tuning) are not supported."
        )
    return found.flatten(0, 1)
