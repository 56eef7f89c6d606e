"""The auxiliary loss of a mixture of experts. The oracle is the model's own loss: `model(**batch, labels=...)`."""

import copy
import logging
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from datasets import Dataset
from torch import Tensor
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    OlmoeConfig,
    OlmoeForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from limbeck import DistillConfig, DistillTrainer, Objective
from limbeck.networks.router import router_weight

V, WEIGHT = 29, 0.5
SMALL: dict[str, Any] = {
    "vocab_size": V,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 32,
    "num_experts_per_tok": 2,
    "output_router_logits": True,
    "router_aux_loss_coef": WEIGHT,
}
FAMILIES: dict[str, Any] = {
    "mixtral": lambda: MixtralForCausalLM(MixtralConfig(**SMALL, num_local_experts=4)),
    "qwen3": lambda: Qwen3MoeForCausalLM(
        Qwen3MoeConfig(**SMALL, num_experts=4, moe_intermediate_size=8, decoder_sparse_step=1, head_dim=8)
    ),
    "olmoe": lambda: OlmoeForCausalLM(OlmoeConfig(**SMALL, num_experts=4)),
}
EXPERTS: dict[str, dict[str, Any]] = {
    "Qwen2Moe": {"num_experts": 4, "moe_intermediate_size": 8, "shared_expert_intermediate_size": 8},
    "GptOss": {"num_local_experts": 4, "head_dim": 8, "sliding_window": 4},
    "GraniteMoe": {"num_local_experts": 4},
    "Phimoe": {"num_local_experts": 4},
    "Jamba": {
        "num_experts": 4,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "expert_layer_period": 2,
        "expert_layer_offset": 0,
        "mamba_d_state": 4,
        "mamba_dt_rank": 2,
        "use_mamba_kernels": False,
    },
}


def family_of(name: str) -> Any:
    config = getattr(transformers, f"{name}Config")(**SMALL | EXPERTS[name])
    return getattr(transformers, f"{name}ForCausalLM")(config)


FAMILIES |= {name: partial(family_of, name) for name in EXPERTS}
LENGTHS = (9, 5, 7, 3)
DRAWN = torch.Generator().manual_seed(0)
ROWS = Dataset.from_list(
    [
        {"row_id": i, "input_ids": ids, "labels": [-100, *ids[1:]]}
        for i, ids in enumerate(torch.randint(3, V, (n,), generator=DRAWN).tolist() for n in LENGTHS)
    ]
)
LABELS = Objective(soft_weight=0.0, hard_weight=1.0)


def student_of(family: str) -> Any:
    torch.manual_seed(0)
    return FAMILIES[family]().eval()


def trainer_of(folder: Path, student: Any, teacher: Any = None, objective: Objective = LABELS, **more: Any) -> Any:
    settings = {"per_device_train_batch_size": 4, "max_steps": 1, "disable_tqdm": True, "max_grad_norm": 0.0}
    config = DistillConfig(output_dir=str(folder), **settings | more)
    return DistillTrainer(student, teacher, objective, config, train_dataset=ROWS)


def gradients(student: Any) -> dict[str, Tensor]:
    return {n: p.grad.clone() for n, p in student.named_parameters() if p.grad is not None}


def loss_and_gradients(trainer: Any, batches: list[Any]) -> tuple[float, dict[str, Tensor], Any]:
    """As in a step of these batches: its loss, summed over the batches, and the gradients."""
    trainer.check()
    trainer.model.zero_grad()
    batches, counts = trainer.get_batch_samples(iter(batches), len(batches), trainer.args.device)
    total = 0.0
    for batch in batches:
        loss = trainer.compute_loss(trainer.model, batch, num_items_in_batch=counts)
        loss.backward()
        total += loss.item()
    return total, gradients(trainer.model), trainer


def collated(trainer: Any, rows: list[int]) -> Any:
    return trainer.data_collator(ROWS.select(rows).to_list())


