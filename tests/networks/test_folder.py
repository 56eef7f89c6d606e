"""Students in folders, and transformers' models distilled end to end: what was saved opens with the same logits."""

import gc
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertTokenizer,
    ViTConfig,
    ViTForImageClassification,
)

import limbeck
from limbeck.errors import ModelError
from limbeck.losses.objective import Objective
from limbeck.networks import folder as folders
from limbeck.networks.asking import label_names_of, logits_of
from limbeck.networks.folder import load, save
from limbeck.networks.mlp import MLP, mlp
from limbeck.training.config import DistillConfig
from limbeck.training.trainer import DistillTrainer
from limbeck.transfer import TransferSet

gc.freeze()  # Trainer collects garbage whenever it starts, and the libraries above are none
X = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
NAMES = ("cat", "dog", "bird")
FILES = ["config.json", "limbeck_model.json", "model.safetensors"]


class Own(nn.Module):
    """A network of the user's, with buffers and weights used twice."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, width), nn.Linear(8, width)
        self.second.weight = self.first.weight
        self.norm, self.last = nn.BatchNorm1d(width), nn.Linear(width, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.last(self.norm(self.second(self.first(inputs))))


def test_an_mlp_comes_back_as_it_was(tmp_path: Path) -> None:
    student = mlp([8, 5, 3], dropout=0.2, input_dropout=0.1, max_norm=2.0)
    opened = load(save(student, tmp_path / "new" / "student", label_names=NAMES))
    assert isinstance(opened, MLP)
    assert opened.settings == student.settings
    assert opened.max_norm == 2.0
    assert opened.label_names == NAMES
    assert not opened.training
    assert torch.equal(opened(X), student.eval()(X))
    assert sorted(path.name for path in (tmp_path / "new" / "student").iterdir()) == FILES
    again = load(save(opened, tmp_path / "again"))
    assert again.label_names == NAMES  # its own, where none are given
    assert isinstance(limbeck.load(str(tmp_path / "again")), MLP)


def test_weights_that_were_gathered_are_written_though_two_are_one(tmp_path: Path) -> None:
    student = Own().eval()
    folders.write_model(student, tmp_path, weights=dict(student.state_dict()))
    opened = load(tmp_path, into=Own())
    assert torch.equal(opened(X), student(X))
    assert opened.second.weight is opened.first.weight


def test_a_users_own_network_is_passed_and_filled(tmp_path: Path) -> None:
    student = Own()
    student(X)  # moves the running statistics
    save(student, tmp_path / "student", label_names=NAMES)
    opened = load(tmp_path / "student", into=Own())
    assert torch.equal(opened(X), student.eval()(X))
    assert opened.second.weight is opened.first.weight
    assert opened.label_names == NAMES
    with pytest.raises(
        ModelError, match=r"weights of Own, which Limbeck cannot build.*limbeck\.load\('.*', into=network"
    ):
        load(tmp_path / "student")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_dtypes_are_kept_in_the_file(tmp_path: Path, dtype: torch.dtype) -> None:
    save(mlp([8, 3]).to(dtype), tmp_path / "student")
    assert {t.dtype for t in load_file(tmp_path / "student" / "model.safetensors").values()} == {dtype}


# Replacing


def test_an_older_student_is_replaced_as_a_whole(tmp_path: Path) -> None:
    folder = tmp_path / "student"
    save(Own(), folder)
    (folder / "tokenizer.json").write_text("of the older one")
    student = mlp([8, 3])
    save(student, folder)
    assert sorted(path.name for path in folder.iterdir()) == FILES
    assert torch.equal(load(folder)(X), student.eval()(X))
    assert [path.name for path in tmp_path.iterdir()] == ["student"]


def test_a_folder_of_other_things_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "notes.txt").write_text("keep")
    for folder in (tmp_path / "runs", tmp_path / "runs" / "notes.txt"):
        with pytest.raises(ModelError, match="is not the folder of a model"):
            save(mlp([4, 3]), folder)
    assert (tmp_path / "runs" / "notes.txt").read_text() == "keep"


def test_the_older_student_stays_until_the_new_one_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    older = mlp([8, 3])
    save(older, tmp_path / "student")

    def fails(*_: Any, **__: Any) -> None:
        raise OSError("no space left on the disk")

    monkeypatch.setattr(folders, "save_model", fails)
    with pytest.raises(OSError, match="no space left"):
        save(mlp([8, 3]), tmp_path / "student")
    assert torch.equal(load(tmp_path / "student")(X), older.eval()(X))
    monkeypatch.undo()
    newer = mlp([8, 3])
    save(newer, tmp_path / "student")  # what was left half-written is no obstacle
    assert torch.equal(load(tmp_path / "student")(X), newer.eval()(X))
    assert [path.name for path in tmp_path.iterdir()] == ["student"]


# What is no model


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A student as older versions saved it, without a seal; test_seal.py has those with one."""
    folder = save(mlp([8, 5, 3]), tmp_path / "run" / "student")
    (folder / "limbeck_model.json").unlink()
    return folder


