"""Tables of heads steered one by one: effects, agreement of the halves, and the best heads."""

from typing import Any

import pandas as pd

from analyses.head_steering.steering import HALVES, WAYS
from analyses.material.comparisons import against, corrected_together
from analyses.material.conditions import BASELINE
from step_saliency.options import Draws

TOP = (1, 2, 4, 8)
"""Numbers of heads that are steered together."""


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
        pair = pd.concat([base, named[named["way"] == way]])
        table = against(pair, "value", BASELINE, by=["outcome"], seed=seed, **draws)
        tables.append(table.assign(way=way))
    joined = corrected_together(tables, family=["way", "outcome"])
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


def top_table(values: pd.DataFrame) -> pd.DataFrame:
    """The best heads of each half, by rank."""
    rows = []
    for half in HALVES:
        if ((values["half"] == half) & (values["outcome"] == "margin")).any():
            for rank, (layer, head) in enumerate(top_heads(values, half=half, k=TOP[-1]), 1):
                rows.append({"half": half, "rank": rank, "layer": layer, "head": head})
    return pd.DataFrame(rows)
