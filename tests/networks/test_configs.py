"""Odd configurations of models without a seal: a ModelError with the file and the field, never another network.

Oracles: the logits of the network that was saved; a table of the fields whose other values are sound networks too.
"""

import copy
import json
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    ViTConfig,
    ViTForImageClassification,
)

from limbeck.errors import ModelError
from limbeck.networks.asking import logits_of
from limbeck.networks.configs import require_built_in
from limbeck.networks.folder import load, save
from limbeck.networks.mlp import mlp

GENERATOR = torch.Generator().manual_seed(0)
SMALL = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16}
TOKENS = {"input_ids": torch.arange(1, 9).view(1, 8)}
VALUES = [None, "x", -3, 10**9, [[1, [2]]], {"a": {"b": 1}}, True, 0, 1e30, float("nan"), 2.5, [], "missing"]


def bert() -> nn.Module:
    config = BertConfig(vocab_size=30, num_labels=3, num_hidden_layers=2, max_position_embeddings=32, **SMALL)
    return BertForSequenceClassification(config)


def llama() -> nn.Module:
    return LlamaForCausalLM(LlamaConfig(vocab_size=30, num_hidden_layers=2, num_key_value_heads=1, **SMALL))


def vit() -> nn.Module:
    sizes = {"image_size": 8, "patch_size": 4, "num_channels": 1}
    return ViTForImageClassification(ViTConfig(num_labels=3, num_hidden_layers=1, **sizes, **SMALL))


def mixtral() -> nn.Module:
    config = MixtralConfig(vocab_size=30, num_hidden_layers=1, num_key_value_heads=1, num_local_experts=2, **SMALL)
    return MixtralForCausalLM(config)


MODELS: dict[str, tuple[Callable[[], nn.Module], dict[str, Tensor]]] = {
    "mlp": (lambda: mlp([8, 5, 3], dropout=0.1), {"inputs": torch.randn(2, 8, generator=GENERATOR)}),
    "bert": (bert, TOKENS),
    "llama": (llama, TOKENS),
    "vit": (vit, {"pixel_values": torch.rand(1, 1, 8, 8, generator=GENERATOR)}),
}

SOUND = {"is_decoder", "rope_parameters.rope_theta"}
"""Fields whose changed values are those of a network that could be meant; only a seal tells them from damage."""


def unsealed(folder: Path, model: nn.Module) -> tuple[Path, dict[str, Any]]:
    save(model, folder)
    (folder / "limbeck_model.json").unlink()
    return folder, json.loads((folder / "config.json").read_text())


def mutations(config: dict[str, Any]) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """`(field, value, the changed configuration)`, also of nested fields and of some that are not there."""
    fields = [*_fields(config), ("text_config",), ("quantization_config",), ("per_layer_config",), ("to_dict",)]
    for field in [*fields, ("attn_implementation",), ("num_labels",)]:
        for value in VALUES:
            changed = copy.deepcopy(config)
            place = changed
            for name in field[:-1]:
                place = place[name]
            if value == "missing":
                place.pop(field[-1], None)
            else:
                place[field[-1]] = value
            yield ".".join(field), value, changed


