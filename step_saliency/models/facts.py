"""What the other parts need to know of a model, whichever class of TransformerLens it is.

A HookedTransformer says these things in its ``cfg``; a TransformerBridge says some of them there
and leaves others in the transformers config behind it. Nothing here runs the model.
"""

import math
import re
from collections.abc import Iterable
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

Backend = Literal["hooked", "bridge"]

ATTENTION_HOOKS = (
    "attn.hook_q",
    "attn.hook_k",
    "attn.hook_v",
    "attn.hook_rot_q",
    "attn.hook_rot_k",
    "attn.hook_attn_scores",
    "attn.hook_pattern",
    "attn.hook_z",
)
RESIDUAL_HOOKS = ("hook_resid_pre", "hook_resid_post")


def backend_of(model: nn.Module) -> Backend:
    """Which of TransformerLens' two classes (or a subclass) the model is.

    Raises:
        ValueError: for anything else, and for a bridge whose layers are no row of blocks.
    """
    names = {cls.__name__ for cls in type(model).__mro__}
    if "HookedTransformer" in names:
        return "hooked"
    if "TransformerBridge" in names:
        _check_blocks(model)
        return "bridge"
    raise ValueError(
        f"expected a HookedTransformer or a TransformerBridge, got {type(model).__name__}; "
        "step_saliency.load_model makes one of a name or folder"
    )


def _check_blocks(bridge: Any) -> None:
    if not hasattr(bridge, "blocks"):
        stacks = [name for name, _ in bridge.named_children() if name.endswith("blocks")]
        raise ValueError(
            f"the layers of this {type(bridge.original_model).__name__} are no row of blocks, each "
            f"run once, but {', '.join(stacks) or 'something else'}; step_saliency takes decoders "
            "whose blocks follow one another"
        )


def config_of(model: nn.Module) -> Any:
    """The TransformerLens config, checked to be there."""
    backend_of(model)
    return model.cfg


def text_config_of(model: nn.Module) -> Any:
    """The transformers config of a bridge's language model; None for a HookedTransformer."""
    if backend_of(model) == "hooked":
        return None
    config: Any = model.original_model.config  # type: ignore[union-attr]
    return getattr(config, "text_config", None) or config


def stated(config: Any, name: str) -> Any:
    """What a transformers config says of its layers, the largest where they differ (Gemma 4)."""
    try:
        return getattr(config, name, None)
    except RuntimeError:  # transformers' word for an attribute that each layer has for itself
        return max(getattr(layer, name, None) or 0 for layer in config.per_layer_config)


def name_of(model: nn.Module) -> str:
    """The name that TransformerLens has for the model."""
    return str(config_of(model).model_name)


def n_layers(model: nn.Module) -> int:
    """Number of transformer blocks."""
    return int(config_of(model).n_layers)


def n_heads(model: nn.Module) -> int:
    """Number of query heads per layer."""
    return int(config_of(model).n_heads)


def n_kv_heads(model: nn.Module) -> int:
    """Number of key and value heads per layer (``n_heads`` without grouping)."""
    return int(config_of(model).n_key_value_heads or n_heads(model))


def n_ctx(model: nn.Module) -> int:
    """Longest sequence, in tokens."""
    return int(config_of(model).n_ctx)


def stated_context(model: nn.Module) -> int | None:
    """The same, of plain transformers models too; None where a config does not say."""
    if not isinstance(model, PreTrainedModel):
        return n_ctx(model)
    text = model.config.get_text_config(decoder=True)
    stated = getattr(text, "max_position_embeddings", None)
    return None if stated is None else int(stated)


def rotation_switch(model: nn.Module) -> int | None:
    """Tokens beyond which all positions are rotated otherwise (longrope); None if they never are.

    Keys that were cached before stay as they were.
    """
    if isinstance(model, PreTrainedModel):
        config = model.config.get_text_config(decoder=True)
    else:
        config = text_config_of(model)
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") != "longrope":
        return None
    original = rope.get("original_max_position_embeddings")
    original = original or getattr(config, "original_max_position_embeddings", None)
    return None if original is None else int(original)


def device_of(model: nn.Module) -> torch.device:
    """Device that token ids go to: that of the first parameter, the embedding."""
    return next(model.parameters()).device


def dtype_of(model: nn.Module) -> torch.dtype:
    """Data type of the weights."""
    return next(model.parameters()).dtype


def is_rotary(model: nn.Module) -> bool:
    """Whether positions enter by rotating queries and keys."""
    return config_of(model).positional_embedding_type == "rotary"


def has_sinks(model: nn.Module) -> bool:
    """Whether heads have a learned sink, so that pattern rows sum to less than one."""
    if backend_of(model) == "hooked":
        return bool(config_of(model).use_attention_sinks)
    return any(name.rpartition(".")[2] == "sinks" for name, _ in model.named_parameters())


