"""A student cut from its teacher: some of a transformer's layers, and a copy of everything else.

What this file does not know: training; other widths, vocabularies or kinds of network than the teacher's.
"""

import copy
import operator
from collections.abc import Sequence
from itertools import pairwise
from numbers import Integral
from typing import Any, SupportsIndex, TypeGuard, TypeVar

import torch
from torch import Tensor, nn

from limbeck.errors import ModelError
from limbeck.networks.modes import evaluating

M = TypeVar("M", bound=nn.Module)

DEPTHS: tuple[str, ...] = ("num_hidden_layers", "num_layers", "n_layer", "n_layers")
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
            f"take_layers copies layers of transformers models, but got {type(model).__name__}. Of a PEFT model, give "
            "model.merge_and_unload(); for any other network, build a smaller one and load "
            "the weights of the layers that you keep into it."
        )
    if getattr(model, "hf_quantizer", None) is not None or any(p.is_meta for p in model.parameters()):
        raise ModelError(
            f"The weights of this {type(model).__name__} are quantised or offloaded, and cannot be copied; load the "
            "model in full, with from_pretrained(..., dtype=torch.bfloat16) for instance."
        )
    stacks, depths = _stacks_and_depths(model)
    if model.config.is_encoder_decoder and len(stacks) > 1 and not _is_number(keep):
        raise ModelError(
            f"{type(model).__name__} has several stacks of layers ({', '.join(stacks)}), so indices do not say which "
            f"layers are meant; pass how many each keeps, such as keep={max(1, min(stacks.values()) // 2)}."
        )
    indices_of = {depth: _indices(keep, depth) for depth in sorted(set(depths.values()))}
    student = _build(model, depths, indices_of)
    # what became shorter with the configuration is cut: another list may have as many entries as there are layers
    cut = {
        path: indices_of[length]
        for path, length in stacks.items()
        if len(_layers_at(student, path)) == len(indices_of[length])
    }
    if {stacks[path] for path in cut} != set(indices_of):
        raise ModelError(
            f"A {type(model).__name__} of fewer layers has as many in {', '.join(sorted(set(stacks) - set(cut)))}; "
            "build a smaller model from another configuration."
        )
    for path, indices in cut.items():
        ours, theirs = _layers_at(student, path), _layers_at(model, path)
        for place, index in enumerate(indices):
            _require_same(ours[place], theirs[index], place, index)
    _copy_weights(student, model, cut)
    if model.can_generate():
        student.generation_config = copy.deepcopy(model.generation_config)
    if "image_processor" in vars(model):
        vars(student)["image_processor"] = copy.deepcopy(vars(model)["image_processor"])
    evaluated: M = student.eval()
    _require_running(evaluated, model, indices_of)
    return evaluated


def _require_running(student: nn.Module, model: nn.Module, indices_of: dict[int, list[int]]) -> None:
    """ModelError where the student fails on an input that the teacher reads.

    transformers' caches need a layer of attention, for instance, and stages of vision models have sizes of their own.
    """
    inputs = _few_inputs(model)
    if inputs is None or _failure(model, inputs) is not None:
        return
    error = _failure(student, inputs)
    if error is not None:
        kept = "; ".join(f"{indices} of {depth}" for depth, indices in indices_of.items())
        raise ModelError(
            f"A {type(model).__name__} of the layers {kept} cannot run ({type(error).__name__}: {error}). Keep at "
            "least one layer of each kind that the model has, attention among them, by their indices; where layers "
            "differ in size, build a smaller model from a configuration."
        )


def _failure(model: nn.Module, inputs: dict[str, Tensor]) -> Exception | None:
    """What a forward raises; None where it works."""
    try:
        with torch.random.fork_rng(), evaluating([model]):
            model(**inputs)
    except Exception as error:  # the code of any model, which may raise anything
        return error
    return None


def _few_inputs(model: Any) -> dict[str, Tensor] | None:
    """A small input of a model of texts or images; None for others."""
    device = next(model.parameters()).device
    config, main = model.config, getattr(model, "main_input_name", None)
    if main == "input_ids":
        ids = torch.ones(1, 4, dtype=torch.long, device=device)
        return {"input_ids": ids} | ({"decoder_input_ids": ids} if config.is_encoder_decoder else {})
    if main == "pixel_values":
        size = getattr(config, "image_size", None) or 64
        height, width = size if isinstance(size, list | tuple) else (size, size)
        channels = getattr(config, "num_channels", 3)
        return {"pixel_values": torch.zeros(1, channels, height, width, device=device, dtype=model.dtype)}
    return None