def test_a_folder_that_is_no_model(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no config\.json \(found: student\)\. Did you mean .*run/student\?"):
        load(saved.parent)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"no config\.json \(found: nothing\)\.$"):
        load(tmp_path / "empty")
    for nowhere in (tmp_path / "nowhere", "./nowhere", "~/nowhere", "a/b/c", saved / "config.json"):
        with pytest.raises(ModelError, match=r"is not a folder; a model is a folder with config\.json"):
            load(nowhere)
    (saved / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"no \.safetensors file \(found: config\.json\)"):
        load(saved)


def test_weights_that_are_damaged_or_of_another_network(saved: Path) -> None:
    weights = saved / "model.safetensors"
    whole = weights.read_bytes()
    for damaged in (whole[:-40], whole[:10], b"", b"\xff" * 100):
        weights.write_bytes(damaged)
        with pytest.raises(ModelError, match=r"model\.safetensors cannot be read as weights"):
            load(saved)
    weights.write_bytes(whole)
    for other in (mlp([8, 4, 3]), Own(), mlp([8, 5, 5, 3])):
        with pytest.raises(ModelError, match=f"does not fit into {type(other).__name__}"):
            load(saved, into=other)
    tensors = load_file(weights)
    save_file({name: t for name, t in tensors.items() if "bias" not in name}, weights)
    with pytest.raises(ModelError, match="does not fit into MLP"):
        load(saved)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("{", "is not JSON"),
        ("[1]", "must hold an object"),
        ('{"limbeck": {"architecture": "mlp"}}', "does not describe the network that it names"),
        ('{"limbeck": {"architecture": "mlp"}, "settings": {"sizes": [8, 3], "wings": 2}}', "does not describe"),
        (
            '{"limbeck": {"architecture": "resnet9", "class": "ResNet"}}',
            "weights of ResNet, which Limbeck cannot build",
        ),
        ("{}", "names the architecture none"),
        ('{"architectures": ["Nonesuch"]}', r"names the architecture \['Nonesuch'\], which transformers"),
        ('{"architectures": ["AutoModel"], "model_type": "bert"}', "names the architecture"),
        ('{"architectures": ["Trainer"], "model_type": "bert"}', "names the architecture"),
    ],
)
def test_a_config_that_describes_no_model(saved: Path, config: str, said: str) -> None:
    (saved / "config.json").write_text(config)
    with pytest.raises(ModelError, match=said):
        load(saved)


# transformers


def bert(**changes: Any) -> BertForSequenceClassification:
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    small |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "initializer_range": 0.2}
    return BertForSequenceClassification(BertConfig(**({"vocab_size": 30, "num_labels": 3} | small | changes)))


