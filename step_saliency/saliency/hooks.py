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
from functools import partial
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from step_saliency.models.doctor import require_capabilities
from step_saliency.models.facts import device_of
from step_saliency.models.hooking import frozen_parameters, live_names
from step_saliency.models.interrupts import together
from step_saliency.models.turns import owned_hooks, turn
from step_saliency.models.undisturbed import undisturbed
from step_saliency.models.windows import seen_keys, windows
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
    with torch.inference_mode(False):
        anchor = torch.zeros((), requires_grad=True)

    def keep_pattern(
        pattern: Float[Tensor, "batch head query key"], hook: Any
    ) -> Float[Tensor, "batch head query key"] | None:
        layer = hook.layer()
        patterns[layer] = pattern.detach()[0]
        _check_window(patterns[layer], layer, of_layers[layer])
        if not differentiates:
            weigh(layer, None)
            return None
        watched: Tensor = _Watched.apply(pattern, anchor, partial(weigh, layer))
        return watched

    def weigh(layer: int, gradient: Float[Tensor, "head query key"] | None) -> None:
        pattern = patterns.pop(layer)
        for quantity, of_layer in zip(quantities, reduced, strict=True):
            of_layer[layer] = reduce(_combine(pattern, gradient, quantity, of_layers[layer]))

    names = [f"blocks.{layer}.attn.hook_pattern" for layer in layers]
    with turn(model, alone="waits"), undisturbed(model):
        require_capabilities(model, _needs(objective, differentiates=differentiates))
        forward = owned_hooks((name, keep_pattern) for name in live_names(model, names))
        if not differentiates:
            with torch.no_grad(), model.hooks(fwd_hooks=forward):
                finite_logits(model, tokens)
            return reduced
        with together(
            torch.inference_mode(False),
            torch.enable_grad(),
            frozen_parameters(model),
            position_local(model, min(layers)) if objective.local else nullcontext(),
            model.hooks(fwd_hooks=forward),
        ):
            loss = total_loss(model, tokens, objective)
            if loss.requires_grad:
                torch.autograd.grad(loss, anchor, allow_unused=True)
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
    window: int | None,
) -> Float[Tensor, "head query key"]:
    if quantity == "attention":
        return _weighable(pattern)
    assert gradient is not None
    pattern, gradient = _weighable(pattern), _weighable(gradient)
    if quantity == "score_gradient":
        gradient = gradient - (pattern * gradient).sum(-1, keepdim=True)
    n_queries, n_keys = pattern.shape[-2:]
    seen = seen_keys(n_queries, n_keys, window, device=pattern.device)
    weight = seen.to(pattern) if quantity == "gradient" else pattern
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


class _Watched(torch.autograd.Function):
    """A pattern whose gradient is handed on as soon as it is there.

    The anchor has autograd come this way, whether or not the pattern has a history.
    """

    @staticmethod
    def forward(
        ctx: Any,
        pattern: Tensor,
        anchor: Tensor,  # noqa: ARG004
        weigh: Callable[[Tensor], None],
    ) -> Tensor:
        ctx.weigh = weigh
        return pattern.view_as(pattern)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        ctx.weigh(grads[0].detach()[0])
        return grads[0], None, None
