"""A LoRA student, and its own model without the adapter as its teacher. Oracle: copies of the model taken before."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

import limbeck
from limbeck import Objective, WithoutAdapter
from limbeck.teachers.model import ModelTeacher

from .test_training import EXAMPLES, gradients_of, model, padded, trainer

peft = pytest.importorskip("peft", reason="peft is not installed")
BATCH = padded(EXAMPLES, 12)


def adapted(seed: int = 0, dropout: float = 0.0, filled: bool = True) -> Any:
    config = peft.LoraConfig(r=4, lora_dropout=dropout, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    torch.manual_seed(seed)
    made = peft.get_peft_model(model(), config)
    if filled:  # LoRA's second matrix begins at 0, where it changes nothing
        for name, parameter in made.named_parameters():
            if "lora_B" in name:
                parameter.data.normal_()
    return made


def test_without_its_adapter_a_model_says_what_it_said_before() -> None:
    said = WithoutAdapter(adapted())(BATCH)
    before = ModelTeacher(model())(BATCH)
    torch.testing.assert_close(said.logits, before.logits)  # type: ignore[attr-defined]
    with_adapter = ModelTeacher(adapted())(BATCH)
    assert (with_adapter.logits - before.logits).abs().max() > 0.1  # type: ignore[attr-defined]


def test_modes_and_gradients_are_as_they_were_after_the_teachers_pass() -> None:
    student = adapted(dropout=0.5).train()
    before = [(p.requires_grad, m.training) for m in student.modules() for p in m.parameters(recurse=False)]
    WithoutAdapter(student)(BATCH)
    assert before == [(p.requires_grad, m.training) for m in student.modules() for p in m.parameters(recurse=False)]
    assert student.training
    assert any(p.requires_grad for p in student.parameters())


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_the_gradient_is_that_of_a_teacher_in_a_copy_of_its_own(dropout: float, tmp_path: Path) -> None:
    """With dropout on: the teacher's pass draws nothing, so both students drop the same."""
    found = []
    for one_copy in (True, False):
        student = adapted(dropout=dropout)
        teacher = WithoutAdapter(student) if one_copy else copy.deepcopy(model())
        worker = trainer(student, teacher, tmp_path, Objective(temperature=1.0))
        worker.check()
        student.train()
        torch.manual_seed(5)
        loss = worker.compute_loss(student, BATCH)
        loss.backward()
        found.append([loss.detach(), *gradients_of(student)])
    assert len(found[0]) == 1 + 2 * 2 * 2  # A and B of two projections in two layers, and nothing else
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)
        assert a.abs().sum() > 0


def test_training_moves_the_adapter_alone(tmp_path: Path) -> None:
    student = adapted()
    before = {name: p.detach().clone() for name, p in student.named_parameters()}
    worker = trainer(student, WithoutAdapter(student), tmp_path, learning_rate=1e-2)
    worker.args.max_steps = 6
    start = worker.evaluate()["eval_forward_kl"]
    worker.train()
    assert worker.evaluate()["eval_forward_kl"] < start
    moved = {name for name, p in student.named_parameters() if not torch.equal(p.detach(), before[name])}
    assert moved
    assert all("lora_" in name for name in moved)


def test_the_fingerprint_is_of_the_model_without_its_adapter() -> None:
    one, other = adapted(seed=0), adapted(seed=1)
    assert WithoutAdapter(one).fingerprint() == WithoutAdapter(other).fingerprint()
    next(p for name, p in other.named_parameters() if "lora_" not in name).data.add_(1)
    assert WithoutAdapter(one).fingerprint() != WithoutAdapter(other).fingerprint()


def test_a_model_without_an_adapter_is_refused() -> None:
    with pytest.raises(limbeck.ModelError, match="LlamaForCausalLM has no adapter that could be disabled"):
        WithoutAdapter(model())


def test_a_teacher_that_would_change_with_the_student_is_refused() -> None:
    config = peft.LoraConfig(r=4, target_modules=["c_attn"], bias="all", fan_in_fan_out=True)
    with pytest.raises(limbeck.ModelError, match="Not the adapter alone is trained"):
        WithoutAdapter(peft.get_peft_model(model("gpt2"), config))
    loose = adapted()
    loose.get_base_model().model.norm.requires_grad_(True)
    with pytest.raises(limbeck.ModelError, match="weight too"):
        WithoutAdapter(loose)


def test_an_adapter_whose_forward_names_nothing_is_asked_like_its_model(tmp_path: Path) -> None:
    plain = peft.get_peft_model(model(), peft.LoraConfig(r=4, target_modules=["lm_head"]))
    found = trainer(plain, model(seed=1), tmp_path).evaluate()
    expected = trainer(model(), model(seed=1), tmp_path).evaluate()
    assert found["eval_forward_kl"] == pytest.approx(expected["eval_forward_kl"], rel=1e-4)  # its adapter begins at 0
