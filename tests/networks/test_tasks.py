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


def tiny_segformer() -> Any:
    sizes = {"hidden_sizes": [4, 8], "depths": [1, 1], "num_attention_heads": [1, 1], "sr_ratios": [2, 1]}
    sizes |= {"num_encoder_blocks": 2, "patch_sizes": [3, 3], "strides": [2, 2], "mlp_ratios": [2, 2]}
    return transformers.SegformerConfig(**sizes, decoder_hidden_size=8, num_labels=3)


def tiny_maskformer() -> Any:
    swin = transformers.SwinConfig(embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1], window_size=2)
    swin.out_features = ["stage1", "stage2", "stage3", "stage4"]
    detr = transformers.DetrConfig(d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=1)
    detr.decoder_attention_heads, detr.num_queries = 1, 4
    return transformers.MaskFormerConfig(
        backbone_config=swin, decoder_config=detr, fpn_feature_size=32, mask_feature_size=32
    )


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
    "instance segmentation": lambda: transformers.MaskFormerForInstanceSegmentation(tiny_maskformer()),
}
SUPPORTED = {
    "classes": lambda: bert("BertForSequenceClassification"),
    "tokens": lambda: bert("BertForTokenClassification"),
    "numbers": lambda: bert("BertForSequenceClassification", problem_type="regression", num_labels=2),
    "several labels": lambda: bert("BertForSequenceClassification", problem_type="multi_label_classification"),
    "pixels": lambda: transformers.SegformerForSemanticSegmentation(tiny_segformer()),
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


def test_one_logit_is_learned_where_labels_have_two_classes(tmp_path: Path) -> None:
    """sigmoid(z) of the second class: the loss is binary cross-entropy, at T the KL of two Bernoulli distributions."""
    torch.manual_seed(0)
    student, teacher = mlp([4, 1]), mlp([4, 1])
    trainer = DistillTrainer(
        student,
        teacher,
        Objective(temperature=3.0, hard_weight=0.5),
        DistillConfig(output_dir=str(tmp_path), max_steps=1, disable_tqdm=True),
        train_dataset=arrays(X, Y),
    )
    trainer.check()
    loss = trainer.compute_loss(student, arrays(X, Y).__getitems__(range(8)))
    z, v = student(X)[:, 0], teacher(X)[:, 0]
    p, q = (torch.distributions.Bernoulli(logits=logits / 3) for logits in (v, z))
    expected = 9 * torch.distributions.kl_divergence(p, q).mean()
    expected = expected + 0.5 * nn.functional.binary_cross_entropy_with_logits(z, Y.float())
    assert torch.allclose(loss, expected, atol=1e-6)


@pytest.mark.parametrize("kind", ["an mlp", "transformers'"])
def test_one_output_without_labels_may_be_a_logit_or_a_number(kind: str, tmp_path: Path) -> None:
    def made() -> nn.Module:
        return mlp([4, 1]) if kind == "an mlp" else bert("BertForSequenceClassification", num_labels=1)

    rows = arrays(X) if kind == "an mlp" else arrays(torch.ones(8, 5, dtype=torch.int64), column="input_ids")
    config = DistillConfig(output_dir=str(tmp_path), max_steps=1, disable_tqdm=True)
    trainer = DistillTrainer(made(), made(), Objective(), config, train_dataset=rows)
    with pytest.raises(ShapeError, match=r"has one output per example, which is the logit .* or a number"):
        trainer.train()
    assert trainer.state.global_step == 0
    with pytest.raises(ShapeError, match="has one output per example"):
        label(made(), rows, tmp_path / "stored")
    assert not (tmp_path / "stored").exists()
    with pytest.raises(ShapeError, match="has one output per example"):
        evaluate(made(), rows, latency=False)
