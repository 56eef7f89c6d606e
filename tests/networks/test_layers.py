"""Students cut from their teachers. The oracle is the teacher, in which the other layers pass on what they get."""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import (
    AlbertConfig,
    AlbertModel,
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    Dinov2Config,
    Dinov2ForImageClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    EncoderDecoderConfig,
    EncoderDecoderModel,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    RobertaConfig,
    RobertaForSequenceClassification,
    T5Config,
    T5EncoderModel,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTForImageClassification,
)

from limbeck.errors import ModelError
from limbeck.networks.folder import load, save
from limbeck.networks.layers import _indices, take_layers
from limbeck.networks.mlp import mlp

IDS = torch.randint(3, 40, (2, 9), generator=torch.Generator().manual_seed(0))
PIXELS = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
SIZES = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24}
TINY = {**SIZES, "vocab_size": 40, "initializer_range": 0.3}  # weights large enough for every layer to matter
GROUPED = {**TINY, "num_key_value_heads": 1, "head_dim": 8}
NO_END = {"bos_token_id": 1, "eos_token_id": None, "pad_token_id": 0}


def llama(layers: int = 4, **settings: Any) -> Any:
    config = LlamaConfig(**TINY, **NO_END, num_hidden_layers=layers, **settings)
    return seeded(LlamaForCausalLM, config)


def t5(encoder: int = 4, decoder: int = 4, kind: Any = T5ForConditionalGeneration) -> Any:
    sizes = {"d_model": 16, "d_kv": 8, "num_heads": 2, "d_ff": 24, "vocab_size": 40}
    return seeded(kind, T5Config(**sizes, num_layers=encoder, num_decoder_layers=decoder, initializer_factor=3.0))


def bart() -> Any:
    both = {f"{side}_{what}": n for side in ("encoder", "decoder") for what, n in (("layers", 4), ("ffn_dim", 24))}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    return seeded(BartForConditionalGeneration, BartConfig(d_model=16, vocab_size=40, init_std=0.3, **both, **heads))


def seeded(kind: Any, config: Any) -> Any:
    torch.manual_seed(0)
    return kind(config).eval()


MODELS: dict[str, tuple[Callable[[], Any], list[str], dict[str, Tensor]]] = {
    "bert": (
        lambda: seeded(BertForSequenceClassification, BertConfig(**TINY, num_hidden_layers=4)),
        ["bert.encoder.layer"],
        {"input_ids": IDS},
    ),
    "tied bert": (
        lambda: seeded(BertForMaskedLM, BertConfig(**TINY, num_hidden_layers=4)),
        ["bert.encoder.layer"],
        {"input_ids": IDS},
    ),
    "roberta": (
        lambda: seeded(RobertaForSequenceClassification, RobertaConfig(**TINY, num_hidden_layers=4)),
        ["roberta.encoder.layer"],
        {"input_ids": IDS},
    ),
    "distilbert": (
        lambda: seeded(
            DistilBertForSequenceClassification,
            DistilBertConfig(dim=16, n_heads=2, hidden_dim=24, n_layers=4, vocab_size=40, initializer_range=0.3),
        ),
        ["distilbert.transformer.layer"],
        {"input_ids": IDS},
    ),
    "llama": (llama, ["model.layers"], {"input_ids": IDS}),
    "gpt2": (
        lambda: seeded(
            GPT2LMHeadModel,
            GPT2Config(n_layer=4, n_embd=16, n_head=2, vocab_size=40, initializer_range=0.3, **NO_END),
        ),
        ["transformer.h"],
        {"input_ids": IDS},
    ),
    "qwen3": (
        lambda: seeded(
            Qwen3ForCausalLM,
            Qwen3Config(**GROUPED, num_hidden_layers=4, use_sliding_window=True, max_window_layers=2, sliding_window=3),
        ),
        ["model.layers"],
        {"input_ids": IDS},
    ),
    "gemma2": (
        lambda: seeded(Gemma2ForCausalLM, Gemma2Config(**GROUPED, num_hidden_layers=4, sliding_window=3)),
        ["model.layers"],
        {"input_ids": IDS},
    ),
    "vit": (
        lambda: seeded(
            ViTForImageClassification,
            ViTConfig(**SIZES, num_hidden_layers=4, image_size=8, patch_size=4, initializer_range=0.3),
        ),
        ["vit.layers"],
        {"pixel_values": PIXELS},
    ),
    "dinov2": (
        lambda: seeded(
            Dinov2ForImageClassification,
            Dinov2Config(
                hidden_size=16,
                num_attention_heads=2,
                num_hidden_layers=4,
                image_size=8,
                patch_size=4,
                drop_path_rate=0.1,
            ),
        ),
        ["dinov2.encoder.layer"],
        {"pixel_values": PIXELS},
    ),
    "t5": (t5, ["encoder.block", "decoder.block"], {"input_ids": IDS, "decoder_input_ids": IDS}),
    "bart": (bart, ["model.encoder.layers", "model.decoder.layers"], {"input_ids": IDS, "decoder_input_ids": IDS}),
}
every_model = pytest.mark.parametrize("name", MODELS)


