"""Where queries and keys enter the scores: after their rotation, or before it if need be."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from step_saliency.models.hooking import firing_hooks


def query_key_hooks(model: Any, layer: int) -> tuple[str, str]:
    """Hook points of a layer's queries and keys whose product on the diagonal is the score.

    There the rotation makes no difference, because q_t and k_t are turned alike. Whether the
    product is the score is for the doctor to say: a norm behind these points would change it.
    """
    prefix = f"blocks.{layer}.attn."
    if {prefix + "hook_rot_q", prefix + "hook_rot_k"} <= firing_hooks(model):
        return prefix + "hook_rot_q", prefix + "hook_rot_k"
    return prefix + "hook_q", prefix + "hook_k"


def rotation_hooks(model: Any, layer: int) -> list[str]:
    """Hook points of cosines and sines still to come after `query_key_hooks`; none if applied."""
    prefix = f"blocks.{layer}.attn."
    if query_key_hooks(model, layer)[0] != prefix + "hook_q":
        return []
    return sorted({prefix + "hook_cos", prefix + "hook_sin"} & firing_hooks(model))


def stretched(
    keys: Float[Tensor, "batch pos kv_head d_head"],
    length: Float[Tensor, "#batch pos rotary"] | None,
) -> Float[Tensor, "batch pos kv_head d_head"]:
    """Keys times what a rotation to come makes of a product on the diagonal.

    Args:
        keys: Keys before their rotation.
        length: cos^2 + sin^2, which rounding leaves 1e-7 off one and a scaled rotation further;
            None where the keys are rotated.
    """
    if length is None:
        return keys
    factor = torch.nn.functional.pad(length, (0, keys.shape[-1] - length.shape[-1]), value=1.0)
    return keys * factor.unsqueeze(2)
