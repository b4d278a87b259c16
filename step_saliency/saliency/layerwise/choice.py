"""Which class runs a model layer by layer, and whether what it runs is the model."""

import weakref

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from step_saliency.models.hooking import module_hook
from step_saliency.models.interrupts import together
from step_saliency.models.turns import owned, turn
from step_saliency.saliency.layerwise.base import LayerwiseModel, first_tensor
from step_saliency.saliency.layerwise.hooked import LayerwiseHooked
from step_saliency.saliency.layerwise.run import AttentionRun
from step_saliency.saliency.layerwise.transformers import LayerwiseTransformers

CHECKED_TOKENS = 16
_checked: "weakref.WeakSet[nn.Module]" = weakref.WeakSet()


def layerwise_model(model: nn.Module) -> LayerwiseModel:
    """How a model is run block by block.

    Args:
        model: HookedTransformer, TransformerBridge or a causal model of transformers.

    Raises:
        ValueError: anything else.
    """
    names = {cls.__name__ for cls in type(model).__mro__}
    if "HookedTransformer" in names:
        return LayerwiseHooked(model)
    inner = getattr(model, "original_model", None) if "TransformerBridge" in names else model
    if isinstance(inner, PreTrainedModel):
        return LayerwiseTransformers(model, inner)
    raise ValueError(
        "expected a HookedTransformer, a TransformerBridge or a transformers model, got "
        f"{type(model).__name__}"
    )


def refusal(model: nn.Module) -> str | None:
    """Why a model, with the hooks that it has now, cannot be streamed; None if it can."""
    try:
        with turn(model, alone="waits"), layerwise_model(model).step_attention(AttentionRun()):
            return None
    except ValueError as error:
        return str(error)


@torch.no_grad()
def check_layerwise(layerwise: LayerwiseModel, tokens: Int[Tensor, "pos"]) -> None:
    """Compare, once per model, step attention with the model's own attention on a few tokens.

    Raises:
        ValueError: they differ, so that maps would be of another model.
    """
    if layerwise.model in _checked:
        return
    tokens = tokens[:CHECKED_TOKENS].unsqueeze(0).to(layerwise.device)
    own = _last_resid(layerwise, tokens)
    with layerwise.step_attention(AttentionRun()):
        ours = _last_resid(layerwise, tokens)
    half = own.dtype in (torch.bfloat16, torch.float16)
    own, ours = own.float(), ours.float()
    difference = (own - ours).norm(dim=-1) / own.norm(dim=-1)
    tolerance = 0.1 if half else 1e-3
    if not float(difference.median()) < tolerance:
        raise ValueError(
            f"{type(layerwise.model).__name__}: with streaming attention the last residuals differ "
            f"by {float(difference.median()):.1%} from the model's own; use method='hooks'"
        )
    _checked.add(layerwise.model)


def _last_resid(
    layerwise: LayerwiseModel, tokens: Int[Tensor, "batch pos"]
) -> Float[Tensor, "batch pos d_model"]:
    outputs: list[Tensor] = []
    last = layerwise.blocks[-1]
    keep = owned(lambda _block, _args, out: outputs.append(first_tensor(out)))
    with together(module_hook(last.register_forward_hook, keep)):
        layerwise.run_blocks(tokens, None)
    return outputs[0]
