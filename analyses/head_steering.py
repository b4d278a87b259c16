"""Which heads carry the repair? Every head by itself, then the best few against the whole band.

Each head of the model is, alone,

    ablated      its output set to 0
    oeb          held to the bridge (`OddsEqualBridge` in this head only)
    redirected   given a mass of `REDIRECTED` on the question while thinking (`HeadRedirect`)
    projected    freed from what the previous step's values put into it (`ValueProjection`, rank 4)

and the outcomes are, teacher-forced: ``margin``, log p(right) - log p(written) where the first
wrong step of a wrong greedy answer goes wrong (`analyses.mediation`), and ``loss`` of the gold
solution. Effects are differences to no edit, by problem; Holm over the heads.

Then (``--found FOLDER`` of a first run): the k heads whose bridge raises the margin most on one
half of the problems (by number: even, odd) are steered together on the *other* half, beside k heads
by lot and the whole band of the method, on the same outcomes and in written answers. What is
reported for top heads was therefore not looked at when they were picked.

When it misleads: a head that does nothing alone may matter with others, and later layers make up
for ablated heads. Margins are of errors only, so a head that merely flattens predictions raises
them: hold it against the loss of the gold solutions. Heads by lot are one lot for each half, so
that their intervals leave out how much lots differ.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analyses.material.conditions import (
    BASELINE,
    AnswerSettings,
    answers,
    chunks,
    gold_losses,
)
from analyses.material.problems import Item, check_task, read_items
from analyses.mediation import Divergence, divergence, forced_pass, group_of, margin
from analyses.running.runner import Analysis, Unit, main
from analyses.running.settings import option
from step_saliency.diagnosis import Bands
from step_saliency.intervene import Edit, OddsEqualBridge
from step_saliency.intervene.heads import HeadRedirect, HeadScale
from step_saliency.intervene.values import ValueProjection
from step_saliency.options import Draws
from step_saliency.stats.binary import binary_table
from step_saliency.stats.multiplicity import with_holm
from step_saliency.stats.paired import paired_table

REDIRECTED = 0.3
WAYS = ("ablated", "oeb", "redirected", "projected")
TOP = (1, 2, 4, 8)
HALVES = ("even", "odd")
OUTCOMES = ("margin", "loss")


def head_edit(way: str, layer: int, head: int, *, tau_max: float) -> Edit:
    """The edit of one head.

    Raises:
        ValueError: an unknown way.
    """
    if way == "ablated":
        return HeadScale([(layer, head)], 0.0)
    if way == "oeb":
        return OddsEqualBridge([layer], heads=[head], tau_max=tau_max)
    if way == "redirected":
        return HeadRedirect([(layer, head)], "question", mass=REDIRECTED, regions=["thinking"])
    if way == "projected":
        return ValueProjection([layer], heads=[head], basis="previous", rank=4)
    raise ValueError(f"way={way!r} is unknown; choose one of {WAYS}")


def bridge_on(heads: Sequence[tuple[int, int]], *, tau_max: float) -> OddsEqualBridge:
    """The bridge in these heads together."""
    by_layer: dict[int, list[int]] = {}
    for layer, head in sorted(heads):
        by_layer.setdefault(layer, []).append(head)
    return OddsEqualBridge(sorted(by_layer), heads=by_layer, tau_max=tau_max)


def errors_of(
    model: Any, items: Sequence[Item], settings: AnswerSettings
) -> list[tuple[Item, Divergence]]:
    """Problems whose greedy answer is wrong, with where it goes wrong."""
    written, _ = answers(model, items, None, replace(settings, samples=1, temperature=0.0))
    found = []
    for item, trace in zip(items, written, strict=True):
        assert item.problem is not None
        at = divergence(model, item.problem, trace.response)
        if at is not None:
            found.append((item, at))
    return found


def steered(
    model: Any,
    items: Sequence[Item],
    errors: Sequence[tuple[Item, Divergence]],
    edits: Sequence[Edit],
) -> pd.DataFrame:
    """Margins of errors and gold losses of problems under edits: ``problem, half, outcome,
    value``."""
    rows = [
        {
            "problem": item.id,
            "half": HALVES[item.number % 2],
            "outcome": "margin",
            "value": margin(forced_pass(model, at.trace, edits)[0], at),
        }
        for item, at in errors
    ]
    losses = gold_losses(model, items, group_of(edits))
    halves = [HALVES[item.number % 2] for item in items]
    losses = losses.assign(half=halves, outcome="loss", value=losses["loss"])
    return pd.concat([pd.DataFrame(rows), losses[["problem", "half", "outcome", "value"]]])


def head_effects(
    model: Any, items: Sequence[Item], settings: "HeadSettings", *, ways: Sequence[str] = WAYS
) -> pd.DataFrame:
    """Outcomes of every head steered alone, and of no edit.

    Returns:
        One row per problem, way, layer, head and outcome: ``half, value``. Without an edit, ``way``
        is ``"baseline"`` and layer and head are missing.
    """
    errors = errors_of(model, items, settings)
    some = items[: max(1, round(len(items) * settings.loss_share))]
    tables = [steered(model, some, errors, []).assign(way=BASELINE, layer=None, head=None)]
    for way in ways:
        for layer in range(model.cfg.n_layers):
            for head in range(model.cfg.n_heads):
                edit = head_edit(way, layer, head, tau_max=settings.tau_max)
                frame = steered(model, some, errors, [edit])
                tables.append(frame.assign(way=way, layer=layer, head=head))
    joined = pd.concat(tables, ignore_index=True)
    return joined.astype({"layer": "Int64", "head": "Int64"})


def named_heads(values: pd.DataFrame) -> pd.DataFrame:
    """Values with ``condition``: the head's name, or the baseline."""
    names = [
        BASELINE if pd.isna(layer) else f"L{layer}H{head}"
        for layer, head in zip(values["layer"], values["head"], strict=True)
    ]
    return values.assign(condition=names)


