"""Token influence in the rows that a model wrote, by several objectives, with the prompt read once.

The influence of row t (`step_saliency.saliency.hooks`) depends on position t and on keys and values
of earlier ones. So rows of the answer need of the prompt its keys and values alone:

    prompt | answer          read once, without a graph | one pass, differentiated by each objective

Rows of the prompt are left at 0. Influence is that of a whole pass up to rounding, for local
objectives. Worth it where prompts are long beside what is written, as with worked examples.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from analyses.instruments.knockout import Prefix, logits_with_graph
from step_saliency.models.facts import backend_of, n_layers
from step_saliency.models.hooking import frozen_parameters, live_names, prepended_hooks
from step_saliency.models.interrupts import together
from step_saliency.models.turns import owned_hooks, turn
from step_saliency.models.undisturbed import undisturbed
from step_saliency.models.windows import windows
from step_saliency.options import Pool, Rows
from step_saliency.saliency.objectives import Objective
from step_saliency.saliency.pooling import StepLayout, normalise, step_layout, sum_tokens
from step_saliency.saliency.position_local import position_local
from step_saliency.saliency.result import StepSaliency
from step_saliency.trace import Region, Trace

ATTENTION = "attention"


def written_maps(
    model: Any, trace: Trace, objectives: Mapping[str, Objective], *, pool: Pool, rows: Rows
) -> dict[str, StepSaliency] | None:
    """Step maps of the rows of thinking and summary, heads averaged; other rows are 0.

    Args:
        model: HookedTransformer or TransformerBridge.
        trace: Prompt and answer.
        objectives: By name; all local.
        pool: How tokens are pooled to steps.
        rows: Which predictions are a step's.

    Returns:
        Maps by objective, and of the pattern alone under `ATTENTION`; None where the model cannot
        go on from a cache, or nothing stands before the answer.

    Raises:
        ValueError: as `written_totals`.
    """
    written = trace.region_steps(Region.THINKING, Region.SUMMARY)
    start = trace.steps[written[0]].start - 1 if written else 0
    if backend_of(model) != "hooked" or start < 1:
        return None
    prefix = Prefix.shared(model, trace.tokens[:start])
    if prefix is None:
        return None
    layout = step_layout(trace.step_ids, rows=rows)
    is_written = torch.isin(layout.row_steps, torch.tensor(written))
    layout = replace(layout, row_steps=layout.row_steps.where(is_written, -1))
    of_layers = tuple(windows(model))
    return {
        name: StepSaliency(
            maps=normalise(totals, layout, pool, windows=of_layers),
            trace=trace,
            layers=tuple(range(n_layers(model))),
            n_layers=n_layers(model),
            objective=name,
            method="hooks",
            pool=pool,
            rows=rows,
            windows=of_layers,
        )
        for name, totals in written_totals(model, trace, prefix, objectives, layout).items()
    }


def written_totals(
    model: Any,
    trace: Trace,
    prefix: Prefix,
    objectives: Mapping[str, Objective],
    layout: StepLayout,
) -> dict[str, Float[Tensor, "layer step step"]]:
    """Influence summed over pairs of steps, heads averaged, in rows behind a prefix.

    Args:
        model: HookedTransformer or TransformerBridge.
        trace: Prompt and answer.
        prefix: What the model made of the first positions.
        objectives: By name; all local.
        layout: Where rows and keys belong; rows before the prefix's end count nowhere.

    Returns:
        Totals of each objective, and of the pattern alone under `ATTENTION`, on the CPU.

    Raises:
        ValueError: an objective that is not local, or logits that are not finite.
    """
    shared = sorted(name for name, objective in objectives.items() if not objective.local)
    if shared:
        raise ValueError(f"objectives {shared} read several positions at once; take whole maps")
    patterns: dict[int, Tensor] = {}

    def keep(pattern: Float[Tensor, "batch head query key"], hook: Any) -> None:
        patterns[hook.layer()] = pattern

    def start_graph(
        resid: Float[Tensor, "batch pos d_model"],
        hook: Any,
    ) -> Float[Tensor, "batch pos d_model"]:
        return resid.detach().requires_grad_()

    names = [f"blocks.{layer}.attn.hook_pattern" for layer in range(n_layers(model))]
    with (
        turn(model, alone="waits"),
        undisturbed(model),
        together(
            torch.inference_mode(False),
            torch.enable_grad(),
            frozen_parameters(model),
            prepended_hooks(model, owned_hooks([("blocks.0.hook_resid_pre", start_graph)])),
            position_local(model),
            model.hooks(fwd_hooks=owned_hooks((name, keep) for name in live_names(model, names))),
        ),
    ):
        places = range(prefix.length, len(trace) - 1)
        logits = logits_with_graph(model, trace.tokens[None], places, prefix=prefix)[0]
        if not logits.isfinite().all():
            raise ValueError("the model's logits are not finite; no gradient can be taken")
        ordered = [patterns[layer] for layer in sorted(patterns)]
        totals = {ATTENTION: _pooled(ordered, None, layout)}
        queries = torch.tensor(list(places))
        for left, (name, objective) in enumerate(objectives.items(), 1 - len(objectives)):
            losses = objective.position_losses(logits, trace.tokens.to(logits.device), queries)
            gradients = torch.autograd.grad(losses.sum(), ordered, retain_graph=left < 0)
            totals[name] = _pooled(ordered, gradients, layout)
    return totals


def _pooled(
    patterns: Sequence[Float[Tensor, "1 head query key"]],
    gradients: Sequence[Float[Tensor, "1 head query key"]] | None,
    layout: StepLayout,
) -> Float[Tensor, "layer step step"]:
    """|A * dA|, or A without gradients, summed over pairs of steps, in float32 at least."""
    totals = []
    for layer, pattern in enumerate(patterns):
        influence = pattern.detach()[0]
        influence = influence.to(torch.promote_types(influence.dtype, torch.float32))
        if gradients is not None:
            influence = (influence * gradients[layer].detach()[0].to(influence.dtype)).abs()
        earlier = influence.shape[-1] - influence.shape[-2]
        rows = influence.tril(earlier).mean(0)
        whole = torch.nn.functional.pad(rows, (0, 0, earlier, 0))
        totals.append(sum_tokens(whole, layout).cpu())
    return torch.stack(totals)
