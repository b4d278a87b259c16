"""Lock-in and decay by layer, correct and error traces, and their difference within problems.

Results: `analyses.depth_curves`. The curves on the left are of different problems, since hard ones
have more error traces; the differences on the right compare traces of the same problem, once as
they are and once in pairs whose lengths are alike, which fewer problems have.
"""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.parts import curve, legend_below, shade_bands
from figures.results import AnyResults, read
from figures.style import CORRECT_COLOUR, CYCLE, ERROR_COLOUR, NEUTRAL, PAGE, new_figure, style
from step_saliency.plotting.depth import DECAY_LABELS, LOCK_IN_LABELS

NAME = "depth_curves"
PANELS = {"lock_in": LOCK_IN_LABELS, "decay": DECAY_LABELS}
GROUPS = {"correct": (CORRECT_COLOUR, "o", "-"), "error": (ERROR_COLOUR, "s", "--")}
CONTROLS = {
    "none": ("error − correct", CYCLE[2], "^", "-"),
    "length": ("pairs of similar length ({} problems)", CYCLE[3], "D", ":"),
}


def load(results: AnyResults) -> pd.DataFrame:
    """Rows of the two metrics by layer: of groups of traces, and differences (``control``)."""
    curves = read(results, "depth_curves")
    curves = curves[curves["group"].isin(GROUPS)]
    differences = read(results, "depth_curves", "comparison")
    differences = differences[differences["control"].isin(CONTROLS)]
    table = pd.concat([curves, differences], ignore_index=True)
    is_shown = table["metric"].isin(PANELS) & table["layer"].notna() & table["head"].isna()
    return table[is_shown]


def draw(table: pd.DataFrame) -> Figure:
    """A row per metric: curves of both groups, and differences within problems."""
    with style():
        figure = new_figure(PAGE, 3.5)
        axes = figure.subplots(2, 2, sharex=True)
        for row, (metric, (title, ylabel)) in zip(axes, PANELS.items(), strict=True):
            of_metric = table[table["metric"] == metric]
            for ax in row:
                shade_bands(ax, of_metric)
            for group, (colour, marker, line) in GROUPS.items():
                of_group = of_metric[of_metric["group"] == group]
                name = f"{group} ({_most(of_group, 'n_traces')} traces)"
                _curve(row[0], of_group, name, colour, marker, line)
            for control, (name, colour, marker, line) in CONTROLS.items():
                of_control = of_metric[of_metric["control"] == control]
                words = name.format(_most(of_control, "n"))
                _curve(row[1], of_control, words, colour, marker, line)
            row[1].axhline(0, color=NEUTRAL, linestyle=":", linewidth=0.8)
            row[0].set_ylabel(ylabel)
            row[1].set_ylabel("difference")
            row[0].set_title(title, pad=12)
            n = of_metric.loc[of_metric["control"] == "none", "n"].max()
            row[1].set_title(f"{title}, within {n:,} problems", pad=12)
        axes[0, 0].axhline(0, color=NEUTRAL, linestyle=":", linewidth=0.8)
        axes[1, 0].set_ylim(bottom=0)
        for ax in axes[1]:
            ax.set_xlabel("layer")
        legend_below(figure, axes[0], ncols=4)
    return figure


def _curve(
    ax: Axes, table: pd.DataFrame, name: str, colour: str, marker: str, linestyle: str
) -> None:
    if table.empty:
        return
    curve(ax, table, x="layer", colour=colour, name=name, marker=marker, linestyle=linestyle)


def _most(table: pd.DataFrame, count: str) -> str:
    return "no" if table.empty else f"{table[count].max():,.0f}"


def make(results: AnyResults) -> tuple[Figure, pd.DataFrame]:
    """The figure and the rows that it shows."""
    table = load(results)
    return draw(table), table
