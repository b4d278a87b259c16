"""Token influence by hook functions: the reference path.

Question: how much does the prediction made at position t depend on what head h of layer l took from
position k? With A the attention pattern and L_t the loss of the prediction at t (see `objectives`),

    I[h, t, k] = | A[h, t, k] * dL_t / dA[h, t, k] |.

Local objectives need L_t for every t; `position_local` gives all of them in one backward pass,
exactly. Assumes that attention is the only way between positions.

When it misleads: the influence is a first-order term. A weight that could be large but is small, or
a saturated prediction, has little of it; so have two paths that cancel. And it says what the model
read from where, not whether that made the answer right.

Memory grows with layers * heads * pos * pos; `step_saliency.saliency.streaming` is the way for long
traces.

Source: "Reasoning Fails Where Step Flow Breaks" (ACL 2026), Step-Saliency.
"""

import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from step_saliency.models.doctor import require_capabilities
from step_saliency.models.facts import device_of
from step_saliency.models.hooking import (
    NamedHook,
    frozen_parameters,
    live_names,
    prepended_hooks,
)
from step_saliency.models.interrupts import together
from step_saliency.models.turns import owned_hooks, turn
from step_saliency.models.undisturbed import undisturbed
from step_saliency.models.windows import windows
from step_saliency.options import QUANTITIES, Quantity, check_option
from step_saliency.saliency.objectives import Objective
from step_saliency.saliency.position_local import position_local

Reduced = TypeVar("Reduced")