@contextmanager
def only(model: nn.Module, stacks: list[str], kept: Sequence[int]) -> Iterator[None]:
    """In the meantime, layers that are not kept hand on the states that they are given."""

    def hand_on(_: nn.Module, args: Any, kwargs: Any, out: Any) -> Any:
        states = args[0] if args else kwargs["hidden_states"]
        return states if isinstance(out, Tensor) else (states, *out[1:])

    layers = [layer for stack in stacks for i, layer in enumerate(model.get_submodule(stack)) if i not in kept]
    hooks = [layer.register_forward_hook(hand_on, with_kwargs=True) for layer in layers]
    yield
    for hook in hooks:
        hook.remove()


def logits(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        said: Tensor = model(**inputs).logits
    return said


# What is cut


@every_model
def test_a_student_is_its_teacher_without_the_other_layers(name: str, tmp_path: Path) -> None:
    make, stacks, inputs = MODELS[name]
    teacher = make()
    student = take_layers(teacher, 2)
    whole = logits(teacher, inputs)
    with only(teacher, stacks, [0, 3]):
        expected = logits(teacher, inputs)
    assert (expected - whole).abs().max() > 1e-2  # the layers matter
    assert torch.allclose(logits(student, inputs), expected, atol=1e-5)
    assert [len(student.get_submodule(stack)) for stack in stacks] == [2] * len(stacks)
    assert student.config.num_hidden_layers == 2
    assert type(student) is type(teacher)
    opened = load(save(student, tmp_path / "student"))
    assert torch.equal(logits(opened, inputs), logits(student, inputs))


@every_model
def test_with_all_layers_it_is_the_teacher(name: str) -> None:
    make, _, inputs = MODELS[name]
    teacher = make()
    assert torch.equal(logits(take_layers(teacher, 4), inputs), logits(teacher, inputs))


@pytest.mark.parametrize("name", ["llama", "gpt2", "qwen3", "gemma2", "bert"])
def test_layers_by_their_indices(name: str) -> None:
    make, stacks, inputs = MODELS[name]
    teacher = make()
    with only(teacher, stacks, [1, 2]):
        expected = logits(teacher, inputs)
    with only(teacher, stacks, [0, 3]):
        assert not torch.allclose(logits(teacher, inputs), expected, atol=1e-2)
    assert torch.allclose(logits(take_layers(teacher, [1, 2]), inputs), expected, atol=1e-5)


def test_one_layer_of_a_llama_by_hand() -> None:
    teacher = llama(2)
    body = teacher.model
    positions = torch.arange(IDS.shape[1])[None]
    with torch.no_grad():
        states = body.embed_tokens(IDS)
        states = body.layers[0](states, position_embeddings=body.rotary_emb(states, positions), is_causal=True)
        expected = teacher.lm_head(body.norm(states))
    student = take_layers(teacher, [0])
    assert torch.allclose(logits(student, {"input_ids": IDS}), expected, atol=1e-5)
    assert not torch.allclose(logits(teacher, {"input_ids": IDS}), expected, atol=1e-2)


def test_what_the_configuration_says_of_each_layer_is_cut_alike() -> None:
    teacher = MODELS["gemma2"][0]()
    assert teacher.config.layer_types == ["sliding_attention", "full_attention"] * 2
    student = take_layers(teacher, [1, 2, 3])
    assert student.config.layer_types == ["full_attention", "sliding_attention", "full_attention"]
    assert [layer.self_attn.sliding_window for layer in student.model.layers] == [None, 3, None]
    assert teacher.config.layer_types == ["sliding_attention", "full_attention"] * 2
    assert teacher.config.num_hidden_layers == 4


def test_a_list_that_is_as_long_by_chance_stays() -> None:
    teacher = llama(3)
    teacher.config.eos_token_id = teacher.generation_config.eos_token_id = [7, 8, 9]
    student = take_layers(teacher, 2)
    assert student.config.eos_token_id == [7, 8, 9]
    assert student.generation_config.eos_token_id == [7, 8, 9]
    assert student.generation_config is not teacher.generation_config


def test_stacks_of_two_depths_are_each_cut_evenly() -> None:
    teacher = t5(encoder=5, decoder=3)
    student = take_layers(teacher, 2)
    assert (student.config.num_layers, student.config.num_decoder_layers) == (2, 2)
    for ours, theirs in (
        (student.encoder.block[1], teacher.encoder.block[4]),
        (student.decoder.block[1], teacher.decoder.block[2]),
    ):
        pairs = list(zip(ours.parameters(), theirs.parameters(), strict=True))
        assert pairs
        assert all(torch.equal(a, b) for a, b in pairs)


# Generation


@pytest.mark.parametrize("keep", [[1, 3], [2], 3])
def test_a_cut_llama_generates_alike_with_and_without_its_cache(keep: Any) -> None:
    student = take_layers(llama(), keep)
    assert [layer.self_attn.layer_idx for layer in student.model.layers] == list(range(len(student.model.layers)))
    settings = {"max_new_tokens": 12, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    with_cache, without = (student.generate(IDS, use_cache=use, **settings) for use in (True, False))
    assert with_cache.sequences.shape == (2, 9 + 12)
    assert torch.equal(with_cache.sequences, without.sequences)
    for a, b in zip(with_cache.logits, without.logits, strict=True):
        assert torch.allclose(a, b, atol=1e-4)
    assert len(with_cache.past_key_values.layers) == len(student.model.layers)


# Copies


@every_model
def test_teacher_and_student_share_no_storage(name: str) -> None:
    teacher = MODELS[name][0]()
    student = take_layers(teacher, 2)
    theirs, ours = (
        {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers()) if t.numel()}
        for model in (teacher, student)
    )
    assert len(ours) > 10
    assert not theirs & ours


def test_training_the_student_leaves_the_teacher_as_it_was() -> None:
    teacher = llama(tie_word_embeddings=True).requires_grad_(False)  # as ModelTeacher leaves it
    before = copy.deepcopy(teacher.state_dict())
    student = take_layers(teacher, 2)
    assert not student.training
    assert all(p.requires_grad for p in student.parameters())
    first = {name: p.detach().clone() for name, p in student.named_parameters()}
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    student(input_ids=IDS, labels=IDS).loss.backward()
    optimizer.step()
    assert all(not torch.equal(first[name], p) for name, p in student.named_parameters())
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())
    assert student.lm_head.weight is student.model.embed_tokens.weight


