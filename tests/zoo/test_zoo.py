"""Many architectures of transformers through the whole of Limbeck: loss and gradients, evaluation, store, take_layers.

Oracle: whole logits of the model's own forward, example by example or as a padded batch, in float64 from there on.
"""

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from datasets import Dataset
from torch import Tensor
from torch.nn import functional as F

import limbeck
from limbeck import DistillConfig, DistillTrainer, ModelError, Objective
from limbeck.networks.asking import logits_of
from zoo import species

T, HARD = 2.0, 0.5
OBJECTIVE = Objective(temperature=T, hard_weight=HARD)
LENGTHS = (7, 4, 6)
DRAWN = torch.Generator().manual_seed(0)
TEXTS = [torch.randint(4, species.V, (n,), generator=DRAWN).tolist() for n in LENGTHS]
ROWS = Dataset.from_list(
    [{"row_id": i, "input_ids": ids, "labels": [-100, -100, *ids[2:]]} for i, ids in enumerate(TEXTS)]
)
PAIRS = Dataset.from_list(
    [{"row_id": i, "input_ids": ids, "labels": [*ids[:3], 2]} for i, ids in enumerate(reversed(TEXTS))]
)
Model = Callable[..., Any]


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    yield
    transformers.logging.set_verbosity(before)


def trainer_of(folder: Path, student: Any, teacher: Any, rows: Any, **more: Any) -> DistillTrainer:
    settings = {"per_device_train_batch_size": 4, "max_steps": 1, "disable_tqdm": True, "use_cpu": True}
    return DistillTrainer(
        student, teacher, OBJECTIVE, DistillConfig(str(folder), **settings), train_dataset=rows, **more
    )


