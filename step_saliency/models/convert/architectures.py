"""How to read the config of each architecture, and its weight converter of TransformerLens."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from step_saliency.models.convert.rope import (
    ConfigFields,
    head_dim,
    local_rope_fields,
    refuse,
    rotary_fields,
    window_fields,
)


def _rms_fields(config: Any) -> ConfigFields:
    """What Llama and its descendants (Qwen, Mistral, Gemma, GPT-OSS) share."""
    return {
        "d_model": config.hidden_size,
        "d_head": head_dim(config),
        "n_heads": config.num_attention_heads,
        "n_key_value_heads": config.num_key_value_heads,
        "d_mlp": config.intermediate_size,
        "n_layers": config.num_hidden_layers,
        "n_ctx": config.max_position_embeddings,
        "eps": config.rms_norm_eps,
        "d_vocab": config.vocab_size,
        "act_fn": getattr(config, "hidden_activation", None) or config.hidden_act,
        "normalization_type": "RMS",
        "final_rms": True,
        "gated_mlp": True,
        **rotary_fields(config),
        **window_fields(config),
    }


def _ungrouped(fields: ConfigFields) -> ConfigFields:
    """Converters of Llama and Qwen3 name keys by whether they are grouped at all."""
    if fields["n_key_value_heads"] == fields["n_heads"]:
        return {**fields, "n_key_value_heads": None}
    return fields


def _llama_fields(config: Any) -> ConfigFields:
    return _ungrouped(_rms_fields(config))


def _qwen2_fields(config: Any) -> ConfigFields:
    return _rms_fields(config)


def _qwen3_fields(config: Any) -> ConfigFields:
    return {**_ungrouped(_rms_fields(config)), "use_qk_norm": True}


def _gemma2_fields(config: Any) -> ConfigFields:
    softcaps = {
        "attn_scores_soft_cap": config.attn_logit_softcapping,
        "output_logits_soft_cap": config.final_logit_softcapping,
    }
    return {
        **_rms_fields(config),
        "attn_scale": math.sqrt(config.query_pre_attn_scalar),
        "use_normalization_before_and_after": True,
        **{name: float(cap) for name, cap in softcaps.items() if cap},
    }


def _gemma3_fields(config: Any) -> ConfigFields:
    # transformers caps no scores of Gemma 3, whatever the config says
    fields = {**_gemma2_fields(config), "attn_scores_soft_cap": -1.0}
    return {**fields, "use_qk_norm": True, **local_rope_fields(config)}


def _gpt_oss_fields(config: Any) -> ConfigFields:
    return {
        **_rms_fields(config),
        "num_experts": config.num_local_experts,
        "experts_per_token": config.num_experts_per_tok,
        "use_attention_sinks": True,
    }


def _gpt2_fields(config: Any) -> ConfigFields:
    return {
        "d_model": config.n_embd,
        "d_head": config.n_embd // config.n_head,
        "n_heads": config.n_head,
        "d_mlp": config.n_inner or 4 * config.n_embd,
        "n_layers": config.n_layer,
        "n_ctx": config.n_positions,
        "eps": config.layer_norm_epsilon,
        "d_vocab": config.vocab_size,
        "act_fn": config.activation_function,
        "use_attn_scale": config.scale_attn_weights,
        "scale_attn_by_inverse_layer_idx": config.scale_attn_by_inverse_layer_idx,
        "normalization_type": "LN",
    }


def _neox_fields(config: Any) -> ConfigFields:
    if not getattr(config, "attention_bias", True):  # the converter cuts biases by head
        refuse(config, "attention without biases")
    return {
        "d_model": config.hidden_size,
        "d_head": head_dim(config),
        "n_heads": config.num_attention_heads,
        "d_mlp": config.intermediate_size,
        "n_layers": config.num_hidden_layers,
        "n_ctx": config.max_position_embeddings,
        "eps": config.layer_norm_eps,
        "d_vocab": config.vocab_size,
        "act_fn": config.hidden_act,
        "parallel_attn_mlp": config.use_parallel_residual,
        "normalization_type": "LN",
        **rotary_fields(config),
    }


class HookedRecipe(NamedTuple):
    """How to read one architecture.

    Attributes:
        fields: Config of the checkpoint -> fields of a HookedTransformerConfig.
        converter: Name of TransformerLens' weight converter.
        biases: Pattern of the biases which that converter carries over; any other is refused.
    """

    fields: Callable[[Any], ConfigFields]
    converter: str
    biases: str


HOOKED_ARCHITECTURES: Mapping[str, HookedRecipe] = {
    "GPT2LMHeadModel": HookedRecipe(_gpt2_fields, "convert_gpt2_weights", r".*"),
    "GPTNeoXForCausalLM": HookedRecipe(_neox_fields, "convert_neox_weights", r".*"),
    "LlamaForCausalLM": HookedRecipe(_llama_fields, "convert_llama_weights", r"$^"),
    "Qwen2ForCausalLM": HookedRecipe(
        _qwen2_fields, "convert_qwen2_weights", r".*self_attn\.[qkv]_proj\.bias"
    ),
    "Qwen3ForCausalLM": HookedRecipe(_qwen3_fields, "convert_qwen3_weights", r"$^"),
    "MistralForCausalLM": HookedRecipe(_rms_fields, "convert_mistral_weights", r"$^"),
    "Gemma2ForCausalLM": HookedRecipe(_gemma2_fields, "convert_gemma_weights", r"$^"),
    "Gemma3ForCausalLM": HookedRecipe(_gemma3_fields, "convert_gemma_weights", r"$^"),
    "GptOssForCausalLM": HookedRecipe(_gpt_oss_fields, "convert_gpt_oss_weights", r".*"),
}
"""Architectures that become HookedTransformers, whatever the checkpoint is called."""


def hooked_config_fields(config: Any, *, architecture: str) -> ConfigFields:
    """Read the fields of a HookedTransformerConfig off a transformers config.

    Args:
        config: A transformers ``PreTrainedConfig``.
        architecture: Class name of the transformers model, e.g. ``"Qwen2ForCausalLM"``.

    Raises:
        ValueError: if the architecture or a detail of it has no HookedTransformer.
    """
    if architecture not in HOOKED_ARCHITECTURES:
        raise ValueError(
            f"no HookedTransformer for the architecture {architecture!r}; there is one for "
            f"{', '.join(sorted(HOOKED_ARCHITECTURES))}. Use backend='bridge'."
        )
    fields = HOOKED_ARCHITECTURES[architecture].fields(config)
    return {**fields, "original_architecture": architecture, "init_weights": False}
