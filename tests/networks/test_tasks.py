"""Models for tasks that are not supported are refused by name before anything is trained, measured or stored."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from limbeck.errors import ModelError, ShapeError
from limbeck.evaluation.classes import evaluate
from limbeck.losses.objective import Objective
from limbeck.networks.mlp import mlp
from limbeck.networks.tasks import unsupported_task
from limbeck.store.label import label
from limbeck.training.config import DistillConfig
from limbeck.training.trainer import DistillTrainer
from limbeck.transfer import arrays

X, Y = torch.randn(8, 4, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 2
TINY = {"vocab_size": 16, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
IMAGES = {k: v for k, v in TINY.items() if k != "vocab_size"} | {"image_size": 8, "patch_size": 4}
AUDIO = TINY | {"conv_dim": [4], "conv_kernel": [3], "conv_stride": [2], "num_feat_extract_layers": 1} | {
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
}  # fmt: skip


def bert(kind: str, **more: Any) -> nn.Module:
    made: nn.Module = getattr(transformers, kind)(transformers.BertConfig(**TINY, **more))
    return made


REFUSED = {
    "masked language modelling": lambda: bert("BertForMaskedLM"),
    "extractive question answering": lambda: bert("BertForQuestionAnswering"),
    "multiple choice": lambda: bert("BertForMultipleChoice"),
    "speech recognition by CTC": lambda: transformers.Wav2Vec2ForCTC(transformers.Wav2Vec2Config(**AUDIO)),
    "the classification of audio frames": lambda: transformers.Wav2Vec2ForAudioFrameClassification(
        transformers.Wav2Vec2Config(**AUDIO)
    ),
    "masked image modelling": lambda: transformers.ViTForMaskedImageModeling(
        transformers.ViTConfig(**IMAGES, encoder_stride=4)
    ),
    "object detection": lambda: transformers.YolosForObjectDetection(
        transformers.YolosConfig(**IMAGES | {"image_size": [8, 8]}, num_detection_tokens=2)
    ),
    "regression": lambda: bert("BertForSequenceClassification", problem_type="regression", num_labels=2),
    "multi-label classification": lambda: bert(
        "BertForSequenceClassification", problem_type="multi_label_classification", num_labels=3
    ),
}
SUPPORTED = {
    "classes": lambda: bert("BertForSequenceClassification"),
    "tokens": lambda: bert("BertForTokenClassification"),
    "one label": lambda: bert("BertForSequenceClassification", problem_type="single_label_classification"),
    "text": lambda: bert("BertLMHeadModel", is_decoder=True),
    "images": lambda: transformers.ViTForImageClassification(transformers.ViTConfig(**IMAGES)),
    "an mlp": lambda: mlp([4, 2]),
}


def trainer_of(folder: Path, student: nn.Module, teacher: Any = None) -> DistillTrainer:
    config = DistillConfig(output_dir=str(folder), max_steps=1, disable_tqdm=True)
    return DistillTrainer(student, teacher, args=config, train_dataset=arrays(X, Y))


@pytest.mark.parametrize("task", REFUSED)
def test_refuses_a_student_and_a_teacher_by_the_task(task: str, tmp_path: Path) -> None:
    model = REFUSED[task]()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ModelError, match=f"The student, {type(model).__name__}, is a model for {task}, which"):
        trainer_of(tmp_path, model).train()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with pytest.raises(ModelError, match=f"The teacher, {type(model).__name__}, is a model for {task}, which"):
        trainer_of(tmp_path, mlp([4, 2]), model).train()
    with pytest.raises(ModelError, match=f"The teacher, .* is a model for {task}, which"):
        label(model, arrays(X, Y), tmp_path / "stored")
    with pytest.raises(ModelError, match=f"The baseline, .* is a model for {task}, which"):
        evaluate(mlp([4, 2]), arrays(X, Y), baseline=model, latency=False)


@pytest.mark.parametrize("kind", SUPPORTED)
def test_classifiers_and_language_models_are_supported(kind: str) -> None:
    assert unsupported_task(SUPPORTED[kind]()) is None


@pytest.mark.parametrize("labels", [Y * 0, None], ids=["with labels", "without"])
def test_one_output_is_refused_before_training(labels: Any, tmp_path: Path) -> None:
    """Its softmax is 1: the loss is 0, and no weight would move."""
    student, teacher = mlp([4, 1]), mlp([4, 1])
    objective = Objective(soft_weight=1.0, hard_weight=0.0 if labels is None else 0.5)
    config = DistillConfig(output_dir=str(tmp_path), max_steps=1, disable_tqdm=True)
    trainer = DistillTrainer(student, teacher, objective, config, train_dataset=arrays(X, labels))
    with pytest.raises(ShapeError, match="The student has 1 output, but needs one per class, so 2 or more"):
        trainer.train()
    assert trainer.state.global_step == 0


def test_one_output_is_neither_measured_nor_stored(tmp_path: Path) -> None:
    with pytest.raises(ShapeError, match="The teacher has 1 output"):
        label(mlp([4, 1]), arrays(X), tmp_path / "stored")
    assert not (tmp_path / "stored").exists()
    with pytest.raises(ShapeError, match="The student or baseline has 1 output"):
        evaluate(mlp([4, 1]), arrays(X), latency=False)
    with pytest.raises(ShapeError, match="The teacher has 1 output"):
        evaluate(mlp([4, 2]), arrays(X), teacher=mlp([4, 1]), latency=False)


def test_one_output_of_transformers_is_refused(tmp_path: Path) -> None:
    torch.manual_seed(0)
    student = bert("BertForSequenceClassification", num_labels=1)
    texts = arrays(torch.randint(1, 16, (8, 5)), column="input_ids")
    config = DistillConfig(output_dir=str(tmp_path), max_steps=1, disable_tqdm=True)
    teacher = bert("BertForSequenceClassification", num_labels=1)
    with pytest.raises(ShapeError, match="num_labels=2 in transformers"):
        DistillTrainer(student, teacher, Objective(), config, train_dataset=texts).train()