def _stacks_and_depths(model: Any) -> tuple[dict[str, int], dict[str, int]]:
    """The lengths of the lists of layers, by path; and the configuration's words for these: `{"n_layer": 12}`."""
    name = type(model).__name__
    config = _config_of_layers(model.config)
    inside = _path_of(model, config) if config is not model.config else ""
    parts = _parts(model.config)
    if parts and not inside:
        raise ModelError(
            f"{name} is made of several networks ({', '.join(parts)}), and take_layers cuts models of one, or the text "
            "part of a model that reads images or sound; cut the network that is to be smaller, and put them together "
            "again."
        )
    depths = {key: value for key in DEPTHS if isinstance(value := getattr(config, key, None), int) and value > 0}
    lists = {path: length for path, length in _outermost_lists(model).items() if path.startswith(inside)}
    stacks = {path: length for path, length in lists.items() if length in depths.values()}
    if not stacks:
        raise ModelError(
            f"No layers were found in {name}: take_layers looks for an nn.ModuleList as long as the configuration says "
            f"in {', '.join(DEPTHS)}; it has {depths or 'none of them'}, and the lists are {lists or 'none'}. Layers "
            "that share their weights cannot be cut; build a smaller model from a configuration."
        )
    return stacks, {key: value for key, value in depths.items() if value in stacks.values()}


def _parts(config: Any) -> list[str]:
    """The names of the configurations of networks that a configuration is made of; none for a model of one network.

    MPT has a configuration of its attention alone, which is no network.
    """
    from transformers import PreTrainedConfig

    found = {key: value for key, value in vars(config).items() if isinstance(value, PreTrainedConfig)}
    return [key for key, value in found.items() if any(hasattr(value, depth) for depth in DEPTHS)]


def _config_of_layers(config: Any) -> Any:
    """The configuration of the layers that are cut: that of the text part where a model has several."""
    found = getattr(config, "text_config", None) if _parts(config) else None
    return config if found is None or _parts(found) else found


def _path_of(model: nn.Module, config: Any) -> str:
    """The path, with a dot at its end, of the outermost part of a model that has this configuration; else ""."""
    for path, module in model.named_modules():
        if path and getattr(module, "config", None) is config:
            return f"{path}."
    return ""


def _outermost_lists(model: nn.Module) -> dict[str, int]:
    """The lengths of the ModuleLists that are in no other one, by path."""
    found: dict[str, int] = {}
    for path, module in model.named_modules():
        inside = any(path.startswith(f"{outer}.") for outer in found)
        if isinstance(module, nn.ModuleList) and len(module) and not inside:
            found[path] = len(module)
    return found


def _layers_at(model: nn.Module, path: str) -> list[nn.Module]:
    """The layers of the ModuleList at a path; none where another module stands there."""
    stack = model.get_submodule(path)
    return list(stack) if isinstance(stack, nn.ModuleList) else []


def _is_number(keep: object) -> TypeGuard[SupportsIndex]:
    return isinstance(keep, Integral) and not isinstance(keep, bool)  # NumPy's integers are Integral too


