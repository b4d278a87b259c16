"""What each part of StepFlow does to accuracy: halves, layer bands, windows, placebos.

Results: `analyses.ablation`. The published table gives accuracies of other models, without
intervals. Placebos here keep the strengths of what they stand for and not its dose;
`figures.ablation_matched` has those of equal dose.
"""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from figures.conditions import named, placebo_note
from figures.parts import INTERVALS, dots, note_below, number
from figures.results import AnyResults, read
from figures.style import PAGE, new_figure, style

NAME = "ablation"
PANELS = {
    "method": "Parts, outer quarters",
    "placebo": "Placebos",
    "bands": "StepFlow in other layers",
    "sliding": "Parts in one window",
}

LINEAR = 0.02
"""Where an effect is so large that others could not be seen beside it, the scale is linear up to
here and logarithmic beyond."""
TICKS = (-0.5, -0.1, -LINEAR, 0.0, LINEAR, 0.1, 0.5)


def load(results: AnyResults, folder: str = NAME) -> pd.DataFrame:
    """Differences in accuracy from the baseline, in the groups that are drawn."""
    table = read(results, folder)
    return named(table[table["group"].isin(PANELS)])


def draw(table: pd.DataFrame) -> Figure:
    """A panel per group; the line is no difference."""
    groups = [group for group in PANELS if (table["group"] == group).any()]
    sizes = table.groupby("group").size()
    rows = [groups[i : i + 2] for i in range(0, len(groups), 2)]
    heights = [int(max(sizes[group] for group in row)) for row in rows]
    with style():
        figure = new_figure(PAGE, 0.3 + sum(0.62 + 0.17 * height for height in heights))
        axes = figure.subplots(
            len(rows), 2, squeeze=False, sharex=True, height_ratios=[2 + h for h in heights]
        ).flatten()
        for ax, group in zip(axes, groups, strict=False):
            of_panel = table[table["group"] == group]
            n = of_panel["n"].max()
            xlabel = f"accuracy − no edit ({n:,} problems)"
            dots(ax, of_panel, names="name", reference=0.0, xlabel=xlabel)
            ax.set_title(PANELS[group])
            ax.xaxis.set_tick_params(labelbottom=True)
        for ax in axes[len(groups) :]:
            ax.set_axis_off()
        said = [note for note in (placebo_note(table), _widened(axes[0], table)) if note]
        lines = ["; ".join(said), INTERVALS] if len(said) > 1 else ["; ".join([*said, INTERVALS])]
        note_below(figure, "\n".join(lines))
    return figure


def _widened(ax: Axes, table: pd.DataFrame) -> str:
    """Make room for small effects beside large ones, in all panels; what is to be said of it."""
    if table["estimate"].abs().max() < 10 * LINEAR:
        return ""
    ends = ax.get_xlim()
    ax.set_xscale("symlog", linthresh=LINEAR)
    ax.set_xticks([tick for tick in TICKS if ends[0] <= tick <= ends[1]])
    ax.xaxis.set_major_formatter(lambda value, _: number(value, 2))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlim(1.2 * ends[0], max(ends[1], 1.5 * LINEAR))
    return f"scale: linear up to {LINEAR}, logarithmic beyond"


def make(results: AnyResults) -> tuple[Figure, pd.DataFrame]:
    """The figure and the rows that it shows."""
    table = load(results)
    return draw(table), table
