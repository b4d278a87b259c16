"""What each part of StepFlow does to accuracy: halves, layer bands, windows, placebos.

Results: `analyses.ablation`. The published table gives accuracies of other models, without
intervals.
"""

import pandas as pd
from matplotlib.figure import Figure

from figures.conditions import named
from figures.parts import dots, note_below
from figures.results import AnyResults, read
from figures.style import PAGE, new_figure, style

NAME = "ablation"
PANELS = {
    "method": "Parts, outer quarters",
    "placebo": "Placebos, outer quarters",
    "bands": "StepFlow in other layers",
    "sliding": "Parts in one window",
}


def load(results: AnyResults) -> pd.DataFrame:
    """Differences in accuracy from the baseline, in the groups that are drawn."""
    table = read(results, "ablation")
    return named(table[table["group"].isin(PANELS)])


def draw(table: pd.DataFrame) -> Figure:
    """A panel per group; the line is no difference."""
    groups = [group for group in PANELS if (table["group"] == group).any()]
    sizes = table.groupby("group").size()
    rows = [groups[i : i + 2] for i in range(0, len(groups), 2)]
    heights = [int(max(sizes[group] for group in row)) for row in rows]
    with style():
        figure = new_figure(PAGE, sum(0.62 + 0.17 * height for height in heights))
        axes = figure.subplots(
            len(rows), 2, squeeze=False, sharex=True, height_ratios=[2 + h for h in heights]
        ).flat
        for ax, group in zip(axes, groups, strict=False):
            of_panel = table[table["group"] == group]
            n = of_panel["n"].max()
            xlabel = f"accuracy − no edit ({n:,} problems)"
            dots(ax, of_panel, names="name", reference=0.0, xlabel=xlabel)
            ax.set_title(PANELS[group])
            ax.xaxis.set_tick_params(labelbottom=True)
        for ax in list(axes)[len(groups) :]:
            ax.set_axis_off()
        note_below(figure)
    return figure


def make(results: AnyResults) -> tuple[Figure, pd.DataFrame]:
    """The figure and the rows that it shows."""
    table = load(results)
    return draw(table), table
