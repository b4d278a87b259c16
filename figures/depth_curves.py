"""Lock-in and decay by layer, correct and error traces, with intervals.

Results: `analyses.depth_curves`.
"""

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from figures.parts import curve, shade_bands
from figures.results import read
from figures.style import COLUMN, CORRECT_COLOUR, ERROR_COLOUR, new_figure, style

NAME = "depth_curves"
PANELS = {
    "lock_in": "share on steps i, i − 1\nbeyond uniform",
    "decay": "share of summary rows\non thinking steps",
}
GROUPS = {"correct": (CORRECT_COLOUR, "o", "-"), "error": (ERROR_COLOUR, "s", "--")}


def load(results: Path) -> pd.DataFrame:
    """Rows of the two metrics by layer."""
    table = read(results, "depth_curves")
    wanted = table["metric"].isin(PANELS) & table["layer"].notna() & table["head"].isna()
    return table[wanted & table["group"].isin(GROUPS)]


def draw(table: pd.DataFrame) -> Figure:
    """Two panels, one per metric."""
    with style():
        figure = new_figure(COLUMN, 3.4)
        axes = figure.subplots(2, 1, sharex=True)
        for ax, (metric, ylabel) in zip(axes, PANELS.items(), strict=True):
            of_metric = table[table["metric"] == metric]
            shade_bands(ax, of_metric)
            for group, (colour, marker, line) in GROUPS.items():
                chosen = of_metric[of_metric["group"] == group]
                if not chosen.empty:
                    name = f"{group} ({chosen['n_traces'].max()} traces)"
                    curve(
                        ax,
                        chosen,
                        x="layer",
                        colour=colour,
                        name=name,
                        marker=marker,
                        linestyle=line,
                    )
            ax.set_ylabel(ylabel)
        axes[0].axhline(0, color="#666666", linestyle=":", linewidth=0.8)
        axes[0].set_title("Lock-in", pad=12)
        axes[1].set_title("Decay", pad=12)
        axes[1].set_xlabel("layer")
        handles, names = axes[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=2)
    return figure


def make(results: Path) -> tuple[Figure, pd.DataFrame]:
    """The figure and the rows that it shows."""
    table = load(results)
    return draw(table), table
