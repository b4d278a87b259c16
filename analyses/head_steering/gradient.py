"""Which heads carry the repair, by one gradient; do they carry more than others as far moved?

With s the scores of a head, s' those that the bridge would give it and m the margin at the first
error of a wrong answer (`analyses.instruments.margins`),

    gain of a head = sum over rows and keys of (s' - s) * dm/ds

which is the first-order effect of the bridge in this head on the margin: all heads of all layers
from one backward pass. Heads are ranked by their mean gain on one half of the problems. On the
*other* half the bridge acts in the k best together, against `DRAWS` sets of k random heads, each at
the strength that gives it the same mean KL(after || before) per row (`matched`, on solutions of
problems that take no part). What is tested is the measured effect, no gradient.

    top - none      mean over problems of the margin with the k best minus without
    top - random    the same minus the mean over random sets
    rank            share of random sets whose mean effect is at least that of the k best, with the
                    k best themselves counted (1 of 21 at best)

When it misleads: a gradient is local, and the bridge moves rows far; that it ranks heads well is
what the test shows. Margins are of errors only: what flattens predictions raises them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from analyses.head_steering.steering import HALVES, bridge_on, errors_of, half_of
from analyses.instruments.forced import forced_logits
from analyses.instruments.margins import FirstError, margin
from analyses.material.answers import AnswerSettings
from analyses.material.conditions import BASELINE
from analyses.material.flows import matching_traces
from analyses.material.problems import Item, check_task, read_items
from analyses.running.runner import EDITS, Analysis, Unit, main
from analyses.running.settings import option
from step_saliency.intervene import Effects, OddsEqualBridge, StepLabels
from step_saliency.intervene.matching import effects_on, matched_strength
from step_saliency.intervene.oeb import odds_equal_scores, visible_keys
from step_saliency.models.facts import n_heads, n_layers, sink_logits
from step_saliency.models.hooking import live_names
from step_saliency.stats.problems import mean_table
from step_saliency.trace import Trace

DRAWS = 20
Heads = Sequence[tuple[int, int]]


def bridge_gains(model: Any, at: FirstError, *, tau_max: float) -> Float[Tensor, "layer head"]:
    """First-order gain in the margin of the bridge in each head.

    Args:
        model: HookedTransformer or TransformerBridge.
        at: The first error of an answer.
        tau_max: Of the bridge.
    """
    tokens = at.trace.tokens[None]
    groups = OddsEqualBridge([0]).groups(StepLabels.from_traces([at.trace]), len(at.trace))
    gains = torch.zeros(n_layers(model), n_heads(model), dtype=torch.float64)

    def watch(scores: Float[Tensor, "1 head query key"], hook: Any, layer: int) -> None:
        sinks = sink_logits(model, layer)
        edited, _ = odds_equal_scores(
            scores.detach(),
            groups[:, None].to(scores.device),
            tau_max=tau_max,
            sinks=None if sinks is None else sinks[:, None],
        )
        moved = torch.where(visible_keys(scores.detach()), edited - scores.detach(), 0.0)

        def count(gradient: Float[Tensor, "1 head query key"]) -> None:
            gains[layer] = (moved * gradient).double().sum((0, 2, 3)).cpu()

        scores.register_hook(count)

    names = [f"blocks.{layer}.attn.hook_attn_scores" for layer in range(n_layers(model))]
    hooks = [(name, partial(watch, layer=i)) for i, name in enumerate(live_names(model, names))]
    with torch.enable_grad(), model.hooks(fwd_hooks=hooks):
        logits = model(tokens, attention_mask=torch.ones_like(tokens), return_type="logits")
        row = logits[0, at.position]
        torch.autograd.grad(row[at.right] - row[at.written], list(_some_weights(model)))
    return gains


def _some_weights(model: Any) -> Sequence[Tensor]:
    """Weights of the first block, so that gradients pass all layers."""
    return [next(p for p in model.blocks[0].parameters() if p.requires_grad)]


def ranked(gains: Float[Tensor, "error layer head"]) -> list[tuple[int, int]]:
    """Heads by mean gain, the largest first."""
    means = gains.mean(0)
    order = means.flatten().argsort(descending=True)
    return [divmod(int(place), means.shape[1]) for place in order]


def random_heads(shape: tuple[int, int], k: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """k different heads of a model of that many layers and heads."""
    drawn = rng.choice(shape[0] * shape[1], size=k, replace=False)
    return [divmod(int(place), shape[1]) for place in drawn]


def kl_of(effects: Effects) -> float:
    """Mean KL per row moved; 0 where none moved."""
    value = float(effects.doses()["kl"].iloc[0])
    return 0.0 if np.isnan(value) else value


def matched_bridge(
    model: Any, heads: Heads, kl: float, traces: Sequence[Trace], *, tau_max: float
) -> OddsEqualBridge | None:
    """The bridge in some heads at the strength that gives a mean KL; None where none does."""

    def at(strength: float) -> OddsEqualBridge:
        return bridge_on(heads, tau_max=min(strength * tau_max, 0.99))

    try:
        strength = matched_strength(lambda s: kl_of(effects_on(model, at(s), traces)), kl)
    except ValueError:
        return None
    return at(strength)


def tested(
    model: Any,
    errors: Sequence[tuple[Item, FirstError]],
    edits: Mapping[str, OddsEqualBridge | None],
    traces: Sequence[Trace],
) -> pd.DataFrame:
    """Margins of errors under edits: ``problem, condition, value, kl``."""
    rows = []
    for name, edit in edits.items():
        kl = float("nan") if edit is None else kl_of(effects_on(model, edit, traces))
        for item, at in errors:
            value = margin(forced_logits(model, at.trace, edit), at)
            rows.append({"problem": item.id, "condition": name, "value": value, "kl": kl})
    return pd.DataFrame(rows)


def gradient_table(values: pd.DataFrame, *, seed: int = 0, **draws: Any) -> pd.DataFrame:
    """The k best against none and against the random sets: ``contrast, k, estimate, ...``.

    Args:
        values: From `run_unit`.
        seed: Of the draws.
        draws: As of `mean_table`.
    """
    tables = []
    wide = values.pivot(index="problem", columns="condition", values="value")
    for k in sorted(values["k"].dropna().unique()):
        fakes = [name for name in wide.columns if name.startswith(f"random-{k:g}-")]
        gains = wide.sub(wide[BASELINE], axis=0)
        contrasts = {
            "top - none": gains[f"top-{k:g}"],
            "random - none": gains[fakes].mean(axis=1),
            "top - random": gains[f"top-{k:g}"] - gains[fakes].mean(axis=1),
        }
        for name, difference in contrasts.items():
            known = difference.dropna().rename("value").reset_index()
            table = mean_table(known, "value", null=0.0, kind="measure", seed=seed, **draws)
            tables.append(table.assign(contrast=name, k=int(k)))
        means = gains[fakes].mean()
        share = (1 + int((means >= gains[f"top-{k:g}"].mean()).sum())) / (1 + len(fakes))
        tables.append(
            pd.DataFrame([{"contrast": "rank", "k": int(k), "estimate": share, "n": len(fakes)}])
        )
    return pd.concat(tables, ignore_index=True)


@dataclass(frozen=True, kw_only=True)
class GradientSettings(AnswerSettings):
    """How many heads, and how strong the bridge is."""

    tau_max: float = option(0.3, "of the bridge")
    top: tuple[int, ...] = option((2, 8), "numbers of heads steered together")
    draws: int = option(DRAWS, "random sets of heads")


def units(settings: GradientSettings) -> list[Unit]:
    """One a half: ranked on the other, tested on this."""
    check_task(settings, "margins")
    return [Unit(f"tested-{half}", half) for half in HALVES]


def run_unit(model: Any, unit: Unit, settings: GradientSettings) -> pd.DataFrame:
    """Heads ranked on one half and tested on the other."""
    items = read_items(settings)
    traces = matching_traces(model, settings)
    errors = errors_of(model, items, settings)
    others = [at for item, at in errors if half_of(item) != unit.payload]
    mine = [(item, at) for item, at in errors if half_of(item) == unit.payload]
    if not others or not mine:
        raise ValueError(f"n={settings.n} problems leave a half without errors; take more")
    gains = torch.stack([bridge_gains(model, at, tau_max=settings.tau_max) for at in others])
    rng = np.random.default_rng([settings.seed, HALVES.index(unit.payload)])
    tables = [tested(model, mine, {BASELINE: None}, traces).assign(k=None, heads="")]
    for k in settings.top:
        best = bridge_on(ranked(gains)[:k], tau_max=settings.tau_max)
        kl = kl_of(effects_on(model, best, traces))
        edits: dict[str, OddsEqualBridge | None] = {f"top-{k}": best}
        while len(edits) <= settings.draws:
            heads = random_heads((n_layers(model), n_heads(model)), k, rng)
            fake = matched_bridge(model, heads, kl, traces, tau_max=settings.tau_max)
            if fake is not None:
                edits[f"random-{k}-{len(edits) - 1}"] = fake
        frame = tested(model, mine, edits, traces)
        names = {name: str(edit.heads) for name, edit in edits.items() if edit is not None}
        tables.append(frame.assign(k=k, heads=frame["condition"].map(names)))
    return pd.concat(tables, ignore_index=True).astype({"k": "Int64"}).assign(half=unit.payload)


def summarise(values: pd.DataFrame, settings: GradientSettings) -> Mapping[str, pd.DataFrame]:
    """Contrasts, and the doses of all sets."""
    doses = values.groupby(["half", "condition"], sort=False)["kl"].first().reset_index()
    return {"summary": gradient_table(values, seed=settings.seed), "doses": doses}


ANALYSIS = Analysis(
    "head_steering.gradient", GradientSettings, units, run_unit, summarise, checks=EDITS
)

if __name__ == "__main__":
    main("analyses.head_steering.gradient")
