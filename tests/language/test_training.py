"""DistillTrainer with causal language models: what is compared, against numbers worked out by hand and full logits.

Oracles: the objective of logits that were cropped and shifted here, gradients of one forward pass, and other ways to
put the same examples into batches.
"""

import copy
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    BartConfig,
    BartForConditionalGeneration,
    CohereConfig,
    CohereForCausalLM,
    DataCollatorForSeq2Seq,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)

import limbeck
from limbeck import DataError, DenseTargets, DistillConfig, DistillTrainer, HiddenTargets, Objective
from limbeck.networks.halves import head_of, hidden_of, is_language_model, logits_are_heads
from limbeck.teachers.model import ModelTeacher

V = 61
SMALL: dict[str, Any] = {
    "vocab_size": V,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
FAMILIES: dict[str, Any] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SMALL)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=V, n_embd=16, n_layer=1, n_head=2, n_positions=32)),
    "cohere": lambda: CohereForCausalLM(CohereConfig(**SMALL, logit_scale=0.0625)),
    "granite": lambda: GraniteForCausalLM(GraniteConfig(**SMALL, logits_scaling=4.0)),
    "gemma2": lambda: Gemma2ForCausalLM(Gemma2Config(**SMALL, head_dim=8, final_logit_softcapping=3.0)),
}
OBJECTIVE = Objective(temperature=2.0, hard_weight=0.5)


def model(family: str = "llama", seed: int = 0) -> Any:
    torch.manual_seed(seed)
    made = FAMILIES[family]()
    for parameter in made.parameters():  # far enough from 0 that two models say different things
        parameter.data.mul_(4)
    return made


def example(n: int, seed: int, prompt: int = 3) -> dict[str, Tensor]:
    ids = torch.randint(3, V, (n,), generator=torch.Generator().manual_seed(seed))
    labels = ids.clone()
    labels[:prompt] = -100
    return {"input_ids": ids, "labels": labels}


def padded(examples: list[dict[str, Tensor]], length: int) -> dict[str, Tensor]:
    def fill(values: Tensor, with_: int) -> Tensor:
        return torch.cat([values, torch.full((length - len(values),), with_)])

    return {
        "input_ids": torch.stack([fill(e["input_ids"], 0) for e in examples]),
        "labels": torch.stack([fill(e["labels"], -100) for e in examples]),
        "attention_mask": torch.stack([fill(torch.ones_like(e["input_ids"]), 0) for e in examples]),
    }


EXAMPLES = [example(n, seed) for seed, n in enumerate((7, 12, 5, 9))]


def trainer(student: Any, teacher: Any, folder: Path, objective: Objective = OBJECTIVE, **more: Any) -> DistillTrainer:
    impl, (processor, teachers) = more.pop("impl", "auto"), more.pop("tokenizers", (None, None))
    config = DistillConfig(
        str(folder), per_device_train_batch_size=2, max_steps=1, save_strategy="no", disable_tqdm=True, **more
    )
    return DistillTrainer(
        student,
        teacher,
        objective,
        config,
        train_dataset=EXAMPLES,  # type: ignore[arg-type]
        eval_dataset=EXAMPLES,
        data_collator=lambda rows: padded(list(rows), 12),
        processing_class=processor,
        teacher_tokenizer=teachers,
        impl=impl,
    )


def gradients_of(student: PreTrainedModel) -> list[Tensor]:
    return [p.grad.clone() for p in student.parameters() if p.grad is not None]


def one_loss(student: Any, teacher: Any, batch: dict[str, Tensor], folder: Path, **more: Any) -> tuple[float, list]:
    student = copy.deepcopy(student).eval()
    worker = trainer(student, teacher, folder, **more)
    worker.check()
    student.zero_grad()
    loss = worker.compute_loss(student, batch)
    loss.backward()
    return loss.item(), gradients_of(student)


def by_hand(student: Any, teacher: Any, batch: dict[str, Tensor]) -> tuple[float, list]:
    """All logits, cut and shifted here."""
    student = copy.deepcopy(student).eval()
    keep = batch["labels"][:, 1:] != -100
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    z = student(**inputs).logits[:, :-1][keep]
    with torch.no_grad():
        v = teacher.eval()(**inputs).logits[:, :-1][keep]
    log_q, log_p = (z / 2).log_softmax(-1), (v / 2).log_softmax(-1)
    soft = (log_p.exp() * (log_p - log_q)).sum(-1).mean()
    loss = 4 * soft + 0.5 * torch.nn.functional.cross_entropy(z, batch["labels"][:, 1:][keep])
    loss.backward()
    return loss.item(), gradients_of(student)


