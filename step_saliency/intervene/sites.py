"""Where an edit can act: hook points of TransformerLens, by a short name.

scores       blocks.L.attn.hook_attn_scores   batch head query key; masked: -inf or lowest
z            blocks.L.attn.hook_z             batch pos head d_head
resid_post   blocks.L.hook_resid_post         batch pos d_model
"""

import re
from typing import Literal

from torch import Tensor

Site = Literal["scores", "z", "resid_post"]
SITE_HOOKS: dict[str, str] = {
    "scores": "attn.hook_attn_scores",
    "z": "attn.hook_z",
    "resid_post": "hook_resid_post",
}
VALUE_HOOK = "attn.hook_v"
_POINTS = {
    "scores": re.compile(r"attn\.hook_attn_scores$"),
    "z": re.compile(r"attn\.(hook_z|o\.hook_in)$"),
    "v": re.compile(r"attn\.(hook_v|v\.hook_out)$"),
    "resid_post": re.compile(r"blocks\.\d+\.(hook_resid_post|hook_out)$"),
}


def point_of(hook_name: str) -> str | None:
    """Which of scores, z, v and resid_post a hook point is, also by a bridge's own name for it."""
    return next((point for point, name in _POINTS.items() if name.search(hook_name)), None)


def changed(activation: Tensor, edited: Tensor) -> Tensor | None:
    """What a hook function is to return: None where nothing changed."""
    return None if edited is activation else edited.to(activation.dtype)
