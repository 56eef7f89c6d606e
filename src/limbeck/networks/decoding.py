"""The inputs of an encoder-decoder's decoder: its labels, shifted as the model itself shifts them.

What this file does not know: tokenizers, losses.
"""

import inspect
import sys
from typing import Any

import torch
from torch import Tensor

from limbeck.errors import DataError, ModelError
from limbeck.losses.numbers import NO_LABEL
from limbeck.networks.asking import TEACHER_PREFIX, Batch
from limbeck.networks.halves import base_of

DECODED = "decoder_input_ids"


def is_encoder_decoder(model: object) -> bool:
    """Whether a model is an encoder-decoder of transformers."""
    return bool(getattr(getattr(base_of(model), "config", None), "is_encoder_decoder", False))


def with_decoder_inputs(model: object, batch: Batch) -> Batch:
    """The batch with `decoder_input_ids` made of its labels, for an encoder-decoder; otherwise as it is.

    model: the student or the teacher that reads the batch. Where the batch has `teacher_labels`, their inputs are made
        too, as this model makes them.
    """
    if not is_encoder_decoder(model) or "input_ids" not in batch:
        return batch
    made = {
        prefix + DECODED: decoder_inputs(model, batch[prefix + "labels"])
        for prefix in ("", TEACHER_PREFIX)
        if prefix + "labels" in batch and prefix + DECODED not in batch
    }
    return {**batch, **made}


def decoder_inputs(model: object, labels: Tensor) -> Tensor:
    """What the decoder reads to predict `labels [B, L]`, as the model's own forward makes it of labels; int64 `[B, L]`.

    ModelError where the model does not say what its decoder begins with.
    """
    inner: Any = base_of(model)
    labels = labels.clone()  # FSMT writes its padding into the labels that it shifts
    if hasattr(inner, "prepare_decoder_input_ids_from_labels"):
        found: Tensor = inner.prepare_decoder_input_ids_from_labels(labels=labels)
        return found
    start, pad = (getattr(inner.config, name, None) for name in ("decoder_start_token_id", "pad_token_id"))
    shift = getattr(sys.modules[type(inner).__module__], "shift_tokens_right", None)
    if shift is not None and pad is not None:
        given = (labels, pad) if len(inspect.signature(shift).parameters) == 2 else (labels, pad, start)
        shifted: Tensor = shift(*given)
        return shifted
    if start is None:
        raise ModelError(
            f"{type(inner).__name__} does not say with which token its decoder begins; set "
            "config.decoder_start_token_id, or give batches with decoder_input_ids."
        )
    padded = labels.masked_fill(labels == NO_LABEL, start if pad is None else pad)
    return torch.cat([torch.full_like(labels[:, :1], start), padded[:, :-1]], 1)


def require_pairs(name: str, batch: Batch) -> None:
    """DataError where a batch has the rows of causal models, whose labels are the ids that they stand beside.

    An encoder would read what its decoder is to write. name: the model's, for the message.
    """
    ids, labels = batch["input_ids"], batch["labels"]
    if ids.shape != labels.shape:
        return
    learned, real = labels != NO_LABEL, batch.get("attention_mask", torch.ones_like(ids)) != 0
    prompt = real & (learned.cumsum(-1) == 0)  # a target begins with its first token, even where it is the source
    if bool(learned.any() and (ids == labels)[learned].all() and (prompt.any(-1) | ~learned.any(-1)).all()):
        raise DataError(
            f"{name} is an encoder-decoder, and its encoder reads what its decoder is to write: in the first batch the "
            "labels are the input_ids that they stand beside, after a prompt, as limbeck.tokenise makes them for "
            "causal models. Make rows by limbeck.tokenise(records, tokenizer, encoder_decoder=True)."
        )
