"""Step maps of every method, to be held against the gold graph or against measured interventions.

    saliency        |A * dL/dA| under an objective (`step_saliency.saliency.objectives`)
    gradient        |dL/dA| alone
    score_gradient  |dL/dS|, S the scores that enter the softmax: |A * (dL/dA - sum_k A * dL/dA)|
    attention       the attention pattern A alone
    attention_norm  A * |v W_O|: how long the vector is that the head writes for this key (Kobayashi
                    et al., 2020, "Attention is Not Only a Weight")
    rollout         product over the layers so far of (mean over heads of A + I) / 2 (Abnar and
                    Zuidema, 2020)
    distance        how near the key step is
    key_length      how many tokens the key step has
    random          uniform numbers

All but the last three are totals over pairs of positions, to be pooled by
`step_saliency.saliency.pooling.normalise`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from einops import repeat
from jaxtyping import Float
from torch import Tensor

from analyses.instruments.forced import forced_logits
from step_saliency.models.facts import n_layers, output_weights
from step_saliency.models.hooking import live_names
from step_saliency.models.windows import Windows, windows
from step_saliency.saliency.api import answer_positions
from step_saliency.saliency.hooks import Quantity, reduce_influence, reduce_influences
from step_saliency.saliency.objectives import resolve_objective
from step_saliency.saliency.pooling import Rows, StepLayout, step_layout, sum_tokens
from step_saliency.trace import Trace

ObjectiveUsed = Literal["next_token", "log_odds", "sequence", "answer", "logit_diff"]

SALIENCY: tuple[ObjectiveUsed, ...] = ("next_token", "log_odds", "sequence")
GRADIENT: tuple[ObjectiveUsed, ...] = ("next_token", "log_odds")
UNPOOLED = ("distance", "key_length", "random", "gold")
"""Methods that have one number a pair of steps from the start."""


@dataclass(frozen=True)
class Maps:
    """Step maps of one method, before pooling.

    Attributes:
        method: Name of the method.
        objective: Whose gradient was taken.
        maps: Totals per pair of steps; layers and heads name the first two axes in tables.
        windows: Sliding window of each layer, outside of which keys are no pairs; None where all
            keys count: rollout reaches beyond windows from layer to layer.
    """

    method: str
    objective: str | None
    maps: Float[Tensor, "layer head step step"]
    windows: Windows | None = None


def pooled_maps(
    model: Any, trace: Trace, layout: StepLayout, *, quantity: Quantity, objective: ObjectiveUsed
) -> Float[Tensor, "layer head step step"]:
    """Totals per pair of steps of one quantity, for every layer and head."""
    return _by_quantity(model, trace, layout, objective, [quantity])[quantity]


def _by_quantity(
    model: Any,
    trace: Trace,
    layout: StepLayout,
    objective: ObjectiveUsed,
    quantities: Sequence[Quantity],
) -> dict[Quantity, Float[Tensor, "layer head step step"]]:
    """Totals per pair of steps of several quantities, from one pass."""
    layers = range(n_layers(model))
    reduced = reduce_influences(
        model,
        trace.tokens,
        resolve_objective(objective, answer=answer_positions(trace), tokens=trace.tokens),
        layers=layers,
        reduce=lambda influence: sum_tokens(influence, layout).cpu(),
        quantities=quantities,
    )
    return {
        quantity: torch.stack([of_layers[layer] for layer in layers])
        for quantity, of_layers in zip(quantities, reduced, strict=True)
    }


def value_norms(model: Any, trace: Trace) -> Float[Tensor, "layer head key"]:
    """Length of each value vector behind the output projection of each head, |v W_O|."""
    norms: dict[int, Float[Tensor, "head key"]] = {}

    def measure(v: Float[Tensor, "batch key kv_head d_head"], hook: Any) -> None:
        weights = output_weights(model, hook.layer())
        weights = weights.to(torch.promote_types(weights.dtype, torch.float32))
        group = weights.shape[0] // v.shape[2]
        values = repeat(v[0], "key kv_head d_head -> (kv_head group) key d_head", group=group)
        norms[hook.layer()] = (values.to(weights) @ weights).norm(dim=-1).cpu()

    layers = range(n_layers(model))
    names = live_names(model, [f"blocks.{layer}.attn.hook_v" for layer in layers])
    forced_logits(model, trace, hooks=[(name, measure) for name in names])
    return torch.stack([norms[layer] for layer in layers])


def rollout(
    patterns: Sequence[Float[Tensor, "head query key"]],
) -> Iterator[Float[Tensor, "query key"]]:
    """Attention rollout after each layer."""
    identity = torch.eye(patterns[0].shape[-1])
    flow = identity
    for pattern in patterns:
        flow = (pattern.mean(0) + identity) / 2 @ flow
        yield flow


def all_maps(
    model: Any,
    trace: Trace,
    *,
    rows: Rows,
    seed: int,
    saliency: Sequence[ObjectiveUsed] = SALIENCY,
    gradient: Sequence[ObjectiveUsed] = GRADIENT,
) -> Iterator[Maps]:
    """Totals per pair of steps of every method."""
    layout = step_layout(trace.step_ids, rows=rows)
    asked: dict[Quantity, Sequence[ObjectiveUsed]] = {
        "saliency": saliency,
        "gradient": gradient,
        "score_gradient": gradient,
    }
    of_objective = {
        objective: _by_quantity(
            model, trace, layout, objective, [name for name in asked if objective in asked[name]]
        )
        for objective in dict.fromkeys((*saliency, *gradient))
    }
    for quantity, objectives in asked.items():
        for objective in objectives:
            maps = of_objective[objective].pop(quantity)
            yield Maps(quantity, objective, maps, windows(model))
    patterns = reduce_influence(
        model,
        trace.tokens,
        resolve_objective("next_token"),
        layers=range(n_layers(model)),
        reduce=lambda pattern: pattern.cpu(),
        quantity="attention",
    )
    ordered = [patterns[layer] for layer in range(n_layers(model))]
    yield Maps("attention", None, sum_tokens(torch.stack(ordered), layout), windows(model))
    written = torch.stack(ordered) * value_norms(model, trace).unsqueeze(2)
    yield Maps("attention_norm", None, sum_tokens(written, layout), windows(model))
    flows = torch.stack(list(rollout(ordered))).unsqueeze(1)
    yield Maps("rollout", None, sum_tokens(flows, layout))
    steps = torch.arange(layout.n_steps)
    nearness = (steps[None, :] - steps[:, None]).double()
    yield Maps("distance", None, nearness[None, None])
    lengths = layout.key_lengths.double().expand(layout.n_steps, -1)
    yield Maps("key_length", None, lengths[None, None])
    noise = torch.rand(
        layout.n_steps, layout.n_steps, generator=torch.Generator().manual_seed(seed)
    )
    yield Maps("random", None, noise[None, None])
