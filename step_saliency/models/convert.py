"""transformers model -> TransformerLens object, without touching the weights' meaning.

``hooked_from_transformers`` builds a HookedTransformer from a config read off the checkpoint and
TransformerLens' own weight converters, for any checkpoint of the architectures in
``HOOKED_ARCHITECTURES``, whether or not TransformerLens' name list has it. No weight is folded or
centred unless ``process_weights`` asks for it. ``bridge_from_transformers`` wraps the same model in
a TransformerBridge.

Both keep the checkpoint's own tokenizer. TransformerLens would load it again by name with
``add_bos_token=True`` and give it special tokens that it lacks; then strings would become other
token ids than those that the model was trained on. ``cfg.default_prepend_bos`` therefore follows
what the tokenizer does by itself.

What a HookedTransformer cannot express (a rope variant, a bias that the converter drops) is an
error here, never a slightly different model.
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, NoReturn

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

ConfigFields = dict[str, Any]
"""Keyword arguments of a HookedTransformerConfig."""


class HookedUnavailableError(ValueError):
    """transformer-lens 4 has no HookedTransformer."""


def hooked_transformer_class() -> Any:
    """The HookedTransformer class of the installed TransformerLens.

    Raises:
        HookedUnavailableError: with transformer-lens 4, which dropped the class.
    """
    try:
        from transformer_lens import HookedTransformer
    except ImportError as error:
        raise HookedUnavailableError(
            "backend='hooked' needs transformer-lens 3; the installed version has no "
            "HookedTransformer. Use backend='bridge' or install 'transformer-lens<4'."
        ) from error
    return HookedTransformer


def has_hooked() -> bool:
    """Whether the installed TransformerLens offers HookedTransformer."""
    try:
        hooked_transformer_class()
    except HookedUnavailableError:
        return False
    return True


def _refuse(config: Any, what: str) -> NoReturn:
    raise ValueError(
        f"HookedTransformer cannot express {what} of this {config.model_type!r} checkpoint; "
        "use backend='bridge'"
    )


def _head_dim(config: Any) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def _global_rope(config: Any) -> Mapping[str, Any]:
    """Rope parameters of the full-attention layers, wherever transformers keeps them."""
    rope = getattr(config, "rope_parameters", None) or {}
    return rope.get("full_attention", rope)


def _yarn_fields(rope: Mapping[str, Any], config: Any) -> ConfigFields:
    if rope.get("mscale") or rope.get("mscale_all_dim"):
        _refuse(config, "the yarn rope with mscale")
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
    _refuse(config, f"the {rope_type!r} rope")


def _rotary_fields(config: Any) -> ConfigFields:
    rope = _global_rope(config)
    partial = rope.get("partial_rotary_factor") or getattr(config, "partial_rotary_factor", None)
    return {
        "positional_embedding_type": "rotary",
        "rotary_adjacent_pairs": False,
        "rotary_dim": int(_head_dim(config) * (partial or 1.0)),
        "rotary_base": rope.get("rope_theta") or getattr(config, "rope_theta", 10000.0),
        **_rope_scaling_fields(rope, config),
    }


def _local_rope_fields(config: Any) -> ConfigFields:
    """Gemma 3 turns its sliding-window layers with a base of their own."""
    rope = config.rope_parameters["sliding_attention"]
    if (rope.get("rope_type") or "default") != "default":
        _refuse(config, f"the {rope['rope_type']!r} rope in sliding-window layers")
    return {"rotary_base_local": rope["rope_theta"]}


def _window_fields(config: Any) -> ConfigFields:
    window = getattr(config, "sliding_window", None)
    if not window:
        return {}
    layer_types = getattr(config, "layer_types", None)
    if layer_types is None:
        layer_types = ["sliding_attention"] * config.num_hidden_layers
    unknown = set(layer_types) - {"sliding_attention", "full_attention"}
    if unknown:
        _refuse(config, f"the layer types {sorted(unknown)}")
    local = [layer_type == "sliding_attention" for layer_type in layer_types]
    return {
        "use_local_attn": any(local),
        "window_size": window,
        "attn_types": ["local" if here else "global" for here in local],
    }


def _rms_fields(config: Any) -> ConfigFields:
    """What Llama and its descendants (Qwen, Mistral, Gemma, GPT-OSS) share."""
    return {
        "d_model": config.hidden_size,
        "d_head": _head_dim(config),
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
        **_rotary_fields(config),
        **_window_fields(config),
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
    return {**_gemma2_fields(config), "use_qk_norm": True, **_local_rope_fields(config)}


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
    return {
        "d_model": config.hidden_size,
        "d_head": _head_dim(config),
        "n_heads": config.num_attention_heads,
        "d_mlp": config.intermediate_size,
        "n_layers": config.num_hidden_layers,
        "n_ctx": config.max_position_embeddings,
        "eps": config.layer_norm_eps,
        "d_vocab": config.vocab_size,
        "act_fn": config.hidden_act,
        "parallel_attn_mlp": config.use_parallel_residual,
        "normalization_type": "LN",
        **_rotary_fields(config),
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


def _check_biases(model: PreTrainedModel, recipe: HookedRecipe) -> None:
    dropped = [
        name
        for name, _ in model.named_parameters()
        if name.endswith("bias") and not re.fullmatch(recipe.biases, name)
    ]
    if dropped:
        _refuse(model.config, f"the {len(dropped)} biases like {dropped[0]!r}")


def _check_unquantized(model: PreTrainedModel) -> None:
    plain = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
    packed = [name for name, weight in model.named_parameters() if weight.dtype not in plain]
    if packed:
        raise ValueError(
            f"weights like {packed[0]!r} are stored quantised; HookedTransformer needs plain "
            "ones: load a dequantised checkpoint or use backend='bridge'"
        )


def hooked_from_transformers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    *,
    name: str = "custom",
    device: torch.device | None = None,
    process_weights: bool = False,
    consume: bool = False,
) -> nn.Module:
    """Build a HookedTransformer with the weights and dtype of a transformers model.

    Args:
        model: A causal language model of one of ``HOOKED_ARCHITECTURES``.
        tokenizer: Its tokenizer, used as it is.
        name: ``cfg.model_name`` of the result.
        device: Device of the result; None for that of ``model``.
        process_weights: Fold norms and centre weights as ``HookedTransformer.from_pretrained``
            does by default. Log probabilities stay; activations become others.
        consume: Empty ``model`` on the way, so that the weights are in memory once, not twice.

    Returns:
        A HookedTransformer in eval mode.

    Raises:
        ValueError: for what a HookedTransformer cannot express.
    """
    hooked_class = hooked_transformer_class()
    from transformer_lens import HookedTransformerConfig
    from transformer_lens.pretrained import weight_conversions

    fields = hooked_config_fields(model.config, architecture=type(model).__name__)
    recipe = HOOKED_ARCHITECTURES[type(model).__name__]
    _check_biases(model, recipe)
    _check_unquantized(model)
    config = HookedTransformerConfig(
        **fields, model_name=name, dtype=model.dtype, device=str(device or model.device)
    )
    hooked = hooked_class(config)
    with torch.no_grad():
        weights = getattr(weight_conversions, recipe.converter)(model, config)
    if consume:
        for module in model.modules():
            module._parameters.clear()
    if process_weights:
        weights = {name: weight.to(hooked.cfg.device) for name, weight in weights.items()}
    _load_weights(hooked, weights, process=process_weights)
    attach_tokenizer(hooked, tokenizer)
    return hooked.eval()


def _load_weights(hooked: Any, weights: dict[str, Any], *, process: bool) -> None:
    hooked.load_and_process_state_dict(
        weights,
        fold_ln=process,
        center_writing_weights=process and hooked.cfg.normalization_type == "LN",
        center_unembed=process and hooked.cfg.output_logits_soft_cap <= 0,
        # The constant that a folded value bias stands for needs rows that sum to one.
        fold_value_biases=process and not hooked.cfg.use_attention_sinks,
    )


def bridge_from_transformers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    *,
    name: str = "custom",
    device: torch.device | None = None,
    process_weights: bool = False,
) -> nn.Module:
    """Wrap a transformers model in a TransformerBridge, with eager attention so that hooks live.

    The bridge takes the model over: its submodules are replaced in place.

    Args:
        model: A causal language model that TransformerLens has an adapter for.
        tokenizer: Its tokenizer, used as it is.
        name: ``cfg.model_name`` of the result.
        device: Device of the result; None for that of ``model``.
        process_weights: Switch compatibility mode on (folded norms, centred weights).

    Returns:
        A TransformerBridge in eval mode.

    Raises:
        ValueError: if TransformerLens has no adapter for the architecture.
    """
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    architecture = type(model).__name__
    model.set_attn_implementation("eager")
    if device is not None:
        model.to(device)
    try:
        bridge = build_bridge_from_module(
            model.eval(), architecture, hf_config=model.config, model_name=name
        )
    except (KeyError, NotImplementedError) as error:
        raise ValueError(f"TransformerBridge has no adapter for {architecture!r}") from error
    attach_tokenizer(bridge, tokenizer)
    if process_weights:
        bridge.enable_compatibility_mode()
    return bridge.eval()


def from_transformers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    *,
    backend: Literal["hooked", "bridge"],
    name: str = "custom",
    device: torch.device | None = None,
    process_weights: bool = False,
    consume: bool = False,
) -> nn.Module:
    """Turn a transformers model into the TransformerLens object of the given backend.

    See ``hooked_from_transformers`` and ``bridge_from_transformers``, which always consumes.
    """
    if backend == "hooked":
        return hooked_from_transformers(
            model,
            tokenizer,
            name=name,
            device=device,
            process_weights=process_weights,
            consume=consume,
        )
    return bridge_from_transformers(
        model, tokenizer, name=name, device=device, process_weights=process_weights
    )


def attach_tokenizer(model: Any, tokenizer: PreTrainedTokenizerBase | None) -> None:
    """Give ``model`` this very tokenizer, and let ``to_tokens`` do what the tokenizer does.

    The one thing that is added is a padding token, where there is none, since batches need it.
    """
    if tokenizer is None:
        return
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    ids = tokenizer.encode("a")
    prepends = (
        len(ids) > 1 and tokenizer.bos_token_id is not None and (ids[0] == tokenizer.bos_token_id)
    )
    _set_tokenizer(model, tokenizer)
    model.cfg.tokenizer_prepends_bos = prepends
    model.cfg.default_prepend_bos = prepends


def _set_tokenizer(model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    if hasattr(type(model), "tokenizer"):
        # A bridge's property loads a replaced tokenizer anew, with special tokens of its own.
        model._tokenizer = tokenizer
    else:
        model.tokenizer = tokenizer