def effects(values: pd.DataFrame, *, seed: int = 0, **draws: Any) -> pd.DataFrame:
    """Each head's effect on each outcome; Holm over heads within way and outcome."""
    named = named_heads(values)
    # A drawn p-value is at least one over the draws: with few, no head of many could pass Holm.
    n_arrangements = max(Draws().n_permutations, 50 * named["condition"].nunique())
    draws = {"n_permutations": n_arrangements, **draws}
    base = named[named["way"] == BASELINE]
    tables = []
    for way in [way for way in WAYS if (named["way"] == way).any()]:
        table = paired_table(
            pd.concat([base, named[named["way"] == way]]),
            "value",
            condition="condition",
            reference=BASELINE,
            by=["outcome"],
            seed=seed,
            **draws,
        )
        tables.append(table.assign(way=way))
    joined = with_holm(
        pd.concat(tables, ignore_index=True).drop(columns="p_holm"), family=["way", "outcome"]
    )
    place = named.drop_duplicates("condition")[["condition", "layer", "head"]]
    return joined.merge(place, on="condition", how="left")


def top_heads(
    values: pd.DataFrame, *, half: str, k: int, way: str = "oeb"
) -> list[tuple[int, int]]:
    """The k heads whose steering raises the margin most on one half of the problems.

    Raises:
        ValueError: the half has no margins.
    """
    mine = values[(values["half"] == half) & (values["outcome"] == "margin")]
    base = mine[mine["way"] == BASELINE].set_index("problem")["value"]
    steered_ones = mine[mine["way"] == way]
    if steered_ones.empty or base.empty:
        raise ValueError(f"there are no margins of {way!r} on the {half!r} half to pick heads by")
    gain = steered_ones["value"].to_numpy() - base.loc[steered_ones["problem"]].to_numpy()
    means = steered_ones.assign(gain=gain).groupby(["layer", "head"])["gain"].mean()
    ordered = means.sort_values(ascending=False, kind="stable")
    return [(int(layer), int(head)) for layer, head in ordered.index[:k]]


def half_agreement(values: pd.DataFrame) -> pd.DataFrame:
    """Rank correlation over heads between the halves' mean effects, by way and outcome."""
    rows = []
    base = values[values["way"] == BASELINE].set_index(["problem", "outcome"])["value"]
    for (way, outcome), frame in values[values["way"] != BASELINE].groupby(["way", "outcome"]):
        keys = pd.MultiIndex.from_frame(frame[["problem", "outcome"]])
        gain = frame["value"].to_numpy() - base.loc[keys].to_numpy()
        wide = frame.assign(gain=gain).groupby(["layer", "head", "half"])["gain"].mean().unstack()
        if set(HALVES) <= set(wide.columns):
            rho = wide[list(HALVES)].corr("spearman").to_numpy()[0, 1]
            rows.append({"way": way, "outcome": outcome, "estimate": rho, "n_heads": len(wide)})
    return pd.DataFrame(rows)


def chosen_edits(
    found: pd.DataFrame, half: str, *, depth: int, n_heads: int, tau_max: float, seed: int
) -> dict[str, list[Edit]]:
    """Edits for problems of one half: heads come from the other half.

    Args:
        found: Values of a first run.
        half: Half that the edits are for.
        depth: Layers of the model.
        n_heads: Heads of a layer.
        tau_max: Of the bridge.
        seed: Of heads by lot.
    """
    other = HALVES[1 - HALVES.index(half)]
    every = [(layer, head) for layer in range(depth) for head in range(n_heads)]
    made: dict[str, list[Edit]] = {
        BASELINE: [],
        "band": [OddsEqualBridge(Bands.quarters(depth).shallow, tau_max=tau_max)],
    }
    for k in TOP:
        best = top_heads(found, half=other, k=k)
        made[f"top-{k}"] = [bridge_on(best, tau_max=tau_max)]
        rest = [pair for pair in every if pair not in best]
        drawn = np.random.default_rng([seed, k, HALVES.index(half)]).permutation(len(rest))[:k]
        made[f"random-{k}"] = [bridge_on([rest[i] for i in drawn], tau_max=tau_max)]
    return made