def _fields(config: dict[str, Any], before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, value in config.items():
        yield (*before, name)
        if isinstance(value, dict):
            yield from _fields(value, (*before, name))


def opened_or_refused(folder: Path) -> tuple[nn.Module | None, str]:
    """`(the network, its warnings)`, or `(None, the message of the ModelError)`."""
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        try:
            return load(folder), " ".join(str(warning.message) for warning in heard)
        except ModelError as error:
            return None, str(error)


@pytest.mark.parametrize("name", MODELS)
def test_an_odd_configuration_is_refused_or_the_same_network(name: str, tmp_path: Path) -> None:
    make, batch = MODELS[name]
    torch.manual_seed(0)
    model = make().eval()
    with torch.no_grad():
        right = logits_of(model, batch)
    folder, config = unsealed(tmp_path / name, model)
    refused, same = 0, 0
    for field, value, changed in mutations(config):
        (folder / "config.json").write_text(json.dumps(changed))
        case = f"{field} = {value!r}"
        opened, said = opened_or_refused(folder)
        if opened is None:
            assert "config.json" in said, case
            named = any(word in said for word in (field.rpartition(".")[2], "lacks weights", "names the architecture"))
            assert named or field.startswith("id2label"), f"{case}: {said}"
            refused += 1
            continue
        with torch.no_grad():
            found = logits_of(opened, batch)
        if "they are not used" not in said and field not in SOUND:
            torch.testing.assert_close(found, right, msg=f"{case}: other logits")
        same += 1
    assert refused > 80
    assert same > 50


@pytest.mark.parametrize("name", ["attn_implementation", "_attn_implementation", "experts_implementation"])
@pytest.mark.parametrize(
    "value",
    ["kernels-community/flash-attn3", "someone/kernel:attention", "someone/kernel@main", "paged|sdpa", "msa", 3, True],
)
@pytest.mark.parametrize("place", [(), ("text_config",), ("vision_config", "text_config"), ("per_layer_config", "0")])
def test_no_kernel_of_the_hub_is_named_by_a_configuration(name: str, value: Any, place: tuple[str, ...]) -> None:
    config: Any = {name: value}
    for part in reversed(place):
        config = {part: config}
    field = r"\.".join([*place, name])
    with pytest.raises(ModelError, match=rf"^here/config\.json: {field} is .*eager"):
        require_built_in(config, "here/config.json")
    with pytest.raises(ModelError, match=rf"{field}\.text_config is "):  # a dict by part of the model
        require_built_in(
            json.loads(json.dumps(config).replace(json.dumps(value), json.dumps({"text_config": value}))), "here"
        )


def test_a_kernel_is_refused_before_transformers_sees_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, config = unsealed(tmp_path / "model", llama())
    (folder / "config.json").write_text(json.dumps(config | {"_attn_implementation": "someone/kernel"}))

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("transformers was asked")

    monkeypatch.setattr(transformers.LlamaForCausalLM, "from_pretrained", never)
    with pytest.raises(
        ModelError, match=r"config\.json: _attn_implementation is 'someone/kernel', which could be code"
    ):
        load(folder)


@pytest.mark.parametrize("value", ["eager", "sdpa", None])
def test_attention_that_is_built_in_loads(value: str | None, tmp_path: Path) -> None:
    folder, config = unsealed(tmp_path / "model", llama())
    (folder / "config.json").write_text(json.dumps(config | {"attn_implementation": value}))
    opened: Any = load(folder)
    assert opened.config._attn_implementation == (value or "sdpa")


def test_flash_attention_that_is_not_installed_is_not_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transformers.utils, "is_flash_attn_2_available", lambda: False)
    with pytest.raises(ModelError, match=r"is flash_attention_2, which is not available here; install it, or set"):
        require_built_in({"attn_implementation": "flash_attention_2"}, "model")
    monkeypatch.setattr(transformers.utils, "is_flash_attn_2_available", lambda: True)
    require_built_in({"attn_implementation": "flash_attention_2"}, "model")


def test_a_legitimate_folder_of_the_hub_loads(tmp_path: Path) -> None:
    """With fields that only the authors' code reads, as many folders on the hub have them."""
    model = mixtral().eval()
    folder, config = unsealed(tmp_path / "model", model)
    config |= {"auto_map": {"AutoModelForCausalLM": "modeling_own.OwnForCausalLM"}, "torch_dtype": config.pop("dtype")}
    config |= {"_name_or_path": "/root/run/model", "use_flash_attn": True, "attn_config": {"clip_qkv": None}}
    config |= {"experts_implementation": "eager", "time_step_limit": [0.0, float("inf")]}
    (folder / "config.json").write_text(json.dumps(config))
    with torch.no_grad():
        torch.testing.assert_close(logits_of(load(folder), TOKENS), logits_of(model, TOKENS))


