"""The padding of texts as a classifier of transformers expects it: filled with the model's pad token.

A decoder that classifies texts reads its answer at the last token that is not its pad token. Rows that are padded with
another token, the tokenizer's, would be read at their padding, and their logits would depend on the longest row of the
batch.

What this file does not know: tokenizers, data sets.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from limbeck.networks.pixels import innermost


@contextmanager
def with_model_padding(model: object, inputs: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The inputs of a batch with the model's pad token in the place of any other padding.

    Padding is where `attention_mask` is 0. A model without a pad token has one within the block: a token that is not in
    the batch, so that its answer is read at the last token of each text.
    """
    ids, mask, config = inputs.get("input_ids"), inputs.get("attention_mask"), _config_of(model)
    if config is None or not (isinstance(ids, Tensor) and isinstance(mask, Tensor) and mask.shape == ids.shape):
        yield inputs
        return
    text = config.get_text_config()
    pad = getattr(text, "pad_token_id", None)
    if pad is not None:
        yield inputs | {"input_ids": ids.masked_fill(mask == 0, pad)}
        return
    pad = _absent(ids[mask != 0], getattr(text, "vocab_size", 0))
    configs = [each for each in {id(c): c for c in (config, text)}.values() if getattr(each, "pad_token_id", 0) is None]
    for each in configs:
        each.pad_token_id = pad
    try:
        yield inputs | {"input_ids": ids.masked_fill(mask == 0, pad)}
    finally:
        for each in configs:
            each.pad_token_id = None


def _config_of(model: object) -> Any:
    """The configuration of a classifier of texts of transformers; None for any other model."""
    inner = innermost(model)
    return inner.config if type(inner).__name__.endswith("ForSequenceClassification") else None


def _absent(ids: Tensor, vocabulary: int) -> int:
    """The lowest token id that is not among these."""
    present = torch.bincount(ids.flatten(), minlength=vocabulary + 1) > 0
    return min(int((~present).int().argmax()), max(vocabulary - 1, 0))