WRITTEN = (BASELINE, "band", f"top-{TOP[-1]}", f"random-{TOP[-1]}", "top-2")
"""Conditions under which answers are written."""


def transfer_table(values: pd.DataFrame, *, seed: int = 0, **draws: Any) -> pd.DataFrame:
    """Effects of top heads, heads by lot and the band on the half that they were not found on;
    and of each against the band."""
    tables = []
    for reference in (BASELINE, "band"):
        table = paired_table(
            values,
            "value",
            condition="condition",
            reference=reference,
            by=["outcome"],
            family=["outcome"],
            seed=seed,
            **draws,
        )
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


@dataclass(frozen=True, kw_only=True)
class HeadSettings(AnswerSettings):
    """Heads one by one, or those of a first run together."""

    found: str = option("", "folder of a first run: steer its top heads")
    n_maps: int = option(300, "problems of teacher-forced passes")
    map_chunk: int = option(50, "problems per unit of these")
    loss_share: float = option(0.25, "of them for gold losses")
    tau_max: float = option(0.3, "of the bridge")


def units(settings: HeadSettings) -> list[Unit]:
    """Chunks for single heads; or, with ``found``, halves, conditions and chunks."""
    check_task(settings, "margins")
    spans = chunks(min(settings.n_maps, settings.n), settings.map_chunk)
    if not settings.found:
        return [Unit(f"heads-{a:05d}", ("heads", "", "", (a, b), "")) for a, b in spans]
    digest = str(found_values(settings.found)["value"].round(6).sum())
    todo = [("top", "", half, span, digest) for half in HALVES for span in spans]
    todo += [
        ("answers", name, half, span, digest)
        for name in WRITTEN
        for half in HALVES
        for span in chunks(settings.n, settings.chunk)
    ]
    return [
        Unit("-".join(filter(None, (*payload[:3], f"{payload[3][0]:05d}"))), payload)
        for payload in todo
    ]


def found_values(folder: str) -> pd.DataFrame:
    """Values of the first run.

    Raises:
        ValueError: it has not finished.
    """
    file = Path(folder) / "values.parquet"
    if not file.is_file():
        raise ValueError(f"there is no {file}; finish the run without --found first")
    return pd.read_parquet(file)


def run_unit(model: Any, unit: Unit, settings: HeadSettings) -> pd.DataFrame:
    """Heads one by one, or what was found steered together on the other half."""
    part, name, half, (first, last), _ = unit.payload
    items = read_items(settings)[first:last]
    if part == "heads":
        return head_effects(model, items, settings).assign(part=part)
    mine = [item for item in items if HALVES[item.number % 2] == half]
    edits = chosen_edits(
        found_values(settings.found),
        half,
        depth=int(model.cfg.n_layers),
        n_heads=int(model.cfg.n_heads),
        tau_max=settings.tau_max,
        seed=settings.seed,
    )
    if part == "answers":
        _, frame = answers(model, mine, group_of(edits[name]), settings)
        return frame.assign(part=part, condition=name, half=half)
    errors = errors_of(model, mine, settings)
    tables = [steered(model, mine, errors, e).assign(condition=n) for n, e in edits.items()]
    return pd.concat(tables, ignore_index=True).assign(part=part)


def summarise(values: pd.DataFrame, settings: HeadSettings) -> Mapping[str, pd.DataFrame]:
    """Effects of heads and agreement of the halves; or transfer and accuracy."""
    seed = settings.seed
    if not settings.found:
        return {
            "summary": effects(values, seed=seed),
            "agreement": half_agreement(values),
            "top": _top_table(values),
        }
    answered = values[values["part"] == "answers"]
    answered = answered.assign(is_correct=answered["is_correct"].astype(bool))
    return {
        "summary": transfer_table(values[values["part"] == "top"], seed=seed),
        "accuracy": _accuracy(answered, seed),
    }


def _accuracy(values: pd.DataFrame, seed: int) -> pd.DataFrame:
    tables = [
        binary_table(values, condition="condition", reference=reference, pair=["sample"], seed=seed)
        for reference in (BASELINE, "band")
    ]
    return pd.concat(tables, ignore_index=True)


def _top_table(values: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for half in HALVES:
        if ((values["half"] == half) & (values["outcome"] == "margin")).any():
            for rank, (layer, head) in enumerate(top_heads(values, half=half, k=TOP[-1]), 1):
                rows.append({"half": half, "rank": rank, "layer": layer, "head": head})
    return pd.DataFrame(rows)


ANALYSIS = Analysis(
    "head_steering",
    HeadSettings,
    units=units,
    run_unit=run_unit,
    summarise=summarise,
    checks=("score_edits", "head_edits", "pattern_rows"),
)

if __name__ == "__main__":
    main("analyses.head_steering")
