"""Training, labelling and evaluating on the GPU, with models that are made here."""

# ruff: noqa: E402  (packages that are missing skip the file before anything else is imported)
import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

for needed in ("transformers", "accelerate", "datasets"):
    pytest.importorskip(needed, reason=f"{needed} is not installed")

from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, TrainerCallback

import limbeck
from limbeck import DistillConfig, DistillTrainer, Objective
from limbeck.networks.mlp import mlp

V, LONGEST = 512, 48
OBJECTIVE = Objective(temperature=2.0, hard_weight=0.5)


def llama(seed: int, width: int = 64) -> Any:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=V,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    made = LlamaForCausalLM(config)
    for parameter in made.parameters():  # far enough from 0 that two models say different things
        parameter.data.mul_(3)
    return made


def rows(n: int = 32, seed: int = 0) -> Dataset:
    """As `tokenise` makes them: of different lengths, the first three tokens a prompt."""
    g = torch.Generator().manual_seed(seed)
    made = []
    for row_id in range(n):
        length = int(torch.randint(8, LONGEST + 1, (), generator=g))
        ids = torch.randint(3, V, (length,), generator=g).tolist()
        made.append({"row_id": row_id, "input_ids": ids, "labels": [-100] * 3 + ids[3:], "length": length})
    return Dataset.from_list(made)


def padded(examples: list[dict[str, Any]], length: int) -> dict[str, Tensor]:
    def filled(name: str, filling: int) -> Tensor:
        return torch.tensor([list(e[name]) + [filling] * (length - len(e[name])) for e in examples])

    mask = torch.tensor([[1] * len(e["input_ids"]) + [0] * (length - len(e["input_ids"])) for e in examples])
    return {"input_ids": filled("input_ids", 0), "labels": filled("labels", -100), "attention_mask": mask}


class Gradients(TrainerCallback):
    """The gradients of the first step."""

    def __init__(self) -> None:
        self.first: list[Tensor] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if not self.first:
            self.first = [p.grad.detach().clone() for p in model.parameters() if p.grad is not None]


def trainer(
    device: torch.device, folder: Path, student: Any, teacher: Any, train: Any, impl: str = "auto", **changes: Any
) -> DistillTrainer:
    objective = changes.pop("objective", OBJECTIVE)
    usual = {"per_device_train_batch_size": 8, "learning_rate": 1e-3, "max_steps": 1, "max_grad_norm": 0.0}
    settings = usual | {"seed": 3, "use_cpu": device.type == "cpu"} | changes
    config = DistillConfig(output_dir=str(folder), save_strategy="no", disable_tqdm=True, logging_steps=1, **settings)
    return DistillTrainer(student, teacher, objective, config, train_dataset=train, impl=impl)


def losses(done: DistillTrainer) -> list[float]:
    return [line["loss"] for line in done.state.log_history if "loss" in line]


def difference(some: list[Tensor], others: list[Tensor]) -> float:
    a, b = (torch.cat([x.double().flatten() for x in xs]) for xs in (some, others))
    return ((a - b).norm() / b.norm()).item()


def gradients_of(device: torch.device, folder: Path, **changes: Any) -> list[Tensor]:
    """Of the first global batch of 8 examples."""
    seen = Gradients()
    worker = trainer(device, folder, llama(0), llama(1, 96), rows(), **changes)
    worker.add_callback(seen)
    worker.train()
    assert all(gradient.device.type == device.type for gradient in seen.first)
    return seen.first


@pytest.mark.parametrize("impl", ["auto", "compiled", "reference"])
def test_the_loss_of_a_language_model_falls_in_bfloat16(device: torch.device, tmp_path: Path, impl: str) -> None:
    worker = trainer(device, tmp_path, llama(0), llama(1, 96), rows(), impl, bf16=True, max_steps=30)
    worker.train()
    found = losses(worker)
    assert found[-1] < 0.8 * found[0], found
    assert next(worker.model.parameters()).device.type == device.type


def test_weights_in_bfloat16_train(device: torch.device, tmp_path: Path) -> None:
    student, teacher = llama(0).bfloat16(), llama(1, 96).bfloat16()
    worker = trainer(device, tmp_path, student, teacher, rows(), bf16=True, max_steps=30)
    worker.train()
    found = losses(worker)
    assert found[-1] < 0.9 * found[0], found


