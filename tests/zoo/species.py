"""Tiny models of many architectures of transformers, with random weights, made on the spot."""

from typing import Any

import torch
import transformers

V = 40
IMAGE = 3
"""The token that stands for a part of an image."""

TEXT: dict[str, Any] = {
    "vocab_size": V,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 8}
LATENT = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_nope_head_dim": 4, "qk_rope_head_dim": 4, "v_head_dim": 8}
MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 4, "mamba_n_groups": 1}
FOUR: dict[str, Any] = {"num_hidden_layers": 4}

HYBRIDS: dict[str, dict[str, Any]] = {
    "Lfm2": {**FOUR, "layer_types": ["conv", "full_attention"] * 2},
    "Bamba": {**FOUR, **MAMBA, "attn_layer_indices": [1, 3]},
    "Jamba": {
        **FOUR,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
        "num_experts": 2,
        "num_experts_per_tok": 1,
        "mamba_d_state": 4,
        "mamba_dt_rank": 2,
        "use_mamba_kernels": False,
    },
    "Qwen3Next": {
        **FOUR,
        **EXPERTS,
        "num_experts": 2,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 2,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "shared_expert_intermediate_size": 8,
    },
    "Zamba2": {
        **FOUR,
        "num_key_value_heads": 2,
        "mamba_d_state": 4,
        "mamba_headdim": 8,
        "mamba_ngroups": 1,
        "n_mamba_heads": 4,
        "hybrid_layer_ids": [1, 3],
        "layers_block_type": ["mamba", "hybrid"] * 2,
    },
}
"""Attention beside convolutions, recurrences or state spaces, in four layers of which every second has attention."""

CAUSAL: dict[str, dict[str, Any]] = {
    # dense
    "Llama": {},
    "Mistral": {"sliding_window": 4},
    "Qwen2": {},
    "Qwen3": {},
    "Phi3": {},
    "Phi": {},
    "StableLm": {},
    "GPTNeoX": {},
    "GPT2": {"n_inner": 24},
    "Opt": {"ffn_dim": 24, "word_embed_proj_dim": 16},
    "Bloom": {},
    "GPTBigCode": {},
    "GPTJ": {"rotary_dim": 4},
    "CodeGen": {"num_attention_heads": 4, "rotary_dim": 4},
    "Mpt": {"d_model": 16, "n_layers": 2, "n_heads": 2},
    "BioGpt": {},
    "XGLM": {"d_model": 16, "num_layers": 2, "attention_heads": 2, "ffn_dim": 16},
    "Persimmon": {},
    "Starcoder2": {},
    "Olmo2": {},
    "Glm": {},
    "SmolLM3": {},
    "Nemotron": {},
    # scaled or capped logits
    "Gemma": {},
    "Gemma2": {"final_logit_softcapping": 5.0, "sliding_window": 4, "query_pre_attn_scalar": 8},
    "Gemma3": {"sliding_window": 4, "query_pre_attn_scalar": 8},
    "Cohere": {"logit_scale": 0.25},
    "Cohere2": {"logit_scale": 0.25, "sliding_window": 4},
    "Granite": {"logits_scaling": 4.0},
    # mixtures of experts
    "Mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "Qwen2Moe": {**EXPERTS, "num_experts": 4, "shared_expert_intermediate_size": 8},
    "Qwen3Moe": {**EXPERTS, "num_experts": 4},
    "Olmoe": {"num_experts": 4, "num_experts_per_tok": 2},
    "DeepseekV3": {
        **EXPERTS,
        **LATENT,
        "head_dim": 4,
        "num_key_value_heads": 2,
        "n_routed_experts": 4,
        "n_group": 1,
        "topk_group": 1,
        "first_k_dense_replace": 1,
    },
    "GptOss": {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 4},
    "GraniteMoe": {"num_local_experts": 4, "num_experts_per_tok": 2, "logits_scaling": 2.0},
    # hybrids and recurrent models
    "Mamba": {"state_size": 4, "time_step_rank": 2},
    "Mamba2": {"state_size": 4, "num_heads": 4, "head_dim": 8, "n_groups": 1, "chunk_size": 4},
    "FalconMamba": {"state_size": 4, "time_step_rank": 2},
    "Rwkv": {**FOUR, "attention_hidden_size": 16},
    **HYBRIDS,
    "RecurrentGemma": {"lru_width": 16, "attention_window_size": 4, "logits_soft_cap": 5.0, "num_hidden_layers": 3},
}
LAYERS = {"encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
BART_LIKE = {**LAYERS, "d_model": 16, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "max_position_embeddings": 64}
T5_LIKE = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 2, "num_heads": 2}
PAIRS = {
    "T5": T5_LIKE,
    "MT5": T5_LIKE,
    "LongT5": T5_LIKE,
    "SwitchTransformers": {**T5_LIKE, "num_experts": 2, "num_sparse_encoder_layers": 0, "num_sparse_decoder_layers": 0},
    "Bart": BART_LIKE,
    "MBart": BART_LIKE,
    "M2M100": BART_LIKE,
    "Pegasus": BART_LIKE,
    "Blenderbot": BART_LIKE,
    "FSMT": {**BART_LIKE, "langs": ["en", "de"], "src_vocab_size": V, "tgt_vocab_size": V},
    "LED": {
        **LAYERS,
        "d_model": 16,
        "encoder_ffn_dim": 16,
        "decoder_ffn_dim": 16,
        "max_encoder_position_embeddings": 64,
        "max_decoder_position_embeddings": 64,
        "attention_window": 4,
    },
    "NllbMoe": {
        **BART_LIKE,
        "num_experts": 2,
        "encoder_sparse_step": 2,
        "decoder_sparse_step": 2,
        "expert_capacity": 64,
    },
}