def test_random_numbers_dtypes_and_modes_are_as_before() -> None:
    teacher = llama().to(torch.bfloat16).train()
    teacher.model.norm.float()  # a model may keep some of its weights wider
    for layer in teacher.model.layers:
        layer.gradient_checkpointing = True  # a way to train, and none to compute
    state = torch.get_rng_state()
    student = take_layers(teacher, [1, 3])
    assert torch.equal(torch.get_rng_state(), state)
    assert student.model.norm.weight.dtype == torch.float32
    assert {p.dtype for p in student.model.layers.parameters()} == {torch.bfloat16}
    assert student.model.rotary_emb.inv_freq.dtype == teacher.model.rotary_emb.inv_freq.dtype
    assert teacher.training
    assert not any(module.training for module in student.modules())
    assert student.config._attn_implementation == teacher.config._attn_implementation


# Which layers


@pytest.mark.parametrize(
    ("count", "depth", "kept"),
    [
        (6, 12, [0, 2, 4, 7, 9, 11]),  # DistilBERT's
        (1, 12, [0]),
        (2, 12, [0, 11]),
        (3, 12, [0, 6, 11]),  # 5.5 is rounded up
        (12, 12, list(range(12))),
        (1, 1, [0]),
        (np.int64(2), 3, [0, 2]),
    ],
)
def test_a_number_spreads_over_the_depth(count: int, depth: int, kept: list[int]) -> None:
    assert _indices(count, depth) == kept