def test_weights_that_the_network_has_no_place_for_are_named(tmp_path: Path) -> None:
    folder, config = unsealed(tmp_path / "model", llama())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 1}))
    with pytest.warns(UserWarning, match=r"has no place for \(model\.layers\.1\.input_layernorm\.weight, .*not used"):
        load(folder)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        (
            "num_hidden_layers",
            10**9,
            "num_hidden_layers is 1,000,000,000, but the weights of this folder are 21 tensors",
        ),
        ("num_labels", 10**9, "num_labels is 1,000,000,000"),
        ("num_hidden_layers", -1, "num_hidden_layers is -1"),
        ("model_type", 3, "model_type must be a name, but is 3"),
        ("dtype", "int8", "dtype is 'int8', but must be one of auto"),
        ("rms_norm_eps", 1e30, "rms_norm_eps is 1e.30, but must be a small number"),
    ],
)
def test_values_that_no_network_has(field: str, value: Any, said: str, tmp_path: Path) -> None:
    folder, config = unsealed(tmp_path / "model", llama())
    (folder / "config.json").write_text(json.dumps(config | {field: value}))
    with pytest.raises(ModelError, match=rf"config\.json: {said}"):
        load(folder)


@pytest.mark.parametrize(
    "sizes", [[10**9, 10**9], [10**18, 10**18], [8, 10**9, 3], [True, 3], [8, 5.0, 3], "853", None]
)
def test_sizes_are_compared_with_the_file_before_memory_is_taken(sizes: Any, tmp_path: Path) -> None:
    folder, config = unsealed(tmp_path / "model", mlp([8, 5, 3]))
    config["settings"]["sizes"] = sizes
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"config\.json.*(sizes|settings)"):
        load(folder)


def test_a_configuration_that_is_nested_deep(tmp_path: Path) -> None:
    folder, _ = unsealed(tmp_path / "model", llama())
    for depth, said in ((100, "is nested more than 32 deep"), (100_000, "is not JSON")):
        text = '{"architectures": ["LlamaForCausalLM"], "a": ' + "[" * depth + "]" * depth + "}"
        (folder / "config.json").write_text(text)
        with pytest.raises(ModelError, match=rf"config\.json.*{said}"):
            load(folder)


PROCESSOR: dict[str, Any] = {
    **{
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": 8, "width": 8},
        "resample": 2,
    },
    **{"do_rescale": True, "rescale_factor": 1 / 255, "do_center_crop": False, "crop_size": {"height": 8, "width": 8}},
    **{"do_normalize": True, "image_mean": [0.5], "image_std": [0.5]},
}
ODD_SIZES = [{"height": 0, "width": 8}, {"shortest_edge": -1}, {"height": 1e9, "width": 8}, [8], [8, 8, 8]]
CHANGED = {"image_mean": {-3, 0, -0.5, 2.5}, "image_std": {2.5, 10**9}, "rescale_factor": {2.5}, "resample": {0}}
"""Values that another processor could have."""


@pytest.mark.parametrize("field", PROCESSOR)
def test_an_odd_image_processor_is_refused_or_does_the_same(field: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    folder, _ = unsealed(tmp_path / "model", vit())
    pixels = {"pixel_values": torch.rand(1, 1, 10, 12, generator=torch.Generator().manual_seed(1))}
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    with torch.no_grad():
        right = logits_of(load(folder), pixels)
    for value in [*VALUES, *ODD_SIZES, ["x"], 0.0, -0.5]:
        if value == "missing" or (value is None and field in ("do_resize", "do_rescale", "do_normalize")):
            continue  # the default of the class
        (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR | {field: value}))
        case = f"{field} = {value!r}"
        opened, said = opened_or_refused(folder)
        if opened is None:
            assert re.search(rf"preprocessor_config\.json.*{field}|could not be built", said), f"{case}: {said}"
        elif not isinstance(value, list | dict | str) and value not in CHANGED.get(field, ()):
            with torch.no_grad():
                torch.testing.assert_close(logits_of(opened, pixels), right, msg=case)
