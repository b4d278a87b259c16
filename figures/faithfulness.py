"""Does a map predict what happens when an edge is cut? Results: `analyses.faithfulness`."""

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from figures.parts import dots
from figures.results import read
from figures.style import COLUMN, label, new_figure, style

NAME = "faithfulness"
MEASURE = "rho_kl"


def load(results: Path) -> pd.DataFrame:
    """Rank correlation with the effect of cutting an edge in all layers."""
    table = read(results, "faithfulness")
    chosen = table[(table["scope"] == "all") & (table["measure"] == MEASURE)]
    return chosen.assign(
        map=[_name(row) for _, row in chosen.iterrows()], pooling=chosen["pool"].fillna("none")
    )


def _name(row: pd.Series) -> str:
    method = label(row["method"])
    return method if pd.isna(row["objective"]) else f"{method}, {label(row['objective'])}"


def draw(table: pd.DataFrame) -> Figure:
    """One row a map, best first; colours are poolings."""
    best = table.sort_values("estimate", ascending=False)
    order = list(dict.fromkeys(best["map"]))
    with style():
        figure = new_figure(COLUMN, 0.9 + 0.19 * len(order))
        ax = figure.subplots()
        dots(
            ax,
            table,
            names="map",
            hue="pooling",
            order=order,
            reference=0.0,
            xlabel="rank correlation with the KL of a cut edge",
        )
        figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def make(results: Path) -> tuple[Figure, pd.DataFrame]:
    """The figure and the rows that it shows."""
    table = load(results)
    return draw(table), table
