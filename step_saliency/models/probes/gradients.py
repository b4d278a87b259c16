"""Do gradients arrive, are they those of the values, and do they stay at their own position?"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from einops import einsum, repeat
from jaxtyping import Float, Int
from torch import Tensor

from step_saliency.models.facts import n_layers
from step_saliency.models.hooking import firing_hooks, frozen_parameters, live_names
from step_saliency.models.interrupts import together
from step_saliency.models.probes.measure import (
    AGREEMENT,
    Measurement,
    at_least,
    at_most,
    capture,
    layer_names,
    precision_of,
    recorder,
    run,
    worse,
)


@contextmanager
def _gradients_from_first_block(model: Any) -> Iterator[list[Tensor]]:
    """Let gradients flow from the first block's input on, and collect that input."""
    inputs: list[Tensor] = []

    def start_graph(residual: Tensor, hook: Any) -> Tensor:
        inputs.append(residual.detach().requires_grad_())
        return inputs[-1]

    name = "blocks.0.hook_resid_pre"
    live_names(model, [name])
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        frozen_parameters(model),
        together(model.hooks(fwd_hooks=[(name, start_graph)])),
    ):
        yield inputs


def _next_token_loss(
    logits: Float[Tensor, "1 pos d_vocab"], tokens: Int[Tensor, "1 pos"]
) -> Float[Tensor, "query"]:
    return torch.nn.functional.cross_entropy(logits[0, :-1], tokens[0, 1:], reduction="none")


def _gradients(
    model: Any, tokens: Int[Tensor, "1 pos"], *hooks: str
) -> dict[str, Float[Tensor, "..."]]:
    gradients: dict[str, Tensor] = {}
    names = layer_names(model, *hooks)
    with (
        _gradients_from_first_block(model),
        together(model.hooks(bwd_hooks=[(name, recorder(gradients, name)) for name in names])),
    ):
        _next_token_loss(run(model, tokens), tokens).sum().backward()
    return gradients


def gradients(model: Any, tokens: Int[Tensor, "1 pos"]) -> Measurement:
    """Do gradients at the patterns exist, are they finite and not all zero, in every layer?"""
    arrived = _gradients(model, tokens, "attn.hook_pattern")
    good = [bool(g.isfinite().all()) and bool(g.any()) for g in arrived.values()]
    share = sum(good) / n_layers(model)
    return at_least(share, 1.0, "share of layers with finite gradients that are not all zero")


def value_gradients(model: Any, tokens: Int[Tensor, "1 pos"]) -> Measurement:
    """Is the gradient at the pattern that of z times the values, dL/dA[t, k] = dL/dz_t . v_k?"""
    arrived = _gradients(model, tokens, "attn.hook_pattern", "attn.hook_z")
    silent = set(layer_names(model, "attn.hook_pattern", "attn.hook_z")) - set(arrived)
    if silent:
        raise ValueError(f"no gradient arrives at {', '.join(sorted(silent))}")
    values = capture(model, tokens, "attn.hook_v")
    worst = 0.0
    for layer in range(n_layers(model)):
        attention = f"blocks.{layer}.attn"
        direct = arrived[f"{attention}.hook_pattern"].double().tril()
        by_values = _pattern_gradient(arrived[f"{attention}.hook_z"], values[f"{attention}.hook_v"])
        worst = worse(worst, (direct - by_values.tril()).abs() / direct.abs().max())
    note = "largest difference between dL/dA and dL/dz . v, as a share of the largest entry"
    return at_most(worst, AGREEMENT[precision_of(model)], note)


def _pattern_gradient(
    z_gradient: Float[Tensor, "batch query head d_head"],
    values: Float[Tensor, "batch key kv_head d_head"],
) -> Float[Tensor, "batch head query key"]:
    group = z_gradient.shape[2] // values.shape[2]
    ungrouped = repeat(values, "batch key kv_head d -> batch key (kv_head group) d", group=group)
    return einsum(
        z_gradient.double(),
        ungrouped.double(),
        "batch query head d, batch key head d -> batch head query key",
    )


def local_gradients(model: Any, tokens: Int[Tensor, "1 pos"]) -> Measurement:
    """With keys and values detached, does a prediction depend on its own position only?"""
    query = tokens.shape[1] - 2
    rotated = "blocks.0.attn.hook_rot_k" in firing_hooks(model)
    names = layer_names(model, "attn.hook_rot_k" if rotated else "attn.hook_k", "attn.hook_v")

    def detach(activation: Tensor, hook: Any) -> Tensor:
        return activation.detach()

    with (
        _gradients_from_first_block(model) as inputs,
        together(model.hooks(fwd_hooks=[(name, detach) for name in names])),
    ):
        loss = _next_token_loss(run(model, tokens), tokens)[query]
        (gradient,) = torch.autograd.grad(loss, inputs[0])
    size = gradient[0].double().norm(dim=-1)
    others = float((size.sum() - size[query]) / size[query])
    note = "gradient that reaches other positions, as a share of that at the own position"
    return at_most(others, 1e-6, note)