DIFFERENTIATES = ("finite_activations", "pattern_rows", "gradients", "value_gradients")
"""What a model must be able to do, see `doctor`, for gradients at its patterns."""
IS_LOCAL = ("score_edits", "head_edits", "score_products", "local_gradients")
"""And for `position_local`."""


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
        objective: What is differentiated; attention alone has no use for it.
        layers: Model layers, any order.
        reduce: What to keep of a layer's ``head query key`` influence.
        quantity: |A * dA|, or A alone, or |dA| alone, or |A * (dA - sum_k A * dA)|, the gradient
            at the scores that enter the softmax.

    Returns:
        Reduced influence by layer.

    Raises:
        ValueError: the model lacks a hook that is needed, or fails what is relied on (see
            `doctor`), or its logits are not finite.
    """
    (reduced,) = reduce_influences(
        model, tokens, objective, layers=layers, reduce=reduce, quantities=[quantity]
    )
    return reduced


def reduce_influences(
    model: Any,
    tokens: Int[Tensor, "pos"],
    objective: Objective,
    *,
    layers: Sequence[int],
    reduce: Callable[[Float[Tensor, "head query key"]], Reduced],
    quantities: Sequence[Quantity],
) -> list[dict[int, Reduced]]:
    """As `reduce_influence`, for several quantities from one pass.

    Args:
        model: HookedTransformer or TransformerBridge.
        tokens: Token ids of one trace.
        objective: What is differentiated; attention alone has no use for it.
        layers: Model layers, any order.
        reduce: What to keep of a layer's ``head query key`` influence, of each quantity.
        quantities: Any of them; attention alone needs no backward pass.

    Returns:
        Reduced influence by layer, for each quantity.

    Raises:
        ValueError: as `reduce_influence`.
    """
    for quantity in quantities:
        check_option("quantity", quantity, QUANTITIES)
    patterns: dict[int, Float[Tensor, "head query key"]] = {}
    reduced: list[dict[int, Reduced]] = [{} for _ in quantities]
    differentiates = any(quantity != "attention" for quantity in quantities)
    of_layers = windows(model)

    def keep_pattern(pattern: Float[Tensor, "batch head query key"], hook: Any) -> None:
        patterns[hook.layer()] = pattern.detach()[0]
        _check_window(pattern.detach()[0], hook.layer(), of_layers[hook.layer()])
        if not differentiates:
            weigh(hook.layer(), None)

    def weigh(layer: int, gradient: Float[Tensor, "head query key"] | None) -> None:
        pattern = patterns.pop(layer)
        for quantity, of_layer in zip(quantities, reduced, strict=True):
            of_layer[layer] = reduce(_combine(pattern, gradient, quantity))

    def weigh_by_gradient(gradient: Float[Tensor, "batch head query key"], hook: Any) -> None:
        weigh(hook.layer(), gradient.detach()[0])

    names = [f"blocks.{layer}.attn.hook_pattern" for layer in layers]
    with turn(model, alone="waits"), undisturbed(model):
        require_capabilities(model, _needs(objective, differentiates=differentiates))
        forward = owned_hooks((name, keep_pattern) for name in live_names(model, names))
        if not differentiates:
            with torch.no_grad(), model.hooks(fwd_hooks=forward):
                finite_logits(model, tokens)
            return reduced
        backward = [(name, weigh_by_gradient) for name in names]
        lowest = min(layers)
        with together(
            torch.inference_mode(False),
            torch.enable_grad(),
            frozen_parameters(model),
            prepended_hooks(model, owned_hooks([_leaf_hook(lowest)])),
            position_local(model, lowest) if objective.local else nullcontext(),
            model.hooks(fwd_hooks=owned_hooks(map(_restart_hook, range(lowest, len(of_layers))))),
            model.hooks(fwd_hooks=forward, bwd_hooks=backward),
        ):
            total_loss(model, tokens, objective).backward()
    for layer in list(patterns):  # no gradient arrived: nothing depends on it
        weigh(layer, torch.zeros_like(patterns[layer]))
    return reduced


def _needs(objective: Objective, *, differentiates: bool) -> tuple[str, ...]:
    """What is relied on."""
    if not differentiates:
        return ("pattern_rows",)
    return (*DIFFERENTIATES, *(IS_LOCAL if objective.local else ()))


def total_loss(model: Any, tokens: Int[Tensor, "pos"], objective: Objective) -> Float[Tensor, ""]:
    """The objective on one trace, with its graph.

    Raises:
        ValueError: the logits or the objective are not finite.
    """
    logits = finite_logits(model, tokens)
    loss = objective.total(logits, tokens.to(logits.device))
    if not loss.isfinite():
        raise ValueError(f"objective {objective.name} is {loss.item()} on this trace")
    return loss


def finite_logits(model: Any, tokens: Int[Tensor, "pos"]) -> Float[Tensor, "pos vocab"]:
    """The logits of one trace.

    Raises:
        ValueError: they are not finite.
    """
    batch = tokens.to(device_of(model)).unsqueeze(0)
    logits: Tensor = model(batch, return_type="logits", attention_mask=torch.ones_like(batch))[0]
    finite = logits.isfinite().all(-1)
    if not finite.all():
        raise ValueError(
            f"the model's logits are not finite from position {int(finite.int().argmin())} on "
            f"({int((~finite).sum())} of {len(tokens)} positions); no map can be made"
        )
    return logits


def _combine(
    pattern: Float[Tensor, "head query key"],
    gradient: Float[Tensor, "head query key"] | None,
    quantity: Quantity,
) -> Float[Tensor, "head query key"]:
    if quantity == "attention":
        return _weighable(pattern)
    assert gradient is not None
    pattern, gradient = _weighable(pattern), _weighable(gradient)
    if quantity == "score_gradient":
        gradient = gradient - (pattern * gradient).sum(-1, keepdim=True)
    weight = torch.ones_like(pattern) if quantity == "gradient" else pattern
    return (weight * gradient).abs().tril()


def _weighable(values: Float[Tensor, "head query key"]) -> Float[Tensor, "head query key"]:
    """In float32 at least."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _check_window(pattern: Float[Tensor, "head query key"], layer: int, window: int | None) -> None:
    """Warn of attention to keys that the layer's window should hide."""
    if window is not None and window < pattern.shape[-1] and bool(pattern.tril(-window).any()):
        warnings.warn(
            f"layer {layer} attends to keys outside of the sliding window of {window} that its "
            "config names; what it reads there counts, but the pairs do not",
            stacklevel=2,
        )


def _leaf_hook(layer: int) -> NamedHook:
    """Cut the graph below a layer, so that nothing is differentiated there."""

    def start_graph(resid: Float[Tensor, "batch pos d_model"], hook: Any) -> Tensor:
        return resid.detach().requires_grad_()

    return f"blocks.{layer}.hook_resid_pre", start_graph


def _restart_hook(layer: int) -> NamedHook:
    """Begin the graph anew where a hook put something without one in place of the residual."""

    def restart_graph(resid: Float[Tensor, "batch pos d_model"], hook: Any) -> Tensor | None:
        return None if resid.requires_grad else resid.detach().requires_grad_()

    return f"blocks.{layer}.hook_resid_pre", restart_graph