def assert_same(found: tuple[float, list], expected: tuple[float, list], tolerance: float = 2e-5) -> None:
    assert found[0] == pytest.approx(expected[0], rel=tolerance)
    assert len(found[1]) == len(expected[1]) > 0
    for a, b in zip(found[1], expected[1], strict=True):
        assert (a - b).norm() <= tolerance * b.norm() + 1e-7


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("impl", ["auto", "reference"])
def test_loss_and_gradients_are_those_of_the_logits_cut_and_shifted(family: str, impl: str, tmp_path: Path) -> None:
    student, teacher, batch = model(family), model(family, seed=1), padded(EXAMPLES, 12)
    assert is_language_model(student)
    assert logits_are_heads(student.eval(), batch)
    assert_same(one_loss(student, teacher, batch, tmp_path, impl=impl), by_hand(student, teacher, batch))


def test_three_tokens_by_hand(tmp_path: Path) -> None:
    """Prompt 5, answer 7, end 2: the states at 5 and 7 are compared, the one at the end is not."""
    student, teacher = model(), model(seed=1).eval()
    batch = {"input_ids": torch.tensor([[5, 7, 2]]), "labels": torch.tensor([[-100, 7, 2]])}
    z, v = (m.eval()(input_ids=batch["input_ids"]).logits[0].detach().double() for m in (student, teacher))
    q, p = z[:2].softmax(-1), v[:2].softmax(-1)
    by_hand = ((p * (p / q).log()).sum(-1)).mean().item()
    found, _ = one_loss(student, teacher, batch, tmp_path, objective=Objective(temperature=1.0))
    assert found == pytest.approx(by_hand, rel=1e-5)
    labels_only, _ = one_loss(student, None, batch, tmp_path, objective=Objective(soft_weight=0, hard_weight=1))
    assert labels_only == pytest.approx(-(q[0, 7].log() + q[1, 2].log()).item() / 2, rel=1e-5)


def test_equal_models_have_a_loss_of_zero(tmp_path: Path) -> None:
    student = model()
    found, gradients = one_loss(student, copy.deepcopy(student), padded(EXAMPLES, 12), tmp_path, objective=Objective())
    assert found == pytest.approx(0, abs=1e-7)
    assert max(g.abs().max() for g in gradients) < 1e-6


def test_padding_changes_nothing(tmp_path: Path) -> None:
    student, teacher = model(), model(seed=1)
    short, long = padded(EXAMPLES, 12), padded(EXAMPLES, 20)
    assert_same(one_loss(student, teacher, long, tmp_path), one_loss(student, teacher, short, tmp_path))


