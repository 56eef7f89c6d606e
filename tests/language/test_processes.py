"""Two gloo processes on the CPU: DDP through Trainer and Accelerate, FSDP2 through fully_shard.

Oracle: one process with the same examples; the two must end with its weights, or have its gradients.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from two_processes import in_two_processes, sharding_on_the_cpu

import limbeck
from limbeck import linear_divergence
from limbeck.losses.objective import count_positions
from limbeck.networks.halves import head_of, within_forward
from limbeck.networks.positions import next_tokens
from limbeck.teachers.model import ModelTeacher

from .test_training import EXAMPLES, OBJECTIVE, model, padded, trainer

STEP = {"learning_rate": 0.1, "optim": "sgd", "max_grad_norm": 0, "lr_scheduler_type": "constant"}


def _train(rank: int, folder: str) -> None:
    student = model()
    worker = trainer(student, model(seed=1), Path(folder), **STEP)
    assert worker.args.world_size == 2
    worker.train()
    measured = worker.evaluate()
    if rank == 0:
        torch.save([p.detach() for p in student.parameters()], Path(folder, "weights.pt"))
        torch.save({"nll": measured["eval_nll"], "forward_kl": measured["eval_forward_kl"]}, Path(folder, "means.pt"))


def test_ddp_ends_with_the_weights_of_one_process_with_accumulation(tmp_path: Path) -> None:
    in_two_processes(_train, str(tmp_path))
    alone = model()
    worker = trainer(alone, model(seed=1), tmp_path, gradient_accumulation_steps=2, **STEP)
    worker.train()
    two = torch.load(tmp_path / "weights.pt", weights_only=True)
    untrained = model()
    for found, expected, before in zip(two, alone.parameters(), untrained.parameters(), strict=True):
        torch.testing.assert_close(found, expected.detach(), rtol=1e-4, atol=1e-6)
        assert not torch.equal(found, before)
    measured = worker.evaluate()
    means = torch.load(tmp_path / "means.pt", weights_only=True)
    assert means == pytest.approx({name: measured[f"eval_{name}"] for name in means}, rel=1e-4)


def _train_in_shards(rank: int, folder: str) -> None:
    sharding_on_the_cpu()
    student = model()
    kept = {"fsdp": True, "fsdp_config": {"state_dict_type": "SHARDED_STATE_DICT"}}
    worker = trainer(student, model(seed=1), Path(folder, "shards"), **STEP, **kept)
    worker.train()
    assert all(isinstance(p, DTensor) for p in student.parameters())
    worker.save_model(str(Path(folder, "saved")))
    measured = worker.evaluate()
    if rank == 0:
        Path(folder, "means.json").write_text(json.dumps(measured))


def test_a_student_in_shards_ends_as_that_of_one_process_and_is_saved_whole(tmp_path: Path) -> None:
    """By Trainer and accelerate, which shard the output layer by itself."""
    in_two_processes(_train_in_shards, str(tmp_path))
    alone = model()
    worker = trainer(alone, model(seed=1), tmp_path, gradient_accumulation_steps=2, **STEP)
    worker.train()
    saved: Any = limbeck.load(tmp_path / "saved")
    for found, expected in zip(saved.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(found.detach(), expected.detach(), rtol=1e-4, atol=1e-6)
    means, measured = json.loads((tmp_path / "means.json").read_text()), worker.evaluate()
    for name in ("eval_nll", "eval_forward_kl"):
        assert means[name] == pytest.approx(measured[name], rel=1e-4)


def _loss(student: Any, batch: dict[str, Any], counts: Any, teacher: ModelTeacher) -> Any:
    rows, labels, _ = next_tokens(batch)
    targets = teacher(batch)

    def compared(hidden: torch.Tensor) -> Any:
        head = head_of(student)
        assert head is not None
        return linear_divergence(
            hidden.flatten(0, 1)[rows], head.weight, targets, OBJECTIVE, labels, counts=counts, impl="chunked"
        )

    return within_forward(student, student, batch, compared).mean


def _shard(rank: int, folder: str) -> None:
    dist.init_process_group("gloo")
    student, teacher = model(), model(seed=1)
    for sharded in (student, teacher):
        for layer in sharded.model.layers:
            fully_shard(layer)
        fully_shard(sharded)
    assert all(isinstance(p, DTensor) for p in student.parameters())
    batch = padded(EXAMPLES, 12)
    mine = {name: values[2 * rank : 2 * rank + 2] for name, values in batch.items()}
    labels = next_tokens(batch).labels
    loss = _loss(student, mine, count_positions(tuple(labels.shape), labels), ModelTeacher(teacher))
    (2 * loss).backward()  # FSDP takes the mean over processes of shares that add up
    gradients = [p.grad.full_tensor() for p in student.parameters()]  # type: ignore[attr-defined, union-attr]
    total = loss.detach().clone()
    dist.all_reduce(total)
    assert all(p.grad is None for p in teacher.parameters())
    if rank == 0:
        torch.save([total, *gradients], Path(folder, "gradients.pt"))


def test_fsdp2_has_the_loss_and_gradients_of_one_process(tmp_path: Path) -> None:
    in_two_processes(_shard, str(tmp_path))
    total, *found = torch.load(tmp_path / "gradients.pt", weights_only=True)
    student, batch = model(), padded(EXAMPLES, 12)
    labels = next_tokens(batch).labels
    loss = _loss(student, batch, count_positions(tuple(labels.shape), labels), ModelTeacher(model(seed=1)))
    loss.backward()
    torch.testing.assert_close(total, loss.detach(), rtol=1e-5, atol=0)
    for gradient, parameter in zip(found, student.parameters(), strict=True):
        assert (gradient - parameter.grad).norm() <= 1e-4 * parameter.grad.norm()
