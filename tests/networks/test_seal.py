"""The seal of a saved model: every byte of what `load` reads is as it was saved.

Oracles: a byte that is flipped, cut off, added or gone, and the name of its file in the message.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import xxhash
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, ViTConfig, ViTForImageClassification

from limbeck.errors import ModelError
from limbeck.networks.folder import load, save, write_model
from limbeck.networks.mlp import mlp
from limbeck.networks.pixels import ImageProcessor

SEAL, WEIGHTS, CONFIG = "limbeck_model.json", "model.safetensors", "config.json"


def image_model() -> nn.Module:
    model = ViTForImageClassification(
        ViTConfig(
            image_size=8,
            patch_size=4,
            num_channels=1,
            hidden_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=8,
        )
    )
    vars(model)["image_processor"] = ImageProcessor({"do_normalize": True, "image_mean": [0.5], "image_std": [0.5]})
    return model


def language_model() -> nn.Module:
    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    return LlamaForCausalLM(LlamaConfig(vocab_size=20, **small))


KINDS: dict[str, Callable[[], nn.Module]] = {
    "mlp": lambda: mlp([8, 5, 3], dropout=0.1),
    "images": image_model,
    "language": language_model,
}


@pytest.fixture(params=KINDS, scope="module")
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(KINDS[request.param](), tmp_path_factory.mktemp("whole") / request.param)


@pytest.fixture
def saved(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "student")
    return tmp_path / "student"


def test_the_seal_lists_the_files_with_their_sizes_and_hashes(saved: Path) -> None:
    seal = json.loads((saved / SEAL).read_text())
    files = {path.name: path for path in saved.iterdir() if path.name != SEAL}
    assert seal == {
        "files": {name: path.stat().st_size for name, path in files.items()},
        "xxh3_128": {name: xxhash.xxh3_128(path.read_bytes()).hexdigest() for name, path in files.items()},
    }
    load(saved)


def test_every_region_of_every_file_is_checked(saved: Path) -> None:
    for path in [path for path in saved.iterdir() if path.name != SEAL]:
        right = path.read_bytes()
        places = sorted({0, 7, 8, 20, len(right) // 2, len(right) - 30, len(right) - 1} & set(range(len(right))))
        for place in places:
            for bits in (1, 128):
                path.write_bytes(right[:place] + bytes([right[place] ^ bits]) + right[place + 1 :])
                with pytest.raises(ModelError, match=path.name.replace(".", r"\.")):
                    load(saved)
        for other in (right[:-1], right + b"\0", b""):
            path.write_bytes(other)
            with pytest.raises(ModelError, match=rf"{path.name} has {len(other):,} bytes instead of {len(right):,}"):
                load(saved)
        path.write_bytes(right)
    load(saved)


def test_every_change_of_the_config_is_refused(saved: Path) -> None:
    config = json.loads((saved / CONFIG).read_text())
    for name in config:
        for value in (None, "x", -3, [[1]], "missing"):
            if config[name] == value:
                continue
            changed = {
                key: other for key, other in (config | {name: value}).items() if (key, value) != (name, "missing")
            }
            (saved / CONFIG).write_text(json.dumps(changed))
            with pytest.raises(ModelError, match=r"config\.json has .*delete .*limbeck_model\.json"):
                load(saved)


def test_a_file_that_is_gone_or_was_added(saved: Path) -> None:
    shutil.copy(saved / WEIGHTS, saved / "model-00002-of-00002.safetensors")
    with pytest.raises(ModelError, match=r"model-00002-of-00002\.safetensors was added after the model was saved"):
        load(saved)
    (saved / "model-00002-of-00002.safetensors").rename(saved / "renamed.safetensors")
    (saved / WEIGHTS).unlink()
    with pytest.raises(ModelError, match=r"model\.safetensors is missing"):
        load(saved)
    (saved / WEIGHTS).mkdir()
    with pytest.raises(ModelError, match=r"model\.safetensors is missing"):
        load(saved)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"[" * 20_000,
        b'{"files": {}}',
        b'{"files": [1], "xxh3_128": [1]}',
        b'{"files": {"config.json": "12"}, "xxh3_128": {"config.json": "ab"}}',
        b'{"files": {"config.json": 12}, "xxh3_128": {"config.json": null}}',
    ],
)
def test_a_seal_that_is_damaged(content: bytes, tmp_path: Path) -> None:
    saved = save(mlp([8, 3]), tmp_path / "student")
    (saved / SEAL).write_bytes(content)
    with pytest.raises(ModelError, match=r"limbeck_model\.json (cannot be read|is damaged), so the model cannot be"):
        load(saved)


def test_a_change_that_was_intended_loads_once_the_seal_is_gone(tmp_path: Path) -> None:
    saved = save(mlp([8, 3]), tmp_path / "student", label_names=["a", "b", "c"])
    config = json.loads((saved / CONFIG).read_text())
    config["limbeck"]["label_names"] = ["x", "y", "z"]
    (saved / CONFIG).write_text(json.dumps(config))
    with pytest.raises(ModelError, match="limbeck_model"):
        load(saved)
    (saved / SEAL).unlink()
    assert load(saved).label_names == ("x", "y", "z")


def test_the_weights_of_a_users_own_network_are_checked(tmp_path: Path) -> None:
    class Own(nn.Linear):
        pass

    saved = save(Own(8, 3), tmp_path / "student")
    right = (saved / WEIGHTS).read_bytes()
    (saved / WEIGHTS).write_bytes(right[:-1] + bytes([right[-1] ^ 1]))
    with pytest.raises(ModelError, match=r"model\.safetensors has other bytes than were saved"):
        load(saved, into=Own(8, 3))


def test_a_model_that_is_saved_again_has_a_new_seal(tmp_path: Path) -> None:
    first, second = mlp([8, 3]), mlp([8, 3])
    write_model(first, tmp_path)
    write_model(second, tmp_path)  # into the same folder, as a trainer does
    opened: Any = load(tmp_path)
    assert torch.equal(opened.layers[0].weight, second.layers[0].weight)