def vit(width: int) -> ViTForImageClassification:
    small = {"hidden_size": width, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": width}
    config = ViTConfig(image_size=8, patch_size=4, num_channels=1, num_labels=3, **small)
    return ViTForImageClassification(config)


def distilled(folder: Path, student: Any, teacher: Any, data: TransferSet, tokenizer: Any = None) -> DistillTrainer:
    """A teacher trained on labels, a student trained on it without any."""
    steps = {"max_steps": 80, "save_steps": 80, "learning_rate": 5e-3, "logging_steps": 5, "disable_tqdm": True}
    config = DistillConfig(str(folder / "run"), per_device_train_batch_size=16, **steps)
    DistillTrainer(teacher, args=config, train_dataset=data).train()
    trainer = DistillTrainer(
        student,
        teacher,
        Objective(temperature=2.0),
        config,
        train_dataset=data.without_labels(),
        eval_dataset=data,
        processing_class=tokenizer,
    )
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    assert before["eval_agreement"] < 0.7
    assert after["eval_agreement"] > 0.95
    assert after["eval_accuracy"] > 0.95
    assert after["eval_forward_kl"] < 0.2 * before["eval_forward_kl"]
    return trainer


def assert_opens_alike(student: nn.Module, folder: Path, data: TransferSet) -> None:
    opened, batch = load(folder), data.__getitems__(range(10))
    assert type(opened) is type(student)
    assert not opened.training
    assert label_names_of(opened) == NAMES
    with torch.no_grad():
        assert torch.equal(logits_of(opened, batch), logits_of(student.eval(), batch))


def test_an_image_classifier_of_transformers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    labels = torch.arange(48) % 3
    images = 0.3 * torch.randn(48, 1, 8, 8) + labels[:, None, None, None]
    data = TransferSet({"pixel_values": images}, labels, label_names=NAMES)
    trainer = distilled(tmp_path, vit(16), vit(32), data)
    save(trainer.model, tmp_path / "student", label_names=NAMES)
    trainer.save_model(str(tmp_path / "saved"))
    for folder in (tmp_path / "student", tmp_path / "saved", tmp_path / "run" / "checkpoint-80"):
        assert_opens_alike(trainer.model, folder, data)
        assert json.loads((folder / "config.json").read_text())["label2id"] == {"cat": 0, "dog": 1, "bird": 2}


def test_a_text_classifier_of_transformers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(25))]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    tokenizer = BertTokenizer(str(tmp_path / "vocab.txt"))
    labels = torch.arange(48) % 3
    texts = [" ".join([f"w{int(label)}"] * (1 + i % 3) + ["w9"]) for i, label in enumerate(labels)]
    encoded = tokenizer(texts, padding=True, return_tensors="pt")
    data = TransferSet(dict(encoded), labels, label_names=NAMES)
    trainer = distilled(tmp_path, bert(), bert(hidden_size=32), data, tokenizer)
    save(trainer.model, tmp_path / "student", label_names=NAMES, tokenizer=tokenizer)
    for folder in (tmp_path / "student", tmp_path / "run" / "checkpoint-80"):
        assert_opens_alike(trainer.model, folder, data)
        beside = BertTokenizer.from_pretrained(folder)
        assert beside(texts[4])["input_ids"] == tokenizer(texts[4])["input_ids"]


def test_a_transformers_model_that_was_not_fine_tuned(tmp_path: Path) -> None:
    """Its last layer is not in the file, and would be random."""
    bert().save_pretrained(tmp_path / "model")
    weights = load_file(tmp_path / "model" / "model.safetensors")
    body = {name: tensor for name, tensor in weights.items() if not name.startswith("classifier")}
    save_file(body, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        ModelError, match=r"lacks weights.*\(classifier\.bias, classifier\.weight; 2 in all\): they would be"
    ):
        load(tmp_path / "model")


def test_a_transformers_folder_that_is_damaged(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    bert().save_pretrained(folder)
    whole = (folder / "model.safetensors").read_bytes()
    for damaged in (whole[:-100], b""):
        (folder / "model.safetensors").write_bytes(damaged)
        with pytest.raises(ModelError, match=r"model\.safetensors cannot be read as weights"):
            load(folder)
    shutil.copy(folder / "config.json", tmp_path / "config.json")
    wide = json.loads((folder / "config.json").read_text()) | {"hidden_size": 32}
    (folder / "model.safetensors").write_bytes(whole)
    (folder / "config.json").write_text(json.dumps(wide))
    with pytest.raises(ModelError, match=r"is \[30, 16\] in the file of weights and \[30, 32\].*hidden_size = 32"):
        load(folder)