@pytest.mark.parametrize("impl", ["auto", "whole"])
@pytest.mark.parametrize("family", FAMILIES)
def test_loss_and_gradients_are_the_models_own(
    family: str, impl: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    student = student_of(family)
    trainer = trainer_of(tmp_path, student)
    if impl == "whole":  # as for a model whose logits are not a product of its last states
        monkeypatch.setattr("limbeck.training.plan.logits_are_heads", lambda *given: False)
    batch = collated(trainer, [0, 1, 2, 3])
    found, of_ours, _ = loss_and_gradients(trainer, [batch])
    own = copy.deepcopy(student)
    own.zero_grad()
    output = own(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=batch["labels"])
    output.loss.backward()
    assert output.aux_loss.item() > 1
    assert found == pytest.approx(float(output.loss), rel=1e-5)
    for name, gradient in gradients(own).items():
        torch.testing.assert_close(of_ours[name], gradient, rtol=1e-3, atol=1e-6, msg=name)
    total, count = trainer._logged["router"].tolist()
    assert total / count == pytest.approx(float(output.aux_loss), rel=1e-5)


def test_accumulated_batches_share_the_term_by_their_positions(tmp_path: Path) -> None:
    """4 + 8 + 6 + 2 positions in two batches: 12/20 and 8/20 of each batch's own value."""
    student = student_of("mixtral")
    trainer = trainer_of(tmp_path, student, gradient_accumulation_steps=2)
    parts = [collated(trainer, [0, 1]), collated(trainer, [2, 3])]
    found, _, _ = loss_and_gradients(trainer, parts)
    expected = 0.0
    with torch.no_grad():
        for part, share in zip(parts, (12 / 20, 8 / 20), strict=True):
            own = student(input_ids=part["input_ids"], attention_mask=part["attention_mask"], labels=part["labels"])
            expected += share * float(own.loss)
    assert found == pytest.approx(expected, rel=1e-5)


def test_beside_a_teacher_the_term_is_added_to_the_divergence(tmp_path: Path) -> None:
    student, teacher = student_of("mixtral"), LlamaForCausalLM(LlamaConfig(**{k: SMALL[k] for k in list(SMALL)[:7]}))
    objective = Objective(temperature=1.0)
    trainer = trainer_of(tmp_path, student, teacher, objective)
    batch = collated(trainer, [0, 1, 2, 3])
    with_router, _, _ = loss_and_gradients(trainer, [batch])
    off = copy.deepcopy(student)
    off.config.output_router_logits = False
    without, _, _ = loss_and_gradients(trainer_of(tmp_path, off, teacher, objective), [batch])
    with torch.no_grad():
        value = student(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).aux_loss
    assert with_router - without == pytest.approx(WEIGHT * float(value), rel=1e-4)


def test_a_run_logs_the_term(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trainer = trainer_of(tmp_path, student_of("mixtral"), logging_steps=1)
    with caplog.at_level(logging.WARNING, "limbeck"):
        trainer.train()
    logged = trainer.state.log_history[0]
    assert logged["loss"] == pytest.approx(logged["hard_loss"] + WEIGHT * logged["router_loss"], rel=1e-4)
    assert "is added with its weight 0.5, as the log's router_loss" in caplog.text


def test_a_configuration_that_does_not_ask_for_the_term_is_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    student = student_of("mixtral")
    student.config.output_router_logits = False
    assert router_weight(student) == 0
    trainer = trainer_of(tmp_path, student)
    with caplog.at_level(logging.WARNING, "limbeck"):
        loss_and_gradients(trainer, [collated(trainer, [0, 1])])
    assert "router" not in trainer._logged
    assert "the auxiliary loss of its routers is not added: its configuration has output_router_logits=False" in (
        caplog.text
    )


def test_a_dense_model_has_no_such_term(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    student = LlamaForCausalLM(LlamaConfig(**{k: SMALL[k] for k in list(SMALL)[:7]}))
    trainer = trainer_of(tmp_path, student)
    with caplog.at_level(logging.WARNING, "limbeck"):
        loss_and_gradients(trainer, [collated(trainer, [0, 1])])
    assert trainer.plan.router_weight == 0
    assert "router" not in caplog.text


def test_a_model_that_does_not_return_the_loss_is_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    latent = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_nope_head_dim": 4, "qk_rope_head_dim": 4, "v_head_dim": 8}
    groups = {"n_routed_experts": 4, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1, "head_dim": 4}
    sizes = SMALL | {"num_key_value_heads": 2, "moe_intermediate_size": 8}
    student = transformers.DeepseekV3ForCausalLM(transformers.DeepseekV3Config(**sizes, **latent, **groups))
    trainer = trainer_of(tmp_path, student)
    with caplog.at_level(logging.WARNING, "limbeck"):
        loss_and_gradients(trainer, [collated(trainer, [0, 1])])
    assert trainer.plan.router_weight == 0
    assert "DeepseekV3ForCausalLM, does not return the auxiliary loss of its routers, so it is not added" in caplog.text
