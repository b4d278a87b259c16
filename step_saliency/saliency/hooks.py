"""Token influence by hook functions: the reference path.

Question: how much does the prediction made at position t depend on what head h of layer l took from
position k? With A the attention pattern and L_t the loss of the prediction at t (see `objectives`),

    I[h, t, k] = | A[h, t, k] * dL_t / dA[h, t, k] |.

Local objectives need L_t for every t, yet one backward pass of sum_t L_t gives all of them exactly,
if keys and values pass gradient on the diagonal only:

    k -> k.detach(),    scores[t, t] += dscore/d(q.k) * q_t . (k_t - k_t.detach())
    v -> v.detach(),    z[t]         += A[t, t] * (v_t - v_t.detach())

Both additions are zero in value. A residual at position t then reaches no loss but L_t, which is
what one backward pass per position would see. Assumes that attention is the only way between
positions.

When it misleads: the influence is a first-order term. A weight that could be large but is small, or
a saturated prediction, has little of it; so have two paths that cancel. And it says what the model
read from where, not whether that made the answer right.

Memory grows with layers * heads * pos * pos; `step_saliency.saliency.streaming` is the way for long
traces.

Source: "Reasoning Fails Where Step Flow Breaks" (ACL 2026), Step-Saliency.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

import torch
from einops import einsum, rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor

from step_saliency.models.facts import attention_scale, device_of, n_layers, score_softcap
from step_saliency.models.hooking import (
    NamedHook,
    firing_hooks,
    frozen_parameters,
    live_names,
    prepended_hooks,
)
from step_saliency.options import QUANTITIES, Quantity, check_option
from step_saliency.saliency.objectives import Objective

Reduced = TypeVar("Reduced")


def reduce_influence(
    model: Any,
    tokens: Int[Tensor, "pos"],
    objective: Objective,
    *,
    layers: Sequence[int],
    reduce: Callable[[Float[Tensor, "head query key"]], Reduced],
    quantity: Quantity = "saliency",
) -> dict[int, Reduced]:
    """Compute the token influence of some layers and reduce each as soon as its gradient is there.

    Args:
        model: HookedTransformer or TransformerBridge; left as it was, hooks of others stay in
            force.
        tokens: Token ids of one trace.
        objective: What is differentiated.
        layers: Model layers, any order.
        reduce: What to keep of a layer's ``head query key`` influence.
        quantity: |A * dA|, or A alone, or |dA| alone.

    Returns:
        Reduced influence by layer.

    Raises:
        ValueError: the model lacks a hook that is needed, or its logits are not finite.
    """
    check_option("quantity", quantity, QUANTITIES)
    patterns: dict[int, Float[Tensor, "head query key"]] = {}
    reduced: dict[int, Reduced] = {}

    def keep_pattern(pattern: Float[Tensor, "batch head query key"], hook: Any) -> None:
        patterns[hook.layer()] = pattern.detach()[0]

    def weigh_by_gradient(gradient: Float[Tensor, "batch head query key"], hook: Any) -> None:
        pattern = patterns.pop(hook.layer())
        reduced[hook.layer()] = reduce(_combine(pattern, gradient.detach()[0], quantity))

    names = [f"blocks.{layer}.attn.hook_pattern" for layer in layers]
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(frozen_parameters(model))
        stack.enter_context(prepended_hooks(model, [_leaf_hook(min(layers))]))
        if objective.local:
            stack.enter_context(position_local(model, min(layers)))
        stack.enter_context(
            model.hooks(
                fwd_hooks=[(name, keep_pattern) for name in live_names(model, names)],
                bwd_hooks=[(name, weigh_by_gradient) for name in names],
            )
        )
        total_loss(model, tokens, objective).backward()
    return reduced


def total_loss(model: Any, tokens: Int[Tensor, "pos"], objective: Objective) -> Float[Tensor, ""]:
    """The objective on one trace, with its graph.

    Raises:
        ValueError: the logits or the objective are not finite.
    """
    tokens = tokens.to(device_of(model))
    batch = tokens.unsqueeze(0)
    logits = model(batch, return_type="logits", attention_mask=torch.ones_like(batch))[0]
    finite = logits.isfinite().all(-1)
    if not finite.all():
        raise ValueError(
            f"the model's logits are not finite from position {int(finite.int().argmin())} on "
            f"({int((~finite).sum())} of {len(tokens)} positions); no gradient can be taken"
        )
    loss = objective.total(logits, tokens.to(logits.device))
    if not loss.isfinite():
        raise ValueError(f"objective {objective.name} is {loss.item()} on this trace")
    return loss


@contextmanager
def position_local(model: Any, first_layer: int = 0) -> Iterator[None]:
    """Let one backward pass differentiate every position's loss for that position alone.

    Changes no activation, only what gradient passes (module docstring). Of the hooks of others,
    those at scores, pattern and z may do anything; those at keys and values may add to them.

    Args:
        model: HookedTransformer or TransformerBridge.
        first_layer: Layers below it are left alone.

    Raises:
        ValueError: the model lacks one of the hook points.
    """
    first: list[NamedHook] = []
    last: list[NamedHook] = []
    for layer in range(first_layer, n_layers(model)):
        before, after = _local_layer_hooks(model, layer)
        first += before
        last += after
    with prepended_hooks(model, first), model.hooks(fwd_hooks=last):
        yield


def _local_layer_hooks(model: Any, layer: int) -> tuple[list[NamedHook], list[NamedHook]]:
    """Hooks that must run before those of others at the same point, and one that must run after."""
    prefix = f"blocks.{layer}.attn."
    query_name, key_name = _query_key_names(model, layer)
    names = [query_name, key_name, "hook_v", "hook_z", "hook_attn_scores", "hook_pattern"]
    live_names(model, [prefix + name for name in names])
    scale, softcap = attention_scale(model, layer), score_softcap(model)
    seen: dict[str, Tensor] = {}

    def keep_query(q: Float[Tensor, "batch query head d_head"], hook: Any) -> None:
        seen["q"] = q.detach()

    def detach_key(
        k: Float[Tensor, "batch key kv_head d_head"], hook: Any
    ) -> Float[Tensor, "batch key kv_head d_head"]:
        seen["dk"] = k - k.detach()
        return k.detach()

    def keep_rotation(turn: Float[Tensor, "batch pos rotary"], hook: Any) -> None:
        seen["length"] = seen.get("length", 0.0) + turn.detach() ** 2

    def detach_value(
        v: Float[Tensor, "batch key kv_head d_head"], hook: Any
    ) -> Float[Tensor, "batch key kv_head d_head"]:
        seen["dv"] = v - v.detach()
        return v.detach()

    def pass_scores(
        scores: Float[Tensor, "batch head query key"], hook: Any
    ) -> Float[Tensor, "batch head query key"]:
        dk = _stretch(seen.pop("dk"), seen.pop("length", None))
        return pass_key_diagonal(scores, seen.pop("q"), dk, scale, softcap)

    def keep_diagonal(pattern: Float[Tensor, "batch head query key"], hook: Any) -> None:
        seen["diagonal"] = pattern.detach().diagonal(dim1=-2, dim2=-1)

    def pass_values(
        z: Float[Tensor, "batch query head d_head"], hook: Any
    ) -> Float[Tensor, "batch query head d_head"]:
        return pass_value_diagonal(z, seen.pop("diagonal"), seen.pop("dv"))

    before: list[NamedHook] = [
        (prefix + query_name, keep_query),
        (prefix + key_name, detach_key),
        (prefix + "hook_v", detach_value),
        (prefix + "hook_attn_scores", pass_scores),
        (prefix + "hook_z", pass_values),
    ]
    rotation = {prefix + "hook_cos", prefix + "hook_sin"} & firing_hooks(model)
    if query_name == "hook_q":
        before += [(name, keep_rotation) for name in sorted(rotation)]
    return before, [(prefix + "hook_pattern", keep_diagonal)]


def _stretch(
    dk: Float[Tensor, "batch pos kv_head d_head"], length: Float[Tensor, "batch pos rotary"] | None
) -> Float[Tensor, "batch pos kv_head d_head"]:
    """Multiply by cos^2 + sin^2 of the rotation to come, which rounding leaves 1e-7 off one."""
    if length is None:
        return dk
    factor = torch.nn.functional.pad(length, (0, dk.shape[-1] - length.shape[-1]), value=1.0)
    return dk * factor.unsqueeze(2)


def pass_key_diagonal(
    scores: Float[Tensor, "batch head pos pos"],
    q: Float[Tensor, "batch pos head d_head"],
    dk: Float[Tensor, "batch pos kv_head d_head"],
    scale: float,
    softcap: float | None,
) -> Float[Tensor, "batch head pos pos"]:
    """Add q . dk, zero in value, to the diagonal of the scores.

    Args:
        scores: Attention scores before the softmax.
        q: Queries as they entered the scores.
        dk: k - k.detach() of the keys as they entered the scores, not yet repeated for groups.
        scale: Factor between q . k and the score.
        softcap: c of score = c * tanh(scale * q . k / c), if the model caps its scores.
    """
    diagonal = einsum(
        q,
        _ungroup(dk, q.shape[2]),
        "batch pos head d_head, batch pos head d_head -> batch head pos",
    )
    slope = scale * torch.ones_like(diagonal)
    if softcap is not None:
        capped = scores.detach().diagonal(dim1=-2, dim2=-1)
        slope = slope * (1 - (capped / softcap) ** 2)
    return scores + torch.diag_embed((slope * diagonal).to(scores.dtype))


def pass_value_diagonal(
    z: Float[Tensor, "batch pos head d_head"],
    diagonal: Float[Tensor, "batch head pos"],
    dv: Float[Tensor, "batch pos kv_head d_head"],
) -> Float[Tensor, "batch pos head d_head"]:
    """Add A[t, t] * dv, zero in value, to the head outputs.

    Args:
        z: Head outputs before the output projection.
        diagonal: A[t, t].
        dv: v - v.detach(), not yet repeated for groups.
    """
    weights = rearrange(diagonal, "batch head pos -> batch pos head 1")
    return z + (weights * _ungroup(dv, z.shape[2])).to(z.dtype)


def _combine(
    pattern: Float[Tensor, "head query key"],
    gradient: Float[Tensor, "head query key"],
    quantity: Quantity,
) -> Float[Tensor, "head query key"]:
    if pattern.dtype in (torch.bfloat16, torch.float16):
        pattern, gradient = pattern.float(), gradient.float()
    if quantity == "attention":
        return pattern
    weight = pattern if quantity == "saliency" else torch.ones_like(pattern)
    return (weight * gradient).abs().tril()


def _ungroup(
    x: Float[Tensor, "batch pos kv_head d_head"], n_heads: int
) -> Float[Tensor, "batch pos head d_head"]:
    group = n_heads // x.shape[2]
    return repeat(x, "batch pos kv_head d_head -> batch pos (kv_head group) d_head", group=group)


def _leaf_hook(layer: int) -> NamedHook:
    """Cut the graph below a layer, so that nothing is differentiated there."""

    def start_graph(resid: Float[Tensor, "batch pos d_model"], hook: Any) -> Tensor:
        return resid.detach().requires_grad_()

    return f"blocks.{layer}.hook_resid_pre", start_graph


def _query_key_names(model: Any, layer: int) -> tuple[str, str]:
    """Where queries and keys enter the scores: after the rotation, or before it if need be.

    On the diagonal the rotation makes no difference, because q_t and k_t are turned alike; a norm
    of queries and keys would.
    """
    prefix = f"blocks.{layer}.attn."
    if {prefix + "hook_rot_q", prefix + "hook_rot_k"} <= firing_hooks(model):
        return "hook_rot_q", "hook_rot_k"
    if getattr(model.cfg, "use_qk_norm", False):
        raise ValueError(
            f"{prefix}hook_rot_k does not fire on this {type(model).__name__}, whose keys are "
            "normalised after hook_k: gradients cannot be kept position-local"
        )
    return "hook_q", "hook_k"
