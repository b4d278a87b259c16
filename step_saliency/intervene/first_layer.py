"""What a pass shows in its first layer: how many positions it brings, and which are padding.

A position that is padding may not attend to itself:

    real[query] = mask[query, n_past + query] is open

Scores have the mask in them. A bridge that does not take attention apart (OPT, GPT-J, Llama 4)
shows scores only when attention is over and its heads have been edited; there, what the block hands
to its attention is read, before any hook point of the layer but that of its input.

When it misleads: attention that is handed a mask and does not heed it.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from step_saliency.models.hooking import added_hooks, firing_order, module_hook
from step_saliency.models.turns import owned, owned_hooks

FIRST_SCORES = "blocks.0.attn.hook_attn_scores"
FIRST_Z = "blocks.0.attn.hook_z"
N_AXES = 4

Mask: TypeAlias = Bool[Tensor, "batch query key"] | Float[Tensor, "batch query key"]
"""Open where True, or where it is no lowest number."""


def shown_masks(model: Any, take: Callable[[Mask], None]) -> AbstractContextManager[Any]:
    """Context in which passes show what their queries may attend to in the first layer.

    Args:
        model: HookedTransformer or TransformerBridge.
        take: Hears of it before any edit; in passes of other threads RuntimeError is raised.

    Raises:
        ValueError: the model does not show its scores.
    """
    if not _shows_scores_late(model):

        def show_scores(scores: Tensor, hook: Any) -> None:
            take(scores[:, 0])

        hooks = owned_hooks([(FIRST_SCORES, show_scores)])
        return added_hooks(model, hooks, prepend=True, permanent=True)

    def show_mask(_module: Any, _args: Any, kwargs: dict[str, Any]) -> None:
        take(_checked(kwargs.get("attention_mask")))

    attention = model.blocks[0].attn
    return module_hook(attention.register_forward_pre_hook, owned(show_mask), with_kwargs=True)


def _shows_scores_late(model: Any) -> bool:
    order = firing_order(model)
    both = FIRST_SCORES in order and FIRST_Z in order
    return both and order.index(FIRST_Z) < order.index(FIRST_SCORES)


def _checked(mask: Any) -> Mask:
    if not isinstance(mask, Tensor) or mask.ndim != N_AXES:
        shape = list(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise ValueError(
            f"padding is read from the mask [batch, 1, query, key] of the first layer's attention, "
            f"but the model gives it {shape}; load it with attn_implementation='eager'"
        )
    return mask[:, 0]


def real_positions(mask: Mask, n_past: int) -> Bool[Tensor, "batch query"]:
    """Which positions of a pass are no padding.

    Args:
        mask: What its queries may attend to.
        n_past: Keys of the mask before the first query's own.
    """
    diagonal = mask.diagonal(offset=n_past, dim1=-2, dim2=-1)
    return diagonal if mask.dtype == torch.bool else diagonal > torch.finfo(mask.dtype).min / 4
