"""Teacher-forced passes: the text is given, and what is predicted at each position is read."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from step_saliency.intervene import Edit, EditGroup
from step_saliency.models.facts import device_of
from step_saliency.models.hooking import NamedHook
from step_saliency.trace import Trace


def group_of(edits: Sequence[Edit]) -> EditGroup | None:
    """Edits attached together; None without any."""
    return EditGroup(list(edits)) if edits else None


@torch.no_grad()
def forced_logits(
    model: Any, trace: Trace, flow: Any = None, hooks: Sequence[NamedHook] = ()
) -> Float[Tensor, "pos vocab"]:
    """Logits of a full pass under an intervention, in float32 on the CPU.

    Args:
        model: HookedTransformer or TransformerBridge.
        trace: Tokens and steps.
        flow: Intervention, or None.
        hooks: Forward hooks beside it.
    """
    tokens = trace.tokens[None].to(device_of(model))
    attached = nullcontext() if flow is None else flow.attached(model, trace=trace)
    with attached, model.hooks(fwd_hooks=list(hooks)):
        logits = model(tokens, attention_mask=torch.ones_like(tokens), return_type="logits")
    return logits[0].float().cpu()
