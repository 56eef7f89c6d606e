"""Teachers that stay where they were loaded to: dispatched or offloaded by accelerate, quantised.

Oracle: the same model in one piece, as teacher, in a labelled transfer set and in an evaluation.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import accelerate
import pytest
import torch
from torch import nn

import limbeck
from limbeck.networks.asking import is_placed, where_it_is
from limbeck.teachers import as_teacher

from .small import contents, images, llama, network, rows, trainer

LAYERS = {"model.embed_tokens": "cpu", "model.rotary_emb": "cpu", "model.norm": "cpu"}
LAYERS |= {"model.layers.0": "cpu", "model.layers.1": "cpu", "lm_head": "cpu"}


def _dispatched(model: Any, folder: Path) -> Any:
    return accelerate.dispatch_model(model, {"": "cpu"}, force_hooks=True)


def _layer_on_disk(model: Any, folder: Path) -> Any:
    return accelerate.dispatch_model(model, LAYERS | {"model.layers.1": "disk"}, "cpu", offload_dir=folder)


def _head_on_disk(model: Any, folder: Path) -> Any:
    return accelerate.dispatch_model(model, LAYERS | {"lm_head": "disk"}, "cpu", offload_dir=folder)


def _all_on_disk(model: Any, folder: Path) -> Any:
    return accelerate.disk_offload(model, folder, execution_device=torch.device("cpu"))


def _quantised(model: Any, folder: Path) -> Any:
    def to(*given: Any) -> Any:
        raise ValueError("`.to` is not supported for `8-bit` bitsandbytes models.")

    model.is_quantized, model.to = True, to
    return model


PLACES = [_dispatched, _layer_on_disk, _head_on_disk, _all_on_disk, _quantised]


@pytest.mark.parametrize("place", PLACES)
def test_a_language_model_teaches_from_where_it_is(place: Callable[..., Any], tmp_path: Path) -> None:
    placed, whole = place(llama(), tmp_path / "weights"), llama()
    assert is_placed(placed)
    assert not is_placed(whole)
    assert as_teacher(placed).fingerprint() == as_teacher(whole).fingerprint()

    students, kept, found = [], [], []
    for name, teacher in (("placed", placed), ("whole", whole)):
        worker = trainer(llama(1), teacher, tmp_path / name, rows(), objective=limbeck.Objective(temperature=1.0))
        worker.train()
        students.append(torch.cat([p.detach().flatten() for p in worker.model.parameters()]))
        limbeck.label(teacher, rows(), tmp_path / f"{name}_set", k=4)
        shards = contents(tmp_path / f"{name}_set")
        manifest = json.loads(shards.pop("manifest.json"))
        kept.append((shards, manifest["teacher"]))
        found.append(limbeck.evaluate_language(llama(1), rows(), teacher=teacher, resamples=50)["roles"])
    assert torch.allclose(students[0], students[1], atol=1e-6)
    assert kept[0] == kept[1]
    for role, of in found[0].items():
        assert of == found[1][role]


@pytest.mark.parametrize("place", [_dispatched, _all_on_disk, _quantised])
def test_a_classifier_teaches_from_where_it_is(place: Callable[..., Any], tmp_path: Path) -> None:
    placed, whole = place(network(), tmp_path / "weights"), network()
    found = [limbeck.evaluate(network(1), images(), teacher=t, latency=False)["roles"] for t in (placed, whole)]
    assert found[0] == found[1]
    recorded = [limbeck.record(teacher, images()) for teacher in (placed, whole)]
    assert torch.equal(recorded[0].targets.logits, recorded[1].targets.logits)
    worker = trainer(network(1), placed, tmp_path / "run", images(), objective=limbeck.Objective())
    worker.train()
    assert worker.state.global_step > 0


def test_a_batch_goes_where_a_placed_network_is_and_comes_back() -> None:
    class Elsewhere(nn.Module):
        is_quantized = True

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.eye(3))

    batch = {"inputs": torch.zeros(2, 3, device="meta"), "row_id": [0, 1]}
    placed = Elsewhere()
    with pytest.raises(NotImplementedError, match="Cannot copy out of meta tensor"):  # it is moved to the CPU
        where_it_is(placed, batch)
    there, back = where_it_is(placed, {"inputs": torch.zeros(2, 3), "row_id": [0, 1]})
    assert (there["row_id"], back) == ([0, 1], torch.device("cpu"))
    placed.is_quantized = False
    assert where_it_is(placed, batch) == (batch, None)
