"""Activations of a model over a trace, for what is made of reference traces."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from step_saliency.intervene.sites import VALUE_HOOK
from step_saliency.models.facts import attended_values, device_of
from step_saliency.models.interrupts import together
from step_saliency.models.turns import turn
from step_saliency.models.undisturbed import undisturbed
from step_saliency.trace import Trace


def activations_of(
    model: Any,
    trace: Trace,
    names: Sequence[str],
    take: Callable[[Float[Tensor, "pos ..."]], Tensor] = lambda activation: activation,
) -> dict[str, Tensor]:
    """What hook points show of one trace, by name in the order given.

    Args:
        model: HookedTransformer or TransformerBridge.
        trace: The trace.
        names: Hook points that fire on the model.
        take: What to keep of an activation, so that not all of all layers are held at once.
    """
    activations: dict[str, Tensor] = {}

    def keep(activation: Float[Tensor, "1 pos ..."], hook: Any, name: str) -> None:
        is_value = name.endswith(VALUE_HOOK)
        activations[name] = take(
            attended_values(model, activation)[0] if is_value else activation[0]
        )

    hooks = [(name, lambda x, hook, name=name: keep(x, hook, name)) for name in names]
    tokens = trace.tokens[None].to(device_of(model))
    with together(turn(model), undisturbed(model), model.hooks(fwd_hooks=hooks)):
        model(tokens, attention_mask=torch.ones_like(tokens))
    return {name: activations[name] for name in names}