def test_any_number_of_any_depth_is_spread_evenly() -> None:
    """Against the definition in exact arithmetic: increasing, both ends, and no place further off than a half."""
    for depth in range(2, 40):
        for count in range(2, depth + 1):
            kept = _indices(count, depth)
            assert len(kept) == len(set(kept)) == count
            assert (kept[0], kept[-1], sorted(kept)) == (0, depth - 1, kept)
            assert all(abs(2 * i * (count - 1) - 2 * j * (depth - 1)) <= count - 1 for j, i in enumerate(kept))


@pytest.mark.parametrize(
    "keep", [0, -1, 5, True, 2.0, "2", [], [0, 0], [2, 1], [-1, 0], [0, 4], [True], [0, 1.0], None]
)
def test_what_fits_no_stack_is_refused(keep: Any) -> None:
    with pytest.raises(ModelError, match="keep must be a number of layers from 1 to 4"):
        take_layers(llama(), keep)


def test_a_number_must_fit_the_smaller_of_two_stacks() -> None:
    with pytest.raises(ModelError, match="from 1 to 3, or their indices, but is 4"):
        take_layers(t5(encoder=5, decoder=3), 4)


# Refusals


@pytest.mark.parametrize(
    ("make", "keep", "said"),
    [
        (
            lambda: mlp([4, 3]),
            1,
            "copies layers of transformers models, but got MLP.*any other network, build a smaller one",
        ),
        (lambda: nn.ModuleList([nn.Linear(2, 2)]), 1, "but got ModuleList"),
        (t5, [0, 1], r"several stacks of layers \(encoder.block, decoder.block\).*keep=2"),
        (
            lambda: t5(kind=T5EncoderModel),
            [1, 3],
            "Layer 1 .* cannot be layer 0 .*has_relative_attention_bias is False",
        ),
        (
            lambda: seeded(AlbertModel, AlbertConfig(**TINY, embedding_size=8, num_hidden_layers=4)),
            2,
            "No layers were found in AlbertModel: .* nn.ModuleList .*'num_hidden_layers': 4.*albert_layer_groups': 1",
        ),
        (
            lambda: EncoderDecoderModel(
                EncoderDecoderConfig.from_encoder_decoder_configs(
                    BertConfig(**TINY, num_hidden_layers=2), BertConfig(**TINY, num_hidden_layers=2)
                )
            ),
            1,
            "made of several networks",
        ),
        (
            lambda: seeded(
                GPT2LMHeadModel,
                GPT2Config(n_layer=4, n_embd=16, n_head=2, vocab_size=40, scale_attn_by_inverse_layer_idx=True),
            ),
            [0, 2],
            "Layer 2 .* cannot be layer 1 .*GPT2Attention.scaling is",
        ),
        (
            lambda: seeded(lambda config: BertModel(config, add_pooling_layer=False), BertConfig(**TINY)),
            6,
            "do not fit .*pooler.dense.weight.*2 lacking",
        ),
    ],
    ids=["mlp", "no model", "two stacks", "t5", "albert", "two networks", "gpt2", "pooler"],
)
def test_what_cannot_be_cut_says_why(make: Callable[[], Any], keep: Any, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        take_layers(make(), keep)


def test_weights_that_the_configuration_does_not_speak_of_are_not_lost() -> None:
    teacher = llama(tie_word_embeddings=True)
    teacher.lm_head.weight = nn.Parameter(teacher.lm_head.weight.detach() + 1)  # tied no more
    with pytest.raises(ModelError, match=r"lm_head.weight \(0 lacking or of another shape, 1 left over\)"):
        take_layers(teacher, 2)
    changed = llama()
    changed.model.layers[3].extra = nn.Linear(2, 2)
    with pytest.raises(ModelError, match=r"model.layers.3.extra.weight"):
        take_layers(changed, 2)
    assert len(take_layers(changed, [0, 1]).model.layers) == 2  # it goes with its layer


def test_weights_that_are_not_there_cannot_be_copied() -> None:
    with torch.device("meta"):
        teacher = llama()
    with pytest.raises(ModelError, match="quantised or offloaded"):
        take_layers(teacher, 2)
