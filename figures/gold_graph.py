"""How well maps rank the true premises of each step. Results: `analyses.gold_graph`.

Layers and heads are picked on one half of the problems and shown for the other.
"""

import pandas as pd
from matplotlib.figure import Figure

from figures.faithfulness import map_name
from figures.parts import counted, dots, legend_below
from figures.results import AnyResults, read
from figures.style import PAGE, new_figure, style

NAME = "gold_graph"
CHOSEN = {"edge": "premise", "ranking": "problem", "metric": "average_precision"}
READINGS = {
    "mean": "mean of layers and heads",
    "best_layer": "best layer of the other half",
    "best": "best head of the other half",
}


def load(results: AnyResults) -> pd.DataFrame:
    """Average precision of three readings of each map, pooled by mass where it is pooled."""
    table = read(results, "gold_graph")
    for column, value in CHOSEN.items():
        table = table[table[column] == value]
    table = table[table["pool"].isna() | (table["pool"] == "mass")]
    table = table[table["layer"].isna() & table["head"].isin(READINGS)]
    return table.assign(
        reading=table["head"].map(READINGS), name=[map_name(row) for _, row in table.iterrows()]
    )


def draw(table: pd.DataFrame) -> Figure:
    """One panel per notation of the problems; the line is chance, as the random map has it."""
    families = list(dict.fromkeys(table["family"]))
    whole = table[table["reading"] == READINGS["mean"]]
    first = whole[(whole["family"] == families[0]) & (whole["name"] != "random")]
    order = list(first.sort_values("estimate", ascending=False)["name"])
    with style():
        figure = new_figure(PAGE, 2.8)
        axes = figure.subplots(1, len(families), sharey=True, squeeze=False)[0]
        for ax, family in zip(axes, families, strict=True):
            of_family = table[table["family"] == family]
            chance = of_family.loc[of_family["name"] == "random", "estimate"]
            dots(
                ax,
                of_family[of_family["name"] != "random"],
                names="name",
                hue="reading",
                order=order,
                hues=[name for name in READINGS.values() if (table["reading"] == name).any()],
                reference=None if chance.empty else float(chance.iloc[0]),
                xlabel=f"average precision, true premises\n({counted(of_family)}; dotted: chance)",
            )
            ax.set(title=f"Problems in {family}", xlim=(0, 1.02))
            ax.set_xticks([0, 0.2, 0.4, 0.6, 0.8, 1])
        legend_below(figure, axes, ncols=3)
    return figure


def make(results: AnyResults) -> tuple[Figure, pd.DataFrame]:
    """The figure and the rows that it shows."""
    table = load(results)
    return draw(table), table
