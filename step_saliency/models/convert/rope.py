"""Positions of a transformers config, as HookedTransformer has them: rope variants and windows.

What it cannot express is refused, never made into a slightly different model.
"""

import math
from collections.abc import Mapping
from typing import Any, NoReturn

ConfigFields = dict[str, Any]
"""Keyword arguments of a HookedTransformerConfig."""


def refuse(config: Any, what: str) -> NoReturn:
    raise ValueError(
        f"HookedTransformer cannot express {what} of this {config.model_type!r} checkpoint; "
        "use backend='bridge'"
    )


def head_dim(config: Any) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def _global_rope(config: Any) -> Mapping[str, Any]:
    """Rope parameters of the full-attention layers, wherever transformers keeps them."""
    rope = getattr(config, "rope_parameters", None) or {}
    return rope.get("full_attention", rope)


def _yarn_fields(rope: Mapping[str, Any], config: Any) -> ConfigFields:
    if rope.get("mscale") or rope.get("mscale_all_dim"):
        refuse(config, "the yarn rope with mscale")
    factor = float(rope["factor"])
    attention_factor = rope.get("attention_factor")
    if attention_factor is None:
        attention_factor = 0.1 * math.log(factor) + 1.0 if factor > 1 else 1.0
    original = rope.get("original_max_position_embeddings") or config.max_position_embeddings
    return {
        "use_yarn_rope": True,
        "yarn_factor": factor,
        "yarn_attention_factor": float(attention_factor),
        "yarn_beta_fast": float(rope.get("beta_fast") or 32.0),
        "yarn_beta_slow": float(rope.get("beta_slow") or 1.0),
        "yarn_original_max_position_embeddings": original,
        "yarn_truncate": rope.get("truncate", True),
    }


def _llama3_fields(rope: Mapping[str, Any], config: Any) -> ConfigFields:
    original = rope.get("original_max_position_embeddings") or config.max_position_embeddings
    return {
        "use_NTK_by_parts_rope": True,
        "NTK_original_ctx_len": original,
        "NTK_by_parts_low_freq_factor": float(rope["low_freq_factor"]),
        "NTK_by_parts_high_freq_factor": float(rope["high_freq_factor"]),
        "NTK_by_parts_factor": float(rope["factor"]),
    }


def _rope_scaling_fields(rope: Mapping[str, Any], config: Any) -> ConfigFields:
    rope_type = rope.get("rope_type") or "default"
    if rope_type == "default":
        return {}
    if rope_type == "linear":
        return {"rotary_scaling_factor": float(rope["factor"])}
    if rope_type == "llama3":
        return _llama3_fields(rope, config)
    if rope_type == "yarn":
        return _yarn_fields(rope, config)
    refuse(config, f"the {rope_type!r} rope")


def rotary_fields(config: Any) -> ConfigFields:
    rope = _global_rope(config)
    return {
        "positional_embedding_type": "rotary",
        "rotary_adjacent_pairs": False,
        "rotary_dim": int(head_dim(config) * _rotated_share(rope, config)),
        "rotary_base": rope.get("rope_theta") or getattr(config, "rope_theta", 10000.0),
        **_rope_scaling_fields(rope, config),
    }


def _rotated_share(rope: Mapping[str, Any], config: Any) -> float:
    """Share of a head that transformers turns; of Llama and its kin all, whatever a config says."""
    if config.model_type != "gpt_neox":
        return 1.0
    return float(rope.get("partial_rotary_factor") or 1.0)


def local_rope_fields(config: Any) -> ConfigFields:
    """Gemma 3 turns its sliding-window layers with a base of their own."""
    rope = config.rope_parameters["sliding_attention"]
    if (rope.get("rope_type") or "default") != "default":
        refuse(config, f"the {rope['rope_type']!r} rope in sliding-window layers")
    return {"rotary_base_local": rope["rope_theta"]}


def window_fields(config: Any) -> ConfigFields:
    window = getattr(config, "sliding_window", None)
    if not window:
        return {}
    layer_types = getattr(config, "layer_types", None)
    if layer_types is None:
        layer_types = ["sliding_attention"] * config.num_hidden_layers
    unknown = set(layer_types) - {"sliding_attention", "full_attention"}
    if unknown:
        refuse(config, f"the layer types {sorted(unknown)}")
    local = [layer_type == "sliding_attention" for layer_type in layer_types]
    return {
        "use_local_attn": any(local),
        "window_size": window,
        "attn_types": ["local" if here else "global" for here in local],
    }
