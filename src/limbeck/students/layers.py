"""A student cut from its teacher: some of a transformer's layers, and a copy of everything else.

What this file does not know: training; other widths, vocabularies or kinds of network than the teacher's.
"""

import copy
import operator
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from limbeck.errors import ModelError

M = TypeVar("M", bound=nn.Module)

DEPTHS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers")
DEPTHS += ("encoder_layers", "decoder_layers", "num_encoder_layers", "num_decoder_layers")
"""What configurations call the number of their layers."""

PER_LAYER = ("layer", "block", "attention_window", "indexer_types", "activation_sparsity_pattern", "intermediate_size")
"""What the name of a list with an entry per layer has in it. (Three eos_token_ids of three layers are none.)"""


def take_layers(model: M, keep: int | Sequence[int]) -> M:
    """A student of some of a model's layers, of the same class: weights copied, trainable, in eval mode.

    model: a transformers model; it is left as it is, and shares no weight with the student.
    keep: which layers, either
        their indices from 0, increasing: `[0, 2, 5]`; or
        how many, K of N: spread evenly from the first to the last, `j (N - 1) / (K - 1)` for j = 0 ... K - 1, rounded
        to the nearest, halves up; the first alone for K = 1. 6 of 12 are 0, 2, 4, 7, 9, 11, those of DistilBERT's code.
        Encoder and decoder of an encoder-decoder are each cut to that many.

    Embeddings, norms and heads are copied too; tied weights stay tied, dtypes and devices are the teacher's. The
    configuration says the new number of layers, and its entries per layer (`layer_types`) are those of the layers kept,
    so that `limbeck.save` and transformers' `save_pretrained` write a model like any other.

    Raises ModelError for what is no transformers model, where no layers are found, where `keep` does not fit them, and
    where a layer would not compute in its new place what it did in its old one.
    Source: the initialisation of DistilBERT, arXiv 1910.01108, section 3.
    """
    from transformers import PreTrainedModel

    if not isinstance(model, PreTrainedModel):
        raise ModelError(
            f"take_layers cuts transformers models, but got {type(model).__name__}. Of a PEFT model, give "
            "model.merge_and_unload(); of a network of your own, build a smaller one and load the weights of the "
            "layers that you keep into it."
        )
    if getattr(model, "hf_quantizer", None) is not None or any(p.is_meta for p in model.parameters()):
        raise ModelError(
            f"The weights of this {type(model).__name__} are quantised or offloaded, and cannot be copied; load the "
            "model in full, with from_pretrained(..., dtype=torch.bfloat16) for instance."
        )
    depths = _depths(model)
    kept = {depth: _indices(keep, depth, several=len(depths) > 1) for depth in depths.values()}
    student = _build(model, depths, kept)
    # where the stacks are: what became shorter with the configuration
    lists = {name: len(stack) for name, stack in _module_lists(model).items()}
    cut = {
        name: kept[lists[name]]
        for name, stack in _module_lists(student).items()
        if lists.get(name) in kept and len(stack) == len(kept[lists[name]])
    }
    for name, indices in cut.items():
        ours, theirs = student.get_submodule(name), model.get_submodule(name)
        for place, index in enumerate(indices):
            _require_same(ours[place], theirs[index], place, index)  # type: ignore[index]
    _copy_weights(student, model, cut)
    if model.can_generate():
        student.generation_config = copy.deepcopy(model.generation_config)
    made: M = student.eval()
    return made


def _depths(model: Any) -> dict[str, int]:
    """The configuration's names for its numbers of layers, those of which there is a stack: {"n_layer": 12}."""
    from transformers import PreTrainedConfig

    name = type(model).__name__
    if parts := [key for key, value in vars(model.config).items() if isinstance(value, PreTrainedConfig)]:
        raise ModelError(
            f"{name} is made of several networks ({', '.join(parts)}), and take_layers cuts models of one; cut the one "
            "that is to be smaller, and put the two together again."
        )
    said = {key: value for key in DEPTHS if isinstance(value := getattr(model.config, key, None), int) and value > 0}
    stacks = {path: len(stack) for path, stack in _module_lists(model).items()}
    found = {key: value for key, value in said.items() if value in stacks.values()}
    if not found:
        raise ModelError(
            f"No layers were found in {name}: take_layers looks for an nn.ModuleList as long as its configuration says "
            f"in {', '.join(DEPTHS)}. It says {said or 'none of them'}, and the lists are {stacks or 'none'}. "
            "Layers that share their weights cannot be cut; build a smaller model from its configuration."
        )
    if not model.config.is_encoder_decoder or sum(depth in found.values() for depth in stacks.values()) == 1:
        return dict.fromkeys(found, max(found.values())) if len(set(found.values())) == 1 else found
    return found


def _indices(keep: int | Sequence[int], depth: int, several: bool) -> list[int]:
    pass