def sink_logits(model: nn.Module, layer: int) -> Float[Tensor, "head"] | None:
    """Learned sink of each head of a layer, in units of the scores; None for a model without.

    The sink takes part in the softmax and is dropped from the pattern, whose rows then sum to
    sigmoid(logsumexp(scores) - sink).
    """
    if not has_sinks(model):
        return None
    if backend_of(model) == "hooked":
        return model.blocks[layer].attn.sinks.detach()  # type: ignore[index, union-attr]
    for name, parameter in model.named_parameters():
        in_layer = re.search(rf"\.{layer}\.", name)
        if in_layer and name.rpartition(".")[2] == "sinks":
            return parameter.detach()
    raise ValueError(f"layer {layer} has no sinks although other layers have")


def score_softcap(model: nn.Module) -> float | None:
    """Soft cap that the attention scores passed before ``hook_attn_scores``; None without."""
    cap = float(getattr(config_of(model), "attn_scores_soft_cap", -1.0) or -1.0)
    return cap if cap > 0 else None


def value_clip(model: nn.Module) -> float | None:
    """Bound that queries, keys and values are clipped to behind their hooks (OLMo, MPT), if any."""
    config = config_of(model) if backend_of(model) == "hooked" else text_config_of(model)
    configs = config, getattr(config, "attn_config", None)
    clips = [getattr(one, "clip_qkv", None) for one in configs]
    return next((float(clip) for clip in clips if clip), None)


def attended_values(model: nn.Module, values: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """What attention weighs of the values that ``hook_v`` shows."""
    clip = value_clip(model)
    return values if clip is None else values.clamp(-clip, clip)


def logit_softcap(model: nn.Module) -> float | None:
    """Soft cap of the output logits; None without."""
    cap = float(getattr(config_of(model), "output_logits_soft_cap", -1.0) or -1.0)
    return cap if cap > 0 else None


def window(model: nn.Module, layer: int) -> int | None:
    """Sliding window of a layer: query t sees keys t - window + 1 to t; None if it sees all.

    `step_saliency.models.windows` has those of all layers, and the mask.
    """
    if backend_of(model) == "hooked":
        cfg = config_of(model)
        local = cfg.use_local_attn and cfg.attn_types[layer] == "local"
        return int(cfg.window_size) if local else None
    return window_of_config(text_config_of(model), layer)


def window_of_config(config: Any, layer: int) -> int | None:
    """The same, as the transformers config of a language model has it."""
    if layer_type_of(config, layer) != "sliding_attention":
        return None
    return int(getattr(config, "sliding_window", None) or config.window_size)


def layer_type_of(config: Any, layer: int) -> str:
    """Type of attention of a layer of a transformers model, in transformers' own words."""
    layer_types = getattr(config, "layer_types", None)
    if layer_types:
        return str(layer_types[layer])
    if getattr(config, "attention_layers", None):  # GPT-Neo
        return {"local": "sliding_attention"}.get(config.attention_layers[layer], "full_attention")
    return "sliding_attention" if getattr(config, "sliding_window", None) else "full_attention"


def attention_scale(model: nn.Module, layer: int) -> float:
    """Factor on q . k before the soft cap and the mask, usually 1 / sqrt(d_head)."""
    if backend_of(model) == "hooked":
        return 1.0 / float(model.blocks[layer].attn.attn_scale)  # type: ignore[index, union-attr]
    return _transformers_scale(text_config_of(model), layer, d_head=int(config_of(model).d_head))


def _transformers_scale(config: Any, layer: int, *, d_head: int) -> float:
    if getattr(config, "scale_attn_weights", True) is False:
        scale = 1.0
    else:
        scale = 1.0 / math.sqrt(getattr(config, "query_pre_attn_scalar", None) or d_head)
    if getattr(config, "scale_attn_by_inverse_layer_idx", False):
        scale /= layer + 1
    return float(getattr(config, "attention_multiplier", None) or scale)


def output_weights(model: nn.Module, layer: int) -> Float[Tensor, "head d_head d_model"]:
    """Output projection of each head of a layer."""
    backend_of(model)
    weights: Tensor = model.blocks[layer].attn.W_O  # type: ignore[index, union-attr]
    return weights.detach()


def all_hook_names(model: nn.Module) -> frozenset[str]:
    """Every name that ``model.hooks`` knows, aliases of a bridge included."""
    backend_of(model)
    return frozenset(model.hook_dict)  # type: ignore[arg-type]


def hook_names(model: nn.Module, layer: int) -> tuple[str, ...]:
    """Attention and residual hooks of a layer that exist on this model, by full name.

    Existing is not firing: a bridge of a GPT-NeoX model has ``hook_rot_k`` and never calls it.
    ``ss.doctor`` tells which ones fire.
    """
    if not 0 <= layer < n_layers(model):
        raise ValueError(f"layer {layer} is not one of 0 to {n_layers(model) - 1}")
    known = all_hook_names(model)
    names = (f"blocks.{layer}.{hook}" for hook in (*ATTENTION_HOOKS, *RESIDUAL_HOOKS))
    return tuple(name for name in names if name in known)


def check_hook_names(model: nn.Module, names: Iterable[str]) -> None:
    """Raise ValueError for a hook name that the model lacks; a bridge would skip it in silence."""
    known = all_hook_names(model)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(
            f"{type(model).__name__} has no hook {unknown}; layer 0 has {hook_names(model, 0)}"
        )
