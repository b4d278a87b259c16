"""Do edits at hooks change the logits, in every layer?

Edits are tried in every layer at once: a batch of copies of the same tokens, with the edit of layer
l in copy l only. A hook whose edit is dropped gives a difference of exactly zero, or of rounding.
Where an edit does pass, this does not tell whether it is the right one.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from einops import repeat
from jaxtyping import Float, Int
from torch import Tensor

from step_saliency.models.facts import config_of
from step_saliency.models.interrupts import together
from step_saliency.models.probes.measure import (
    EFFECT,
    Measurement,
    at_least,
    layer_names,
    precision_of,
    run,
)

EDIT_TOKENS = 8
LOGITS_PER_PASS = 2**24


def _edit_row(row: int, edit: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    def hook_function(activation: Tensor, hook: Any) -> Tensor:
        edited = activation.clone()
        edited[row] = edit(activation[row])
        return edited

    return hook_function


def edit_effects(
    model: Any,
    tokens: Int[Tensor, "1 pos"],
    hook: str,
    edit: Callable[[Tensor], Tensor],
) -> Float[Tensor, "layer"]:
    """Largest change of any logit when ``edit`` is applied at ``hook`` of one layer at a time.

    Args:
        model: HookedTransformer or TransformerBridge.
        tokens: Tokens to run on.
        hook: Name within the block, e.g. ``"attn.hook_attn_scores"``.
        edit: Activation of one sequence -> edited activation.

    Returns:
        Change per layer, in standard deviations of the clean logits.
    """
    names = layer_names(model, hook)
    per_pass = max(1, LOGITS_PER_PASS // (tokens.shape[1] * int(config_of(model).d_vocab)) - 1)
    chunks = [names[start : start + per_pass] for start in range(0, len(names), per_pass)]
    return torch.cat([_effects_in_one_pass(model, tokens, chunk, edit) for chunk in chunks])


@torch.no_grad()
def _effects_in_one_pass(
    model: Any,
    tokens: Int[Tensor, "1 pos"],
    names: Sequence[str],
    edit: Callable[[Tensor], Tensor],
) -> Float[Tensor, "layer"]:
    copies = repeat(tokens, "1 pos -> copies pos", copies=len(names) + 1)
    hooks = [(name, _edit_row(row, edit)) for row, name in enumerate(names, start=1)]
    with together(model.hooks(fwd_hooks=hooks)):
        clean, edited = run(model, copies).split([1, len(names)])
    return (edited - clean).abs().amax(dim=(1, 2)) / clean.std()


def _tilt_keys(scores: Float[Tensor, "head query key"]) -> Float[Tensor, "head query key"]:
    """Favour every other key; entries masked by -inf or a large number stay masked."""
    n_keys = scores.shape[-1]
    return scores + torch.where(torch.arange(n_keys, device=scores.device) % 2 == 0, 2.0, -2.0).to(
        scores
    )


def _shove(activation: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Add a fixed random vector of the activation's own size."""
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(activation.shape, generator=generator).to(activation)
    return activation + noise * activation.std()


def _edit_measurement(
    model: Any, tokens: Int[Tensor, "1 pos"], hook: str, edit: Callable[[Tensor], Tensor]
) -> Measurement:
    effects = edit_effects(model, tokens[:, :EDIT_TOKENS], hook, edit)
    layer = int(effects.nan_to_num(nan=-1.0).argmin())
    note = f"smallest change of logits by an edit at {hook}, in layer {layer}"
    return at_least(float(effects[layer]), EFFECT[precision_of(model)], note)


def score_edits(model: Any, tokens: Int[Tensor, "1 pos"]) -> Measurement:
    """Do edits of attention scores change logits, in every layer?"""
    return _edit_measurement(model, tokens, "attn.hook_attn_scores", _tilt_keys)


def head_edits(model: Any, tokens: Int[Tensor, "1 pos"]) -> Measurement:
    """Do edits of head outputs change logits, in every layer?"""
    return _edit_measurement(model, tokens, "attn.hook_z", _shove)


def residual_edits(model: Any, tokens: Int[Tensor, "1 pos"]) -> Measurement:
    """Do edits of the residual stream after a block change logits, in every layer?"""
    return _edit_measurement(model, tokens, "hook_resid_post", _shove)