@pytest.mark.parametrize(("bf16", "at_most"), [(False, 1e-4), (True, 3e-2)], ids=["float32", "bfloat16"])
class TestGradients:
    def test_padding_changes_nothing(self, device: torch.device, tmp_path: Path, bf16: bool, at_most: float) -> None:
        examples = rows().to_list()[:8]
        worker = trainer(device, tmp_path, llama(0).eval(), llama(1, 96), rows(), bf16=bf16)
        worker.check()
        found = []
        for length in (LONGEST, 2 * LONGEST):
            batch = {name: values.to(device) for name, values in padded(examples, length).items()}
            worker.model.zero_grad()
            worker.compute_loss(worker.model, batch).backward()
            found.append([p.grad.clone() for p in worker.model.parameters() if p.grad is not None])
        assert difference(*found) < at_most

    def test_accumulation_changes_nothing(
        self, device: torch.device, tmp_path: Path, bf16: bool, at_most: float
    ) -> None:
        once = gradients_of(device, tmp_path, bf16=bf16)
        twice = gradients_of(device, tmp_path, bf16=bf16, per_device_train_batch_size=4, gradient_accumulation_steps=2)
        assert difference(twice, once) < at_most

    def test_no_logits_are_the_same_as_all_logits(
        self, device: torch.device, tmp_path: Path, bf16: bool, at_most: float
    ) -> None:
        whole = gradients_of(device, tmp_path, bf16=bf16, impl="reference")
        assert difference(gradients_of(device, tmp_path, bf16=bf16, impl="chunked"), whole) < at_most


@pytest.mark.parametrize(("kind", "options"), [("top_k", {"k": 16}), ("hidden", {}), ("dense", {})])
def test_a_student_learns_from_a_stored_set(
    device: torch.device, tmp_path: Path, kind: str, options: dict[str, Any]
) -> None:
    pytest.importorskip("rich", reason="rich is not installed")
    teacher = llama(1, 96).to(device)
    stored = limbeck.label(teacher, rows(), tmp_path / "set", kind, batch_size=8, **options)
    worker = trainer(device, tmp_path / "run", llama(0), stored.teacher, stored, bf16=True, max_steps=30)
    worker.train()
    live = trainer(device, tmp_path / "live", llama(0), teacher, rows(), bf16=True, max_steps=30)
    live.train()
    found, with_teacher = losses(worker), losses(live)
    assert found[-1] < 0.8 * found[0], found
    if kind != "top_k":  # whose tail is one event, so its loss is smaller
        assert found[0] == pytest.approx(with_teacher[0], rel=2e-2)


def words() -> Any:
    vocabulary = {"<pad>": 0, "<s>": 1, "</s>": 2} | {f"w{i}": i for i in range(3, V)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_evaluation_and_completions(device: torch.device, dtype: torch.dtype) -> None:
    teacher, student, baseline = (llama(seed).to(device, dtype) for seed in (1, 2, 3))
    results = limbeck.evaluate_language(
        student,
        rows(12),
        teacher=teacher,
        baseline=baseline,
        tokenizer=words(),
        completions=2,
        max_new_tokens=8,
        resamples=50,
    )
    on_cpu = limbeck.evaluate_language(student.float().cpu(), rows(12), teacher=teacher.float().cpu(), resamples=50)
    found, expected = (r["roles"]["student"]["nll"]["mean"] for r in (results, on_cpu))
    assert found == pytest.approx(expected, rel=1e-4 if dtype == torch.float32 else 3e-2)
    assert results["draft"]["reason"] is None, results["draft"]
    assert len(results["completions"]) == 2


def test_a_classifier_trains_and_is_evaluated(device: torch.device, tmp_path: Path) -> None:
    g = torch.Generator().manual_seed(0)
    inputs = torch.randn(512, 20, generator=g)
    labels = (inputs @ torch.randn(20, 5, generator=g)).argmax(-1)
    train, test = limbeck.arrays(inputs[:384], labels[:384]), limbeck.arrays(inputs[384:], labels[384:])
    torch.manual_seed(0)
    teacher, student = mlp([20, 64, 5]), mlp([20, 16, 5], dropout=0.1)
    changes = {"max_steps": 120, "per_device_train_batch_size": 64, "learning_rate": 1e-2}
    labels_alone = Objective(soft_weight=0, hard_weight=1)
    trainer(device, tmp_path / "teacher", teacher, None, train, objective=labels_alone, **changes).train()
    before = copy.deepcopy(student)
    worker = trainer(device, tmp_path / "student", student, teacher, train, bf16=True, **changes)
    worker.train()
    found = losses(worker)
    assert found[-1] < 0.7 * found[0], found
    results = limbeck.evaluate(student, test, baseline=before.to(device), teacher=teacher, resamples=50)
    assert results["verdict"]["word"] == "better", results["verdict"]