def found(trainer: DistillTrainer, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of a step of one batch, and its gradients."""
    trainer.check()
    model: Any = trainer.model
    model.zero_grad()
    batches, counts = trainer.get_batch_samples(iter([batch]), 1, trainer.args.device)
    loss = trainer.compute_loss(model, batches[0], num_items_in_batch=counts)
    loss.backward()
    return loss.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def expected(student: Any, logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The same from whole logits `[n, C]` and labels `[n]`, in float64."""
    log_q, log_p = (F.log_softmax(z.double() / T, -1) for z in (logits, teacher_logits.detach()))
    soft = T**2 * (log_p.exp() * (log_p - log_q)).sum(-1).mean()
    hard = F.cross_entropy(logits.double(), labels)
    loss = soft + HARD * hard
    loss.backward()
    return loss.detach(), {n: p.grad for n, p in student.named_parameters() if p.grad is not None}


def assert_same(ours: tuple[Tensor, dict[str, Tensor]], theirs: tuple[Tensor, dict[str, Tensor]]) -> None:
    assert float(ours[0]) == pytest.approx(float(theirs[0]), rel=1e-5)
    assert float(theirs[0]) > 0.1
    assert ours[1].keys() == theirs[1].keys()
    largest = max(float(gradient.norm()) for gradient in theirs[1].values())
    for name, gradient in theirs[1].items():
        apart = float((ours[1][name] - gradient).norm())
        assert apart <= 1e-4 * float(gradient.norm()) + 1e-6 * largest, (name, apart)


def learned(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and labels of the tokens that have a label, each logit at the place before its token."""
    known = labels[:, 1:] != -100
    return logits[:, :-1][known], labels[:, 1:][known]


def trains_and_is_measured(student: Any, teacher: Any, folder: Path) -> None:
    """A causal model: the loss and gradients of a padded batch, an evaluation, and a stored teacher."""
    trainer = trainer_of(folder, student, teacher, ROWS)
    batch = trainer.data_collator(ROWS.to_list())
    assert not batch["attention_mask"].all()
    oracle = copy.deepcopy(student)
    read = {name: batch[name] for name in ("input_ids", "attention_mask")}
    logits, labels = learned(oracle(**read, use_cache=False).logits, batch["labels"])
    with torch.no_grad():
        theirs, _ = learned(teacher(**read, use_cache=False).logits, batch["labels"])
    assert_same(found(trainer, batch), expected(oracle, logits, theirs, labels))

    results = limbeck.evaluate_language(student, ROWS, teacher=teacher)["roles"]["student"]
    log_q, log_p = (F.log_softmax(z.detach().double(), -1) for z in (logits, theirs))
    nll = float(-log_q.gather(1, labels[:, None]).mean())
    assert results["nll"]["mean"] == pytest.approx(nll, rel=1e-4)
    kl = float((log_p.exp() * (log_p - log_q)).sum(-1).mean())
    assert results["to_teacher"]["forward_kl"]["mean"] == pytest.approx(kl, rel=1e-3, abs=1e-5)

    stored = limbeck.label(teacher, ROWS, folder / "stored", kind="dense", dtype="float32")
    targets = stored.teacher(stored.__getitems__([0, 1, 2]))
    torch.testing.assert_close(targets.all_log_probs(1.0).double(), log_p, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", species.CAUSAL)
def test_causal_models(name: str, tmp_path: Path) -> None:
    trains_and_is_measured(species.causal(name), species.causal(name, seed=1), tmp_path)


@pytest.mark.parametrize("name", species.IMAGES)
def test_vision_language_models_of_text(name: str, tmp_path: Path) -> None:
    trains_and_is_measured(species.with_images(name), species.with_images(name, seed=1), tmp_path)


@pytest.mark.parametrize("name", species.PAIRS)
def test_encoder_decoders(name: str, tmp_path: Path) -> None:
    student, teacher = species.pair(name), species.pair(name, seed=1)
    trainer = trainer_of(tmp_path, student, teacher, PAIRS)
    batch = trainer.data_collator(PAIRS.to_list())
    oracle = copy.deepcopy(student)
    known = batch["labels"] != -100
    read = {name: batch[name] for name in ("input_ids", "attention_mask", "labels")}
    if name == "FSMT":  # its forward shifts the source where it should shift the labels; each begins with its end, 2
        filled = read.pop("labels").masked_fill(~known, 0)
        read["decoder_input_ids"] = torch.cat([torch.full_like(filled[:, :1], 2), filled[:, :-1]], 1)
        read["use_cache"] = False  # or it would attend to later tokens
    logits = oracle(**read).logits[known]
    with torch.no_grad():
        theirs = teacher(**read).logits[known]
    assert_same(found(trainer, batch), expected(oracle, logits, theirs, batch["labels"][known]))

    results = limbeck.evaluate_language(student, PAIRS, teacher=teacher)["roles"]["student"]
    log_q, log_p = (F.log_softmax(z.detach().double(), -1) for z in (logits, theirs))
    nll = float(-log_q.gather(1, batch["labels"][known][:, None]).mean())
    assert results["nll"]["mean"] == pytest.approx(nll, rel=1e-4)
    kl = float((log_p.exp() * (log_p - log_q)).sum(-1).mean())
    assert results["to_teacher"]["forward_kl"]["mean"] == pytest.approx(kl, rel=1e-3, abs=1e-5)


def texts(model: Any) -> Any:
    """The padded texts as a transfer set of a classifier."""
    width = max(LENGTHS)
    ids = torch.tensor([text + [model.config.pad_token_id] * (width - len(text)) for text in TEXTS])
    mask = torch.tensor([[1] * n + [0] * (width - n) for n in LENGTHS])
    return limbeck.TransferSet({"input_ids": ids, "attention_mask": mask}, [2, 0, 1], num_classes=3)


@pytest.mark.parametrize("name", species.ENCODERS)
def test_encoders(name: str, tmp_path: Path) -> None:
    student, teacher = species.encoder(name), species.encoder(name, seed=1)
    examples = texts(student)
    trainer = trainer_of(tmp_path, student, teacher, examples)
    oracle = copy.deepcopy(student)

    def alone(model: Any) -> Tensor:
        """The logits of each text without padding."""
        return torch.cat([model(input_ids=torch.tensor([text])).logits for text in TEXTS])

    logits, labels = alone(oracle), examples.labels
    with torch.no_grad():
        theirs = alone(teacher)
    batch = examples.__getitems__([0, 1, 2])
    assert_same(found(trainer, batch), expected(oracle, logits, theirs, labels))
    results = limbeck.evaluate(student, examples, teacher=teacher)["roles"]["student"]
    assert results["nll"]["mean"] == pytest.approx(float(F.cross_entropy(logits.detach().double(), labels)), rel=1e-4)
    stored = limbeck.label(teacher, examples, tmp_path / "stored", kind="dense", dtype="float32")
    targets = stored.teacher(stored.__getitems__([0, 1, 2]))
    torch.testing.assert_close(targets.all_log_probs(1.0), theirs.log_softmax(-1), rtol=1e-4, atol=1e-4)


CUT = [*species.CAUSAL, *species.IMAGES, *species.PAIRS, *species.ENCODERS]
CUT.remove("Albert")


def test_layers_that_share_their_weights_are_not_cut() -> None:
    with pytest.raises(ModelError, match="Layers that share their weights cannot be cut; build a smaller model"):
        limbeck.take_layers(species.encoder("Albert"), 1)


@pytest.mark.parametrize("name", CUT)
def test_a_student_of_half_the_layers(name: str, tmp_path: Path) -> None:
    """It runs, writes, and is the same model after it was saved and loaded."""
    make: Model = species.causal if name in species.CAUSAL else species.encoder
    make = species.with_images if name in species.IMAGES else species.pair if name in species.PAIRS else make
    model = make(name)
    layers = model.config.get_text_config().num_hidden_layers
    student = limbeck.take_layers(model, -(-layers // 2))
    ids = torch.tensor(TEXTS[:1])
    if name not in species.ENCODERS:
        wrote = student.generate(ids, max_new_tokens=2, do_sample=False, eos_token_id=None)
        assert wrote.shape == (1, 3 if name in species.PAIRS else ids.shape[1] + 2)
    assert sum(p.numel() for p in student.parameters()) < sum(p.numel() for p in model.parameters())
    limbeck.save(student, tmp_path / "student")
    again = limbeck.load(tmp_path / "student")
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if name in species.PAIRS:
        batch["decoder_input_ids"] = ids
    with torch.no_grad():
        torch.testing.assert_close(logits_of(again, batch), logits_of(student, batch))
