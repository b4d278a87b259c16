"""How fast does the effect come, or go, when edges are cut in the order of a map?

Results: `analyses.faithfulness`. Deletion rises early and insertion falls early for a good map;
``measured`` is the order of the measured single effects, which redundant edges can
make worse than a map's.
"""

import pandas as pd
from matplotlib.figure import Figure

from figures.parts import curve, legend_below
from figures.results import AnyResults, MissingResultsError, read_all
from figures.style import CYCLE, MARKERS, NEUTRAL, PAGE, new_figure, style

NAME = "faithfulness_curves"
MAPS = {
    ("saliency", "next_token"): "Step-Saliency, loss",
    ("saliency", "log_odds"): "Step-Saliency, log-odds",
    ("attention", ""): "attention",
    ("gradient", "log_odds"): "gradient alone, log-odds",
    ("distance", ""): "distance",
    ("random", ""): "random",
    ("oracle", ""): "measured single effects",
}
MEASURED = MAPS["oracle", ""]
LINES = ("-", "-", "--", "-.", ":", ":", "-")
PANELS = {
    "deletion": ("Deletion", "edges cut, highest first (share)"),
    "insertion": ("Insertion", "edges kept, highest first (share)"),
}


def load(results: AnyResults) -> pd.DataFrame:
    """Curves of the maps that are drawn, pooled by mass where they are pooled."""
    table = read_all(results, "faithfulness", ("smollm2",))
    table = table[
        table["measure"].isin(PANELS) & (table["pool"].isna() | (table["pool"] == "mass"))
    ]
    if table.empty:
        raise MissingResultsError("results/faithfulness has no curves")
    labels = zip(table["method"], table["objective"].fillna(""), strict=True)
    return table.assign(map=[MAPS.get(pair, "") for pair in labels]).query("map != ''")


def draw(table: pd.DataFrame) -> Figure:
    """A row per model; shares of the effect of cutting everything."""
    settings = list(dict.fromkeys(table["setting"]))
    with style():
        figure = new_figure(PAGE, 0.6 + 1.9 * len(settings))
        axes = figure.subplots(len(settings), 2, squeeze=False, sharex=True, sharey=True)
        for row, setting in zip(axes, settings, strict=True):
            for ax, (measure, (title, xlabel)) in zip(row, PANELS.items(), strict=True):
                of_measure = table[(table["setting"] == setting) & (table["measure"] == measure)]
                for number, name in enumerate(MAPS.values()):
                    of_map = of_measure[of_measure["map"] == name]
                    if not of_map.empty:
                        curve(
                            ax,
                            of_map,
                            x="fraction",
                            colour="#000000" if name == MEASURED else CYCLE[number],
                            name=name,
                            marker=MARKERS[number],
                            linestyle=LINES[number],
                        )
                for level in (0, 1):
                    ax.axhline(level, color=NEUTRAL, linestyle=":", linewidth=0.6)
                ax.set_title(f"{title}, n = {of_measure['n'].max():,}\n{setting}")
                ax.set_xlabel(xlabel)
            row[0].set_ylabel("KL / KL with all cut")
        legend_below(figure, axes[0], ncols=4)
    return figure


def make(results: AnyResults) -> tuple[Figure, pd.DataFrame]:
    """The figure and the rows that it shows."""
    table = load(results)
    return draw(table), table