ENCODERS: dict[str, dict[str, Any]] = {
    "Bert": {},
    "Roberta": {},
    "DistilBert": {"dim": 16, "hidden_dim": 24, "n_layers": 2, "n_heads": 2},
    "Electra": {"embedding_size": 16},
    "Albert": {"embedding_size": 16},
    "DebertaV2": {},
    "ModernBert": {},
    "XLMRoberta": {},
    "MPNet": {},
}

VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 8,
    "patch_size": 4,
}
"""An image of 8 x 8 pixels is four tokens."""


def causal(name: str, seed: int = 0, dtype: torch.dtype = torch.float32) -> Any:
    """A causal language model."""
    config = getattr(transformers, f"{_NAMES_OF_CONFIGS.get(name, name)}Config")(**TEXT | CAUSAL[name])
    return _made(_class(name), config, seed, dtype)


def pair(name: str, seed: int = 0) -> Any:
    """An encoder-decoder."""
    own = {"vocab_size": V, "pad_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 1}
    config = getattr(transformers, f"{name}Config")(**own | PAIRS[name])
    config.forced_bos_token_id = config.forced_eos_token_id = None
    return _made(f"{name}ForConditionalGeneration", config, seed)


def encoder(name: str, seed: int = 0) -> Any:
    """A classifier of texts with three classes."""
    shape = {k: v for k, v in TEXT.items() if k not in ("head_dim", "num_key_value_heads")} | {"num_labels": 3}
    return _made(
        f"{name}ForSequenceClassification", getattr(transformers, f"{name}Config")(**shape | ENCODERS[name]), seed
    )


def with_images(name: str, seed: int = 0) -> Any:
    """A vision-language model."""
    text = transformers.LlamaConfig(**TEXT)
    if name == "Llava":
        vision: Any = transformers.CLIPVisionConfig(**VISION)
        config: Any = transformers.LlavaConfig(vision_config=vision, text_config=text, image_token_index=IMAGE)
    elif name == "LlavaNext":
        vision = transformers.CLIPVisionConfig(**VISION)
        config = transformers.LlavaNextConfig(vision_config=vision, text_config=text, image_token_index=IMAGE)
    elif name == "Mistral3":
        vision = transformers.PixtralVisionConfig(**VISION, head_dim=8)
        config = transformers.Mistral3Config(
            vision_config=vision, text_config=transformers.MistralConfig(**TEXT), image_token_index=IMAGE
        )
    else:
        vision = transformers.SiglipVisionConfig(**VISION)
        config = transformers.Idefics3Config(
            vision_config=vision, text_config=text, image_token_id=IMAGE, scale_factor=1
        )
    return _made(f"{name}ForConditionalGeneration", config, seed)


IMAGES = ("Llava", "LlavaNext", "Mistral3", "Idefics3")

_NAMES_OF_CONFIGS = {"Opt": "OPT", "Gemma3": "Gemma3Text"}


def _class(name: str) -> str:
    known = {"Opt": "OPTForCausalLM", "GPT2": "GPT2LMHeadModel"}
    return known.get(name, f"{name}ForCausalLM")


def _made(name: str, config: Any, seed: int, dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(seed)
    model = getattr(transformers, name)(config).to(dtype).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.mul_(3)  # or all tokens would be almost equally likely
        head = model.get_output_embeddings()
        if head is not None:
            head.weight.mul_(4)
    return model
