"""How well maps rank the true premises of each step. Results: `analyses.gold_graph`.

The best layer is the best on the problems that it is shown for, so that reading is an upper bound.
"""

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from figures.parts import dots
from figures.results import read
from figures.style import PAGE, label, new_figure, style

NAME = "gold_graph"
CHOSEN = {"edge": "premise", "ranking": "problem", "metric": "average_precision"}
READINGS = {
    "whole": "mean of layers and heads",
    "layer": "best layer (in hindsight), mean of heads",
    "head": "best head, picked on the other half",
}


def load(results: Path) -> pd.DataFrame:
    """Average precision of three readings of each map, pooled by mass where it is pooled."""
    table = read(results, "gold_graph")
    for column, value in CHOSEN.items():
        table = table[table[column] == value]
    table = table[table["pool"].isna() | (table["pool"] == "mass")]
    whole = table[table["layer"].isna()]
    mean_head = table[table["layer"].notna() & (table["head"] == "mean")]
    keys = ["family", "method", "objective"]
    best = mean_head.loc[mean_head.groupby(keys, dropna=False)["estimate"].idxmax()]
    parts = {
        "whole": whole[whole["head"] == "mean"],
        "layer": best,
        "head": whole[whole["head"] == "best"],
    }
    joined = pd.concat([part.assign(reading=READINGS[name]) for name, part in parts.items()])
    return joined.assign(name=[_name(row) for _, row in joined.iterrows()])


def _name(row: pd.Series) -> str:
    objective = row["objective"]
    method = label(row["method"])
    return method if pd.isna(objective) else f"{method}, {label(objective)}"


def draw(table: pd.DataFrame) -> Figure:
    """One panel per notation of the problems; the line is chance, as the random map has it."""
    families = list(dict.fromkeys(table["family"]))
    whole = table[table["reading"] == READINGS["whole"]]
    first = whole[(whole["family"] == families[0]) & (whole["name"] != "random")]
    order = list(first.sort_values("estimate", ascending=False)["name"])
    with style():
        figure = new_figure(PAGE, 2.6)
        axes = figure.subplots(1, len(families), sharey=True, squeeze=False)[0]
        for ax, family in zip(axes, families, strict=True):
            chosen = table[table["family"] == family]
            chance = chosen.loc[chosen["name"] == "random", "estimate"]
            dots(
                ax,
                chosen[chosen["name"] != "random"],
                names="name",
                hue="reading",
                order=order,
                reference=None if chance.empty else float(chance.iloc[0]),
                xlabel="average precision, true premises",
            )
            ax.set(title=f"Problems in {family}", xlim=(0, 1.02))
        handles, names = axes[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=3)
    return figure


def make(results: Path) -> tuple[Figure, pd.DataFrame]:
    """The figure and the rows that it shows."""
    table = load(results)
    return draw(table), table
