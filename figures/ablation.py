"""What each part of StepFlow does to accuracy: halves, layer bands, placebos.

Results: `analyses.ablation`. The published table gives accuracies of other models, without
intervals.
"""

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from figures.parts import dots
from figures.results import read
from figures.style import PAGE, new_figure, style

NAME = "ablation"
PANELS = {"method": "Halves", "bands": "Layers", "placebo": "Placebos"}


def load(results: Path) -> pd.DataFrame:
    """Differences in accuracy from the baseline, in the groups that are drawn."""
    table = read(results, "ablation")
    return table[table["group"].isin(PANELS)]


def draw(table: pd.DataFrame) -> Figure:
    """A panel per group; the line is no difference."""
    panels = {group: title for group, title in PANELS.items() if (table["group"] == group).any()}
    most = table.groupby("group").size().max()
    with style():
        figure = new_figure(PAGE, 0.9 + 0.16 * most)
        axes = figure.subplots(1, len(panels), squeeze=False, sharex=True)[0]
        for ax, (group, title) in zip(axes, panels.items(), strict=True):
            chosen = table[table["group"] == group]
            dots(ax, chosen, names="condition", reference=0.0, xlabel="accuracy − baseline")
            ax.set_title(f"{title} ({chosen['n'].max()} problems)")
    return figure


def make(results: Path) -> tuple[Figure, pd.DataFrame]:
    """The figure and the rows that it shows."""
    table = load(results)
    return draw(table), table
