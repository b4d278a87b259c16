"""Accuracy over the strength of the bridge and of the momentum. Results: `analyses.ablation`."""

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from figures.parts import curve
from figures.results import read
from figures.style import COLUMN, CYCLE, NEUTRAL, new_figure, style

NAME = "dose_response"
DOSES = {"tau_max": ("oeb", "OEB", "strength tau_max"), "alpha": ("smi", "SMI", "strength alpha")}


def load(results: Path) -> pd.DataFrame:
    """Differences from the baseline of the conditions that vary one strength, the default too."""
    table = read(results, "ablation")
    parts = []
    for dose, (edit, _, _) in DOSES.items():
        alone = (table["group"] == "method") & (table["edit"] == edit)
        chosen = table[(table["group"] == dose) | alone]
        parts.append(chosen.assign(dose=dose, strength=chosen[dose]))
    return pd.concat(parts, ignore_index=True)


def draw(table: pd.DataFrame) -> Figure:
    """Two panels; the dotted line is the baseline, strength 0."""
    with style():
        figure = new_figure(COLUMN, 1.9)
        axes = figure.subplots(1, 2, sharey=True)
        for ax, colour, (dose, (_, title, xlabel)) in zip(axes, CYCLE, DOSES.items(), strict=False):
            curve(ax, table[table["dose"] == dose], x="strength", colour=colour)
            ax.axhline(0, color=NEUTRAL, linestyle=":", linewidth=0.8)
            ax.set(title=title, xlabel=xlabel)
        axes[0].set_ylabel("accuracy − baseline")
    return figure


def make(results: Path) -> tuple[Figure, pd.DataFrame]:
    """The figure and the rows that it shows."""
    table = load(results)
    return draw(table), table
