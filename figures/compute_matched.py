"""Accuracy over what an answer costs, with and without StepFlow, and what StepFlow adds to it.

Results: `analyses.compute_matched`. The paper gives one number for the added cost.
"""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from figures.parts import dots, legend_below
from figures.parts.legends import INTERVALS
from figures.results import AnyResults, read
from figures.style import CYCLE, GRID_COLOUR, NEUTRAL, PAGE, label, new_figure, style

NAME = "compute_matched"
KEYS = ["condition", "method", "k", "limit"]
COSTS = {"tokens": "tokens generated per problem", "flops": "GFLOP per problem"}
SCALES = {"tokens": 1.0, "flops": 1e-9}
METHODS = {"greedy": "^", "sample": "o", "vote": "s", "wait": "D"}
LOOKS = {"baseline": (CYCLE[0], "-"), "both": (CYCLE[1], "--")}
RATIOS = {"per_token ratio": "processor time\nper token", "tokens ratio": "tokens\nper answer"}


def load(results: AnyResults) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Each way's accuracy with a column per cost; StepFlow's ratios to none."""
    table = read(results, "compute_matched")
    ways = table[table["outcome"] == "accuracy"]
    for cost in COSTS:
        costs = table.loc[table["outcome"] == cost, [*KEYS, "estimate"]]
        ways = ways.merge(costs.rename(columns={"estimate": cost}), on=KEYS)
    overhead = read(results, "compute_matched", "overhead")
    return ways, overhead[overhead["outcome"].isin(RATIOS)]


def draw(ways: pd.DataFrame, overhead: pd.DataFrame) -> Figure:
    """Two panels of accuracy over cost, votes joined by a line, and one of ratios."""
    with style():
        figure = new_figure(PAGE, 2.6)
        axes = figure.subplots(1, 3, width_ratios=(3, 3, 1.7))
        for ax, (cost, xlabel) in zip(axes, COSTS.items(), strict=False):
            for condition in LOOKS:
                _ways(ax, ways[ways["condition"] == condition], cost)
            ax.set(xscale="log", xlabel=xlabel)
            ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            ax.xaxis.set_minor_formatter(NullFormatter())
            ax.grid(color=GRID_COLOUR, linewidth=0.5)
        axes[0].set_ylabel(f"accuracy ({ways['n'].max():,} problems)")
        axes[1].sharey(axes[0])
        axes[1].tick_params(labelleft=False)
        overheads = overhead.assign(name=overhead["outcome"].map(RATIOS))
        dots(axes[2], overheads, names="name", order=list(RATIOS.values()), reference=1.0)
        axes[2].set(xlabel=f"StepFlow / none\n(n = {overheads['n'].max()} chunks)")
        legend_below(figure, axes[:1], ncols=3, note=f"{INTERVALS}; of the ratios, over chunks")
    return figure


def _ways(ax: Axes, table: pd.DataFrame, cost: str) -> None:
    condition = table["condition"].iloc[0]
    colour, line = LOOKS[condition]
    for method, marker in METHODS.items():
        of_method = table[table["method"] == method].sort_values(cost)
        if of_method.empty:
            continue
        spread = (
            of_method["estimate"] - of_method["lower"],
            of_method["upper"] - of_method["estimate"],
        )
        ax.errorbar(
            of_method[cost] * SCALES[cost],
            of_method["estimate"],
            yerr=spread,
            color=colour,
            marker=marker,
            markerfacecolor=colour if condition == "baseline" else "white",
            markersize=5 if condition == "baseline" else 3,
            linestyle=line if method == "vote" else "",
            elinewidth=0.8,
            label=f"{_named(method, of_method)}, {label(condition)}",
        )
        for _, row in of_method.iterrows() if (condition, method) == ("baseline", "vote") else ():
            ax.annotate(
                f"k = {row['k']}",
                (row[cost] * SCALES[cost], row["estimate"]),
                xytext=(5, -6),
                textcoords="offset points",
                fontsize=6.5,
                color=NEUTRAL,
            )


def _named(method: str, table: pd.DataFrame) -> str:
    """A method, greedy with its limits."""
    limits = ", ".join(f"{limit:.0f}" for limit in table["limit"].dropna().sort_values())
    return f"{method} (cut at {limits})" if limits else method


def make(results: AnyResults) -> tuple[Figure, pd.DataFrame]:
    """The figure and the rows that it shows."""
    ways, overhead = load(results)
    return draw(ways, overhead), pd.concat([ways, overhead], ignore_index=True)