def test_accumulation_changes_nothing(tmp_path: Path) -> None:
    """Batches of 4, or of 2 and of 1 accumulated, from the same weights: the same weights after a step."""
    ends = []
    for batch, accumulated in ((4, 1), (2, 2), (1, 4)):
        student = model()
        settings = {
            "gradient_accumulation_steps": accumulated,
            "learning_rate": 0.1,
            "optim": "sgd",
            "max_grad_norm": 0,
        }
        worker = trainer(student, model(seed=1), tmp_path, **settings)
        worker.args.per_device_train_batch_size = batch
        worker._train_batch_size = batch
        worker.train()
        ends.append([p.detach() for p in student.parameters()])
    for other in ends[1:]:
        for a, b in zip(other, ends[0], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_context_distillation_compares_the_same_tokens_after_other_prompts(tmp_path: Path) -> None:
    student, teacher = model(), model(seed=1).eval()
    answer = torch.tensor([9, 8, 2])
    short, long = torch.tensor([1, 4]), torch.tensor([1, 33, 34, 35, 4])
    none = lambda prompt: torch.full_like(prompt, -100)  # noqa: E731
    batch = {
        "input_ids": torch.cat([short, answer])[None],
        "labels": torch.cat([none(short), answer])[None],
        "teacher_input_ids": torch.cat([long, answer])[None],
        "teacher_labels": torch.cat([none(long), answer])[None],
    }
    z = student.eval()(input_ids=batch["input_ids"]).logits[0, 1:4].detach().log_softmax(-1)
    v = teacher(input_ids=batch["teacher_input_ids"]).logits[0, 4:7].detach().log_softmax(-1)
    found, _ = one_loss(student, teacher, batch, tmp_path, objective=Objective(temperature=1.0))
    assert found == pytest.approx((v.exp() * (v - z)).sum(-1).mean().item(), rel=1e-5)
    other = batch | {"teacher_labels": torch.cat([none(long), torch.tensor([9, 7, 2])])[None]}
    with pytest.raises(DataError, match="row_id 0 the student has 3 of them and the teacher 3, alike in the first 1"):
        check(student, teacher, other, tmp_path)


def check(student: Any, teacher: Any, batch: dict[str, Tensor], folder: Path) -> None:
    worker = trainer(student, teacher, folder)
    worker.data_collator = lambda rows: batch
    worker.check()


def test_evaluation_measures_what_full_logits_say(tmp_path: Path) -> None:
    student, teacher, batch = model().eval(), model(seed=1).eval(), padded(EXAMPLES, 12)
    worker = trainer(student, teacher, tmp_path)
    worker.check()
    found = worker.evaluate()
    keep = batch["labels"][:, 1:] != -100
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        log_q, log_p = (m(**inputs).logits[:, :-1][keep].log_softmax(-1) for m in (student, teacher))
    labels = batch["labels"][:, 1:][keep]
    assert found["eval_nll"] == pytest.approx(-log_q.gather(1, labels[:, None]).mean().item(), rel=1e-5)
    assert found["eval_forward_kl"] == pytest.approx((log_p.exp() * (log_p - log_q)).sum(-1).mean().item(), rel=1e-4)
    acceptance = torch.minimum(log_q.exp(), log_p.exp()).sum(-1).mean().item()
    assert found["eval_acceptance"] == pytest.approx(acceptance, rel=1e-5)
    assert found["eval_accuracy"] == pytest.approx((log_q.argmax(-1) == labels).float().mean().item())


def test_the_teacher_speaks_in_hidden_states_and_stays_as_it_was() -> None:
    teacher = model(seed=1)
    batch = padded(EXAMPLES, 12)
    targets = ModelTeacher(teacher)(batch)
    assert isinstance(targets, HiddenTargets)
    logits = teacher(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
    torch.testing.assert_close(targets.logits, logits[batch["labels"][:, 1:] != -100], rtol=1e-4, atol=1e-4)
    assert not teacher.training
    assert not any(p.requires_grad for p in teacher.parameters())


class Odd(LlamaForCausalLM):
    """Does something after its output layer that no configuration speaks of."""

    def forward(self, input_ids: Any = None, attention_mask: Any = None, **more: Any) -> Any:  # type: ignore[override]
        said = super().forward(input_ids=input_ids, attention_mask=attention_mask, **more)
        said.logits = said.logits + torch.linspace(0, 1, V)
        return said


def test_a_model_whose_logits_are_more_than_a_product_falls_back_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(0)
    student, teacher, batch = Odd(LlamaConfig(**SMALL)), model(seed=1), padded(EXAMPLES, 12)
    with caplog.at_level(logging.WARNING, "limbeck"):
        found = one_loss(student, teacher, batch, tmp_path)
    assert "Odd, are not a product of its last states" in caplog.text
    assert_same(found, by_hand(student, teacher, batch))
    assert isinstance(ModelTeacher(copy.deepcopy(student))(batch), DenseTargets)


def test_no_logits_of_a_whole_batch_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The output layer is never called: only its weight is read."""
    student, teacher, batch = model(), model(seed=1), padded(EXAMPLES, 12)
    worker = trainer(student, teacher, tmp_path)
    worker.check()
    teacher_said = worker.teacher(batch)  # type: ignore[misc]  # proves its halves
    assert len(teacher_said) == sum(len(e["input_ids"]) - 3 for e in EXAMPLES)

    def called(*_: Any) -> None:
        raise AssertionError("the output layer made logits")

    for either in (student, teacher):
        either.lm_head.register_forward_hook(called)
    worker.compute_loss(student, batch).backward()
    worker.prediction_step(student, batch, False)
    assert student.lm_head.weight.grad.abs().sum() > 0


def test_a_student_trains_saves_and_loads(tmp_path: Path) -> None:
    student, teacher = model(), model(seed=1)
    worker = trainer(student, teacher, tmp_path, learning_rate=1e-3)
    worker.args.max_steps = 8
    before = worker.evaluate()["eval_forward_kl"]
    worker.train()
    assert worker.evaluate()["eval_forward_kl"] < before
    assert "forward" not in student.__dict__
    worker.save_model(str(tmp_path / "student"))
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "student")
    ids = EXAMPLES[0]["input_ids"][None]
    torch.testing.assert_close(loaded.eval()(ids).logits, student.eval()(ids).logits)


def test_batches_without_labels_or_without_a_token_to_predict_are_refused(tmp_path: Path) -> None:
    student, teacher, batch = model(), model(seed=1), padded(EXAMPLES, 12)
    without = {name: value for name, value in batch.items() if name != "labels"}
    with pytest.raises(DataError, match=r"need labels \[B, L\].*these have \['attention_mask', 'input_ids'\]"):
        check(student, teacher, without, tmp_path)
    with pytest.raises(DataError, match="No token of the transfer set is to be predicted"):
        check(student, teacher, batch | {"labels": torch.full_like(batch["labels"], -100)}, tmp_path)
    with pytest.raises(DataError, match="Label 99"):
        check(student, teacher, batch | {"labels": torch.full_like(batch["labels"], 99)}, tmp_path)


def test_another_vocabulary_is_refused(tmp_path: Path) -> None:
    teacher = LlamaForCausalLM(LlamaConfig(**(SMALL | {"vocab_size": V + 3})))
    with pytest.raises(limbeck.ShapeError, match=r"output layer has 64 classes and the student's 61.*give it"):
        check(model(), teacher, padded(EXAMPLES, 12), tmp_path)


def test_heads_of_families() -> None:
    heads = {family: head_of(model(family)) for family in FAMILIES}
    assert {family: (head.logit_scale, head.softcap) for family, head in heads.items() if head} == {
        "llama": (1.0, None),
        "gpt2": (1.0, None),
        "cohere": (0.0625, None),
        "granite": (0.25, None),
        "gemma2": (1.0, 3.0),
    }
    ids = EXAMPLES[0]["input_ids"][None]
    assert hidden_of(model(), {"input_ids": ids}).shape == (1, 7, 16)


def seq2seq(family: str, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    small = {"vocab_size": V, "d_model": 16, "pad_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 0}
    if family == "t5":
        made: Any = T5ForConditionalGeneration(T5Config(**small, d_kv=8, d_ff=24, num_layers=1, num_heads=2))
    else:
        size = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
        made = BartForConditionalGeneration(BartConfig(**small, **size, encoder_ffn_dim=24, decoder_ffn_dim=24))
    for parameter in made.parameters():
        parameter.data.mul_(2)
    return made.eval()


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_encoder_decoders_predict_the_label_where_it_stands(family: str, tmp_path: Path) -> None:
    student, teacher = seq2seq(family), seq2seq(family, seed=1)
    question = torch.randint(3, V, (2, 6), generator=torch.Generator().manual_seed(1))
    answer = torch.tensor([[7, 8, 2], [9, 2, -100]])
    batch = {
        "input_ids": question,
        "attention_mask": torch.ones_like(question),
        "labels": answer,
        "decoder_input_ids": student.prepare_decoder_input_ids_from_labels(labels=answer),
    }
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "decoder_input_ids")}
    keep = answer != -100
    log_q, log_p = (m(**inputs).logits[keep].log_softmax(-1) for m in (student, teacher))
    expected = (log_p.exp() * (log_p - log_q)).sum(-1).mean()
    expected.backward()
    by_hand = expected.item(), gradients_of(student)
    worker = trainer(student, teacher, tmp_path, Objective(temperature=1.0))
    worker.data_collator = lambda rows: batch
    worker.check()
    student.zero_grad()
    loss = worker.compute_loss(student, batch)
    loss.backward()
    assert_same((loss.item(), gradients_of(student)), by_hand, tolerance=1e-4)
    assert isinstance(ModelTeacher(teacher)(batch), HiddenTargets)
    without = {name: value for name, value in batch.items() if name != "decoder_input_ids"}
    worker.data_collator = lambda rows: without
    worker.check()
    student.zero_grad()
    loss = worker.compute_loss(student, worker._prepare_inputs(without))
    loss.backward()
    assert_same((loss.item(), gradients_of(student)), by_hand, tolerance=1e-4)
    del without["labels"]
    with pytest.raises(DataError, match="need labels"):
        check(student, teacher, without, tmp_path)


def test_an_encoder_that_reads_the_answer_is_refused(make_tokenizer: Callable[..., Any], tmp_path: Path) -> None:
    """Rows of tokenise; what has the same shape and is meant is not refused: copies, and targets that share tokens."""
    tokenizer = make_tokenizer()
    records = [{"prompt": "what is", "completion": f" two and {i}"} for i in range(4)]
    rows = limbeck.tokenise(Dataset.from_list(records), tokenizer)
    rows = rows.remove_columns(["row_id", "length"])
    torch.manual_seed(0)
    sizes = {"vocab_size": len(tokenizer), "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2}
    student: Any = T5ForConditionalGeneration(T5Config(**sizes, decoder_start_token_id=0))

    def checked(rows: list[dict[str, Any]], side: str = "right") -> None:
        tokenizer.padding_side = side
        worker = trainer(student, None, tmp_path, Objective(soft_weight=0.0, hard_weight=1.0))
        worker.data_collator = DataCollatorForSeq2Seq(tokenizer, model=student)
        worker.train_dataset = rows
        worker.check()

    for side in ("right", "left"):
        with pytest.raises(DataError, match="its encoder reads what its decoder is to write"):
            checked(list(rows), side)
        ids = [row["input_ids"] for row in rows]
        checked([{"input_ids": x, "labels": x} for x in [*ids, ids[0][:3]]], side)
        halves = [{"input_ids": x[:2], "labels": x[2:]} for x in ids]
        checked(halves, side)
        checked([rows[0], *halves], side)


class Masked(LlamaForCausalLM):
    """Never says token 7."""

    def forward(self, input_ids: Any = None, attention_mask: Any = None, **more: Any) -> Any:  # type: ignore[override]
        said = super().forward(input_ids=input_ids, attention_mask=attention_mask, **more)
        said.logits[..., 7] = torch.finfo(torch.float32).min
        return said


def test_a_model_that_masks_a_class_is_more_than_a_product() -> None:
    torch.manual_seed(0)
    assert not logits_are_heads(Masked(LlamaConfig(**SMALL)).eval(), padded(EXAMPLES, 12))


def test_a_teachers_view_without_its_labels_is_refused(tmp_path: Path) -> None:
    student, teacher, batch = model(), model(seed=1), padded(EXAMPLES, 12)
    longer = torch.cat([torch.full((4, 2), 5), batch["input_ids"]], 1)
    with pytest.raises(limbeck.ShapeError, match=r"teacher's output has \[4, 14\] tokens and its labels are \[4, 12\]"):
        check(student, teacher, batch | {"teacher_input_ids": longer}, tmp_path)


def test_weights_stand_beside_the_labels_that_they_weigh(tmp_path: Path) -> None:
    student = model()
    batch = {"input_ids": torch.tensor([[5, 7, 2]]), "labels": torch.tensor([[-100, 7, 2]])}
    log_q = student.eval()(input_ids=batch["input_ids"]).logits[0].detach().log_softmax(-1)
    weighed = batch | {"weights": torch.tensor([[0.0, 3.0, 1.0]])}
    labels_only = Objective(soft_weight=0, hard_weight=1)
    found, _ = one_loss(student, None, weighed, tmp_path, objective=labels_only)
    assert found == pytest.approx(-(3 * log_q[0, 7] + log_q[1, 2]).item() / 4, rel=1e-5)
    for name, values, message in (
        ("weights", torch.ones(1), "weights stand beside"),
        ("mask", batch["labels"] > 0, "mask"),
    ):
        with pytest.raises((DataError, limbeck.ShapeError), match=message):
            one_loss(student, None, batch | {name: values}, tmp_path, objective=labels_only)


def test_evaluation_before_training_makes_no_logits_either(tmp_path: Path) -> None:
    student, teacher = model(), model(seed=1)
    expected = trainer(student, teacher, tmp_path, impl="reference").evaluate()["eval_forward_kl"]
    shapes = []
    student.lm_head.register_forward_hook(lambda module, inputs, said: shapes.append(said.shape[1]))
    assert trainer(student, teacher, tmp_path).evaluate()["eval_forward_kl"] == pytest.approx(expected)
    assert shapes == [12]  # to prove the halves, on one example


def test_the_length_of_a_row_is_no_input(tmp_path: Path) -> None:
    batch = padded(EXAMPLES, 12)
    with_length = batch | {"length": torch.tensor([7, 12, 5, 9])}
    student, teacher = model(), model(seed=1)
    assert_same(one_loss(student, teacher, with_length, tmp_path), one_loss(student, teacher, batch, tmp_path))


def test_one_tokenizer_alone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(limbeck.ConfigError, match="pass that as processing_class"):
        trainer(model(), model(seed=1), tmp_path, tokenizers=(None, object()))


def test_trained_twice_in_bfloat16_it_still_needs_no_logits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Accelerate leaves the forward of what it has trained in autocast."""
    student, teacher = model(), model(seed=1)
    for _ in range(2):
        worker = trainer(student, teacher, tmp_path, bf16=True)
        worker.train()
        assert worker.plan.in_halves
    rows = Dataset.from_list([{name: values.tolist() for name, values in e.items()} for e in EXAMPLES])
    limbeck.evaluate_language(student, rows, teacher=teacher)
    assert "will be in memory" not in caplog.text
