"""The attention of a bridge, and the transformers attention that it wraps, called alike."""

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from step_saliency.models.adapter import bridged_attention, unbridged_forward
from step_saliency.models.facts import backend_of
from step_saliency.models.hooking import module_hook
from step_saliency.models.interrupts import one_change
from step_saliency.models.turns import owned

CACHES = ("past_key_values", "past_key_value", "layer_past")
"""Names under which attention takes a cache, which a second call would add to."""


@dataclass(frozen=True, eq=False)
class AttentionCall:
    """One call of the attention of a bridge.

    Attributes:
        attention: The module.
        args: What it was called with.
        kwargs: What it was called with by name, without a cache.
    """

    attention: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @torch.no_grad()
    def outputs(self) -> tuple[Float[Tensor, "batch pos d_model"], ...]:
        """What the bridge's attention puts out, and what that inside it does, in float64."""
        forwards = (self.attention.forward, unbridged_forward(self.attention))
        both = (forward(*self.args, **self.kwargs) for forward in forwards)
        return tuple((out[0] if isinstance(out, tuple) else out).double() for out in both)


@one_change
def attention_calls(exits: ExitStack, model: Any, calls: dict[int, AttentionCall]) -> None:
    """Context in which the calls of a bridge's attention are kept, by layer.

    Joint projections are left out: a bridge splits them, and its halves have weights of their own.
    """
    if backend_of(model) == "hooked":
        return
    for layer, block in enumerate(model.blocks):
        try:
            attention = bridged_attention(block)
        except ValueError:
            continue
        if any("JointQKV" in cls.__name__ for cls in type(attention).__mro__):
            continue

        def keep(
            module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], layer: int = layer
        ) -> None:
            without = {name: None for name in CACHES if name in kwargs}
            held = {**kwargs, **without}
            calls[layer] = AttentionCall(module, _detached(args), _detached(held))

        exits.enter_context(
            module_hook(attention.register_forward_pre_hook, owned(keep), with_kwargs=True)
        )


def _detached(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, dict):
        return {name: _detached(part) for name, part in value.items()}
    return type(value)(map(_detached, value)) if type(value) in (tuple, list) else value
