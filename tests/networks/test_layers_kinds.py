"""take_layers where layers differ, and where a model has several parts: the student runs, or it is refused."""

from typing import Any

import pytest
import torch
import transformers
from transformers import CLIPVisionConfig, ConvNextConfig, LlamaConfig, LlavaConfig
from zoo import species

from limbeck.errors import ModelError
from limbeck.networks.folder import load
from limbeck.networks.layers import take_layers

SIZES: dict[str, Any] = {
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
IDS = torch.randint(3, 32, (1, 6), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("family", species.HYBRIDS)
def test_a_student_of_both_kinds_of_layers_writes(family: str, tmp_path: Any) -> None:
    student = take_layers(species.causal(family), 2)
    wrote = student.generate(IDS, max_new_tokens=3, do_sample=False, eos_token_id=None)
    assert wrote.shape == (1, 9)
    student.save_pretrained(tmp_path)
    again = load(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(again(IDS).logits, student(IDS).logits)


@pytest.mark.parametrize("family", species.HYBRIDS)
def test_a_student_without_attention_is_refused(family: str) -> None:
    """transformers' cache asks a layer of attention how long the text is."""
    with pytest.raises(
        ModelError, match=r"of the layers \[0\] of 4 cannot run \(ValueError.*at least one layer of each"
    ):
        take_layers(species.causal(family), 1)


def test_stages_of_other_widths_are_refused() -> None:
    torch.manual_seed(0)
    config = ConvNextConfig(depths=[1, 1, 2, 1], hidden_sizes=[4, 8, 8, 16], num_labels=3, image_size=64)
    model = transformers.ConvNextForImageClassification(config).eval()
    with pytest.raises(ModelError, match=r"of the layers \[0, 1\] of 4 cannot run .*differ in size, build a smaller"):
        take_layers(model, [0, 1])


def test_the_text_part_of_a_vision_language_model_is_cut(tmp_path: Any) -> None:
    torch.manual_seed(0)
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**vision, image_size=8, patch_size=4),
        text_config=LlamaConfig(**SIZES),
        image_token_index=3,
    )
    model = transformers.LlavaForConditionalGeneration(config).eval()
    student = take_layers(model, [0, 3])
    assert student.config.text_config.num_hidden_layers == 2
    assert student.config.vision_config.num_hidden_layers == 4
    ids = torch.tensor([[1, 3, 3, 3, 3, 9, 10]])  # an image is four tokens
    pixels = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    layers = model.model.language_model.layers
    with torch.no_grad():
        found = student(input_ids=ids, pixel_values=pixels).logits
        model.model.language_model.layers = torch.nn.ModuleList([layers[0], layers[3]])
        expected = model(input_ids=ids, pixel_values=pixels, use_cache=False).logits
    torch.testing.assert_close(found, expected)
    student.save_pretrained(tmp_path)
    assert load(tmp_path).config.text_config.num_hidden_layers == 2
