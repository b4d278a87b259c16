"""Which heads carry the repair, by one gradient; do they carry more than others as far moved?

With s the scores of a head, s' those that the bridge would give it and m the margin at the first
error of a wrong answer (`analyses.instruments.margins`),

    gain of a head = sum over rows and keys of (s' - s) * dm/ds

which is the first-order effect of the bridge in this head on the margin: all heads of all layers
from one backward pass. Heads are ranked by their mean gain on one half of the problems. On the
*other* half the bridge acts in the k best together, against `DRAWS` sets of k random heads, each at
the strength that gives it the same mean KL(after || before) per row
(`analyses.head_steering.doses`, on solutions of problems that take no part, or on own answers to
them). What is tested is the measured effect, no gradient.

    top - none      mean over problems of the margin with the k best minus without
    top - random    the same minus the mean over random sets
    rank            share of random sets whose mean effect is at least that of the k best, with the
                    k best themselves counted (1 of 21 at best)

Rows of a file need worked solutions, as GSM8K has them: the first number of a wrong answer that is
neither in the question nor in its solution is taken for the error, and the first value of the
solution that the answer lacks for what was due there (`analyses.instruments.number_errors`, which
says when that is not so). Other wrong answers have no margin and do not count.

When it misleads: a gradient is local, and the bridge moves rows far; that it ranks heads well is
what the test shows. Margins are of errors only: what flattens predictions raises them. The interval
of top - random is over problems and takes the sets as they are: a random set also differs from the
mean of the others, so that a small rank has to stand beside it. Random sets that no strength gives
the dose of the best are drawn again, so that they are sets which can be moved as far.
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

from analyses.head_steering.doses import BridgeDoses, DosedBridge, Heads
from analyses.head_steering.steering import HALVES, bridge_on, errors_of, half_of
from analyses.instruments.knockout import logits_with_graph
from analyses.instruments.margins import FirstError, log_odds
from analyses.instruments.resumed import Resumed, resumed_logits
from analyses.material.answers import AnswerSettings
from analyses.material.conditions import BASELINE
from analyses.material.flows import matching_traces
from analyses.material.problems import TASK, Item, read_items
from analyses.material.wrong_steps import is_told
from analyses.running.runner import EDITS, Analysis, Unit, main
from analyses.running.settings import option
from step_saliency.intervene import OddsEqualBridge, StepLabels
from step_saliency.intervene.matching import TOLERANCE
from step_saliency.intervene.oeb import odds_equal_scores, visible_keys
from step_saliency.models.facts import n_heads, n_layers, sink_logits
from step_saliency.models.hooking import live_names
from step_saliency.stats.problems import mean_table

DRAWS = 20
_TRIES = 20
"""Sets drawn for each that is wanted, before there are said to be too few."""


def bridge_gains(model: Any, at: FirstError, *, tau_max: float) -> Float[Tensor, "layer head"]:
    """First-order gain in the margin of the bridge in each head.

    Args:
        model: HookedTransformer or TransformerBridge.
        at: The first error of an answer.
        tau_max: Of the bridge.
    """
    read = Resumed.of(model, at.trace)
    tokens = at.trace.tokens[None, : at.position + 1]
    labels = StepLabels.from_traces([at.trace]).up_to(at.position + 1)
    groups = OddsEqualBridge([0]).groups(labels, at.position + 1 - read.start)
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
    with torch.enable_grad():
        row = logits_with_graph(model, tokens, [at.position], hooks, prefix=read.prefix)[0, 0]
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


def matched_sets(
    best: Heads, doses: BridgeDoses, settings: "GradientSettings", rng: np.random.Generator
) -> dict[str, DosedBridge]:
    """The bridge in the best heads, then in random sets of as many at the same dose, by name.

    Raises:
        ValueError: hardly a set can be given that dose.
    """
    k, tau_max = len(best), settings.tau_max
    edit = bridge_on(best, tau_max=tau_max)
    sets = {f"top-{k}": DosedBridge(edit, doses.measured(edit))}
    kl, n_tried = sets[f"top-{k}"].kl, 0
    while len(sets) <= settings.draws:
        if n_tried == _TRIES * settings.draws:
            raise ValueError(
                f"only {len(sets) - 1} of {n_tried} random sets of {k} heads can be given the dose "
                f"of the best ({kl:.3g} nats per row); take a smaller tau_max"
            )
        heads, n_tried = random_heads(doses.shape, k, rng), n_tried + 1
        fake = doses.matched(heads, kl, tau_max=tau_max, tolerance=settings.tolerance)
        if fake is not None:
            sets[f"random-{k}-{len(sets) - 1}"] = fake
    return sets


def tested(
    model: Any,
    errors: Sequence[tuple[Item, FirstError]],
    edits: Mapping[str, DosedBridge | None],
) -> pd.DataFrame:
    """Margins of errors under edits: ``problem, condition, value, kl``."""
    margins = [margins_under(model, at, edits) for _, at in errors]
    rows = []
    for place, (name, dosed) in enumerate(edits.items()):
        kl = float("nan") if dosed is None else dosed.kl
        for (item, _), values in zip(errors, margins, strict=True):
            rows.append({"problem": item.id, "condition": name, "value": values[place], "kl": kl})
    return pd.DataFrame(rows)


def margins_under(
    model: Any, at: FirstError, edits: Mapping[str, DosedBridge | None]
) -> list[float]:
    """Margin of one error under each edit; its prompt is read once."""
    read = Resumed.of(model, at.trace)
    rows = (
        resumed_logits(model, read, at.position, None if dosed is None else dosed.edit)
        for dosed in edits.values()
    )
    return [log_odds(row, at) for row in rows]


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
    tolerance: float = option(TOLERANCE, "of a random set's dose, relative", later=True)


def units(settings: GradientSettings) -> list[Unit]:
    """One a half: ranked on the other, tested on this.

    Raises:
        ValueError: a file without a worked solution.
    """
    if settings.data != TASK and not any(is_told(i, "first off") for i in read_items(settings)):
        raise ValueError(
            f"data={settings.data!r}: no row has a worked solution as GSM8K's have (<<9*2=18>>), "
            "so that nothing says where an answer goes wrong"
        )
    return [Unit(f"tested-{half}", half) for half in HALVES]


def run_unit(model: Any, unit: Unit, settings: GradientSettings) -> pd.DataFrame:
    """Heads ranked on one half and tested on the other."""
    items = read_items(settings)
    doses = BridgeDoses(model, matching_traces(model, settings))
    errors = errors_of(model, items, settings)
    others = [at for item, at in errors if half_of(item) != unit.payload]
    mine = [(item, at) for item, at in errors if half_of(item) == unit.payload]
    if not others or not mine:
        raise ValueError(f"n={settings.n} problems leave a half without errors; take more")
    gains = torch.stack([bridge_gains(model, at, tau_max=settings.tau_max) for at in others])
    rng = np.random.default_rng([settings.seed, HALVES.index(unit.payload)])
    edits: dict[str, DosedBridge | None] = {BASELINE: None}
    facts: dict[str, tuple[int | None, str]] = {BASELINE: (None, "")}
    for k in settings.top:
        sets = matched_sets(ranked(gains)[:k], doses, settings, rng)
        edits |= sets
        facts |= {name: (k, str(dosed.edit.heads)) for name, dosed in sets.items()}
    frame = tested(model, mine, edits)
    sizes, heads = zip(*(facts[name] for name in frame["condition"]), strict=True)
    return frame.assign(k=pd.array(sizes, dtype="Int64"), heads=heads, half=unit.payload)


def summarise(values: pd.DataFrame, settings: GradientSettings) -> Mapping[str, pd.DataFrame]:
    """Contrasts, and the doses of all sets."""
    doses = values.groupby(["half", "condition"], sort=False)["kl"].first().reset_index()
    return {"summary": gradient_table(values, seed=settings.seed), "doses": doses}


ANALYSIS = Analysis(
    "head_steering.gradient", GradientSettings, units, run_unit, summarise, checks=EDITS
)

if __name__ == "__main__":
    main("analyses.head_steering.gradient")
