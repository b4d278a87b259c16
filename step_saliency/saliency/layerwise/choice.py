"""Which class runs a model layer by layer, and whether what it runs is the model."""

import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from step_saliency.models.contents import contents_digest
from step_saliency.models.hooking import module_hook, without_hooks
from step_saliency.models.identity import model_state
from step_saliency.models.interrupts import together
from step_saliency.models.masks import last_rows
from step_saliency.models.turns import owned, turn
from step_saliency.models.undisturbed import undisturbed
from step_saliency.models.windows import seen_keys
from step_saliency.saliency.kernels.step_attention.types import AttentionSpec
from step_saliency.saliency.layerwise.base import LayerwiseModel, first_tensor
from step_saliency.saliency.layerwise.hooked import LayerwiseHooked
from step_saliency.saliency.layerwise.run import AttentionRun
from step_saliency.saliency.layerwise.transformers import LayerwiseTransformers

CHECKED_TOKENS = 16


@dataclass(frozen=True)
class _Checked:
    """A state of a model in which it was compared.

    Attributes:
        state: The state.
        windows: Window of each layer.
        beyond: Windows of theirs beyond which they were compared.
    """

    state: tuple[Any, ...]
    windows: list[int | None]
    beyond: set[int] = field(default_factory=set)


_checked: "weakref.WeakKeyDictionary[nn.Module, _Checked]" = weakref.WeakKeyDictionary()


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


@dataclass(eq=False)
class _Recorded(AttentionRun):
    """A run that notes the window of each layer."""

    windows: list[int | None] = field(default_factory=list)

    def attend(
        self,
        q: Float[Tensor, "batch head pos d_head"],
        k: Float[Tensor, "batch kv_head pos d_head"],
        v: Float[Tensor, "batch kv_head pos d_value"],
        spec: AttentionSpec,
        sinks: Float[Tensor, "head"] | None = None,
    ) -> Float[Tensor, "batch head pos d_value"]:
        self.windows.append(spec.window)
        return super().attend(q, k, v, spec, sinks)


def mismatch(model: nn.Module, tokens: Int[Tensor, "pos"]) -> str | None:
    """Why step attention is not the model's own, see `check_layerwise`; None if it is."""
    try:
        with turn(model, alone="waits"), undisturbed(model, warn=False):
            check_layerwise(layerwise_model(model), tokens)
    except ValueError as error:
        return str(error)
    return None


def check_layerwise(layerwise: LayerwiseModel, tokens: Int[Tensor, "pos"]) -> None:
    """Compare step attention with the model's own attention, once for each state of a model.

    The user's hooks are left out, since they may be made for longer traces. A few tokens are
    run both ways. No usual window acts in so few; so, when a trace is longer than one for the first
    time, the keys that the model's own mask hides there are asked for, without a pass, and have to
    be those outside of the window that step attention was handed. A transformers model alone is run
    both ways on as many tokens instead.

    Raises:
        ValueError: they differ, so that maps would be of another model.
    """
    contexts = (torch.inference_mode(False), torch.no_grad(), without_hooks(layerwise.model))
    with together(*contexts):
        _check(layerwise, tokens)


def _check(layerwise: LayerwiseModel, tokens: Int[Tensor, "pos"]) -> None:
    model = layerwise.model
    state = (*model_state(model), contents_digest(_held_twice(model)))
    if model not in _checked or _checked[model].state != state:
        _checked[model] = _Checked(state, _compared(layerwise, tokens[:CHECKED_TOKENS]))
    checked = _checked[model]
    shorter = {w for w in checked.windows if w is not None and w < len(tokens)}
    for window in sorted(shorter - checked.beyond):
        if isinstance(model, PreTrainedModel):
            _compared(layerwise, tokens[: window + CHECKED_TOKENS])
        else:
            _check_masks(model, checked.windows, window + 1)
        checked.beyond.add(window)


def _held_twice(model: nn.Module) -> list[Tensor]:
    """Weights of a bridge's joint projections, and the parts that it made of them.

    Each can be changed without the other; all other weights are those that the model runs with.
    """
    joint = [m for m in model.modules() if any("JointQKV" in c.__name__ for c in type(m).__mro__)]
    return list({id(weight): weight for m in joint for weight in m.parameters()}.values())


def _compared(layerwise: LayerwiseModel, tokens: Int[Tensor, "pos"]) -> list[int | None]:
    """Windows that step attention was handed, once what it gives is seen to be the model's."""
    tokens = tokens.unsqueeze(0).to(layerwise.device)
    own = _last_resid(layerwise, tokens)
    run = _Recorded()
    with layerwise.step_attention(run):
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
    return run.windows


def _check_masks(model: nn.Module, of_layers: Sequence[int | None], n_keys: int) -> None:
    for layer, (window, own) in enumerate(zip(of_layers, last_rows(model, n_keys), strict=True)):
        if not torch.equal(own, seen_keys(1, n_keys, window)[0]):
            raise ValueError(
                f"layer {layer} of {type(model).__name__}: of {n_keys} keys the last query sees "
                f"{int(own.sum())} by the model's own mask and {min(window or n_keys, n_keys)} by "
                "the window that its config names; see ss.doctor(model)"
            )


def _last_resid(
    layerwise: LayerwiseModel, tokens: Int[Tensor, "batch pos"]
) -> Float[Tensor, "batch pos d_model"]:
    outputs: list[Tensor] = []
    last = layerwise.blocks[-1]
    keep = owned(lambda _block, _args, out: outputs.append(first_tensor(out)))
    with together(module_hook(last.register_forward_hook, keep)):
        layerwise.run_blocks(tokens, None)
    return outputs[0]
