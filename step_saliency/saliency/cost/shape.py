"""The sizes of a model that the cost of a map depends on."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from step_saliency.models.facts import stated
from step_saliency.saliency.layerwise import layerwise_model

PATTERN_BYTES = {
    "HookedTransformer": lambda itemsize: 2 * itemsize + 1,
    "TransformerBridge": lambda itemsize: itemsize if itemsize >= 4 else 4 + itemsize,
}
"""Bytes for each entry of a pattern that a class of model keeps in every layer: scores and pattern
in its type and what was masked; or the softmax, in half precision in both types. Scores that are
capped are kept once more."""
NORM_COPIES = {"HookedTransformer": 4, "TransformerBridge": 2}
"""Residuals in float32 that the norms of a block keep for their gradient in half precision."""
GAPS = {"HookedTransformer": 11, "TransformerBridge": 6}
"""Residuals' worth of heap that stays unused between what the graph of a block keeps: what its
forward pass freed. 9 to 15 and 4 to 8 were measured, of 512 to 8,192 tokens in both precisions."""

Tensors = tuple[int, int | float]
"""A width, and how many tensors of it there are, in the model's type."""


@dataclass(frozen=True)
class ModelShape:
    """Sizes that the cost depends on; widths count numbers per token."""

    n_layers: int
    n_heads: int
    d_model: int
    d_mlp: int
    query_width: int
    key_width: int
    vocab: int
    itemsize: int
    device: torch.device
    pattern_bytes: int
    cap_bytes: int
    norm_copies: int
    gaps: int

    @property
    def widest(self) -> int:
        """Bytes of a number where float32 is the least."""
        return max(4, self.itemsize)

    @property
    def attention(self) -> tuple[Tensors, ...]:
        """What the graph of a block's attention and norms keeps of a position."""
        resid = 2.0 if self.itemsize >= 4 else 1 + self.norm_copies * 4 / self.itemsize
        denominators = (self.n_heads, self.widest / self.itemsize)
        return (self.d_model, resid), (self.query_width, 2), (self.key_width, 2), denominators

    @property
    def mlp(self) -> tuple[Tensors, ...]:
        """The same of its MLP."""
        return ((self.d_mlp, 3),)

    @property
    def head_outputs(self) -> tuple[Tensors, ...]:
        """The same of head outputs and denominators alone."""
        return (self.query_width, 1), (self.n_heads, self.widest / self.itemsize)

    @property
    def block_parameters(self) -> int:
        """Weights that a token meets in one block."""
        attention = 2 * self.d_model * (self.query_width + self.key_width)
        return attention + 3 * self.d_model * self.d_mlp


def model_shape(model: nn.Module) -> ModelShape:
    """Read off a model what its cost depends on.

    Raises:
        ValueError: not a model that a path can take.
    """
    device = layerwise_model(model).device
    classes = [cls.__name__ for cls in type(model).__mro__]
    known = next((name for name in classes if name in PATTERN_BYTES), "TransformerBridge")
    weight = next(p for p in model.parameters() if p.is_floating_point())
    inner: Any = getattr(model, "original_model", model)
    if "HookedTransformer" in classes:
        config: Any = model.cfg
        widths, is_capped = _hooked_widths(config), config.attn_scores_soft_cap > 0
    else:
        config = inner.config.get_text_config(decoder=True)
        widths = _transformers_widths(config)
        is_capped = bool(getattr(config, "attn_logit_softcapping", None))
    capped = weight.element_size() if is_capped else 0
    return ModelShape(
        **widths,
        itemsize=weight.element_size(),
        device=device,
        pattern_bytes=PATTERN_BYTES[known](weight.element_size()) + capped,
        cap_bytes=capped,
        norm_copies=NORM_COPIES[known],
        gaps=GAPS[known],
    )


def _hooked_widths(config: Any) -> dict[str, int]:
    return {
        "n_layers": config.n_layers,
        "n_heads": config.n_heads,
        "d_model": config.d_model,
        "d_mlp": (config.d_mlp or 0) * (config.experts_per_token or 1),
        "query_width": config.n_heads * config.d_head,
        "key_width": (config.n_key_value_heads or config.n_heads) * config.d_head,
        "vocab": config.d_vocab,
    }


def _transformers_widths(config: Any) -> dict[str, int]:
    d_head = stated(config, "head_dim") or config.hidden_size // config.num_attention_heads
    kv_heads = stated(config, "num_key_value_heads") or config.num_attention_heads
    experts = stated(config, "num_experts_per_tok") or 1
    width = stated(config, "moe_intermediate_size") or stated(config, "intermediate_size")
    return {
        "n_layers": config.num_hidden_layers,
        "n_heads": config.num_attention_heads,
        "d_model": config.hidden_size,
        "d_mlp": (width or 4 * config.hidden_size) * experts,
        "query_width": config.num_attention_heads * d_head,
        "key_width": kv_heads * d_head,
        "vocab": config.vocab_size,
    }