def _indices(keep: int | Sequence[int], depth: int) -> list[int]:
    """The indices that `keep` means in a stack of `depth` layers."""
    if _is_number(keep):
        count = operator.index(keep)
        if not 1 <= count <= depth:
            raise ModelError(f"keep must be a number of layers from 1 to {depth}, or their indices, but is {count}.")
        steps = max(count - 1, 1)
        return [(2 * j * (depth - 1) + steps) // (2 * steps) for j in range(count)]  # rounded, halves up
    indices = []
    if isinstance(keep, Sequence) and not isinstance(keep, str) and all(map(_is_number, keep)):
        indices = [operator.index(index) for index in keep]
    increasing = all(before < after for before, after in pairwise(indices))
    if not indices or not increasing or indices[0] < 0 or indices[-1] >= depth:
        raise ModelError(
            f"keep must be a number of layers from 1 to {depth}, or indices between 0 and {depth - 1} that increase, "
            f"such as [0, {depth - 1}], but is {keep!r}."
        )
    return indices


def _build(model: Any, depths: dict[str, int], indices_of: dict[int, list[int]]) -> Any:
    """A new model of the same class and fewer layers, before the weights are copied.

    depths: the configuration's names for numbers of layers, and these numbers.
    indices_of: the indices of the layers that stay, by the number of layers that the model has.
    """
    whole = copy.deepcopy(model.config)
    config = _config_of_layers(whole)
    name = type(model).__name__
    edited: dict[str, Any] = {key: len(indices_of[depth]) for key, depth in depths.items()}
    for key, value in vars(config).items():
        per_layer = isinstance(value, list | tuple) and any(part in key for part in PER_LAYER)
        if per_layer and len(value) in indices_of and not key.startswith("_"):
            edited[key] = type(value)(value[index] for index in indices_of[len(value)])
    stages = getattr(config, "stage_names", None) or []  # of vision models that can be backbones: a stem and the layers
    as_by_default = len(stages) - 1 in indices_of and getattr(config, "out_features", None) == stages[-1:]
    if as_by_default:
        edited["stage_names"] = stages[: len(indices_of[len(stages) - 1]) + 1]
    try:
        for key, value in edited.items():
            setattr(config, key, value)
        if as_by_default:
            config.set_output_features_output_indices(out_features=None, out_indices=None)  # the last layer's
        opened = _config_of_layers(type(whole).from_dict(whole.to_dict()))  # as it will be read from a folder
        with torch.random.fork_rng(devices=[]):  # its first weights are all replaced, and cost no random numbers
            student = type(model)._from_config(whole, dtype=model.dtype)
    except Exception as error:  # the code of any model, which may raise anything
        raise ModelError(f"{name} cannot be built with {edited}: {type(error).__name__}: {error}") from error
    changed = [key for key, value in edited.items() if getattr(opened, key, None) != value]
    if changed:
        raise ModelError(
            f"The configuration of {name} makes {', '.join(changed)} from other entries, so a student of fewer layers "
            "could not be opened again after it was saved; build a smaller model from another configuration."
        )
    return student


def _require_same(ours: nn.Module, theirs: nn.Module, place: int, index: int) -> None:
    """ModelError unless a layer built for `place` computes what the teacher's does at `index`: all settings agree.

    Some layers depend on their place: T5's first one holds the position bias of all, others attend in windows.
    """
    modules = dict(theirs.named_modules())
    for path, module in ours.named_modules():
        other = modules.get(path)
        if "drop" in path:  # stochastic depth grows with the place, and is no part of what is computed in eval mode
            continue
        differs = None if type(other) is type(module) else f"{path or 'it'} is another module"
        for key, value in _settings(module).items():
            was = _settings(other).get(key) if other is not None else None
            if differs is None and was != value and not (type(was) is int and (was, value) == (index, place)):
                differs = f"{type(module).__name__}.{key} is {was} there, and would be {value} here"
        if differs is not None:
            raise ModelError(
                f"Layer {index} of the teacher cannot be layer {place} of a student: {differs}. Keep layers that are "
                "alike in their new places (layer 0 as the first, say), by their indices."
            )


def _settings(module: nn.Module) -> dict[str, Any]:
    """The public attributes of a module that are numbers, strings or None, without those of training."""
    state = ("training", "gradient_checkpointing")
    plain = {key: value for key, value in vars(module).items() if isinstance(value, bool | int | float | str | None)}
    return {k: v for k, v in plain.items() if k not in state and k[0] != "_" and "drop" not in k and "cache" not in k}


def _copy_weights(student: nn.Module, model: nn.Module, cut: dict[str, list[int]]) -> None:
    """Copies every parameter and buffer; raises ModelError where one is left over or lacking."""

    def in_teacher(name: str) -> str:
        for path, indices in cut.items():
            if name.startswith(f"{path}."):
                place, _, rest = name.removeprefix(f"{path}.").partition(".")
                return f"{path}.{indices[int(place)]}.{rest}"
        return name

    weights = dict(model.named_parameters(remove_duplicate=False))
    buffers = dict(model.named_buffers(remove_duplicate=False))
    saved, device = student.state_dict(), next(model.parameters()).device
    used, wrong = set(), []
    with torch.no_grad():
        for name, parameter in student.named_parameters():  # those that are tied, once
            source = weights.get(in_teacher(name))
            if source is None or source.shape != parameter.shape:
                wrong.append(name)
                continue
            used.add(id(source))
            parameter.data = source.detach().clone()
        for name, buffer in list(student.named_buffers()):
            known = buffers.get(in_teacher(name))
            fits = known is not None and known.shape == buffer.shape
            if name in saved and not fits:
                wrong.append(name)
            used.add(id(known))
            owner, _, key = name.rpartition(".")
            new = known.detach().clone() if known is not None and fits else buffer.to(device)
            setattr(student.get_submodule(owner), key, new)
    dropped = tuple(
        f"{path}.{index}."
        for path, indices in cut.items()
        for index in set(range(len(_layers_at(model, path)))) - set(indices)
    )
    left = [
        name
        for name, value in model.state_dict(keep_vars=True).items()
        if isinstance(value, Tensor) and id(value) not in used and not name.startswith(dropped)
    ]
    if wrong or left:
        raise ModelError(
            f"The weights of this {type(model).__name__} do not fit the one of its configuration with fewer layers: "
            f"{', '.join([*wrong, *left][:3])} ({len(wrong)} lacking or of another shape, {len(left)} left over). "
            "Merge adapters first, and undo changes of the network that are not in its configuration."
        )
