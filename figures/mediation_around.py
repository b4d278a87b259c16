"""Lock-in, reach and decay around the first wrong step, error minus right, by three readings.

Results: `analyses.mediation.around`, of answers to the same problem that are still right at the
step.
"""

import pandas as pd
from matplotlib.figure import Figure

from figures.parts import dots, legend_below
from figures.results import AnyResults, read
from figures.style import PAGE, new_figure, style

NAME = "mediation_around"
CONTROL = "risk set"
INDICES = {
    "lock_in": "Lock-in, shallow layers",
    "reach": "Reach, deep layers",
    "decay": "Decay",
}
PLACES = {
    "before": "before the first wrong step",
    "at": "at it",
    "after": "after it",
    "whole": "all rows",
    "whole, summary error": "all rows, wrong in the summary",
}
READINGS = ("loss", "log-odds", "attention")


def load(results: AnyResults) -> pd.DataFrame:
    """Differences within risk sets, with ``name``, the place in words."""
    table = read(results, "mediation_around")
    rows = table[(table["control"] == CONTROL) & table["index"].isin(INDICES)]
    return rows.assign(name=rows["place"].map(PLACES))


def draw(table: pd.DataFrame) -> Figure:
    """A panel per index, a row per place, colours are readings; the line is no difference."""
    indices = [index for index in INDICES if (table["index"] == index).any()]
    order = [name for name in PLACES.values() if (table["name"] == name).any()]
    with style():
        figure = new_figure(PAGE, 1.0 + 0.36 * len(order))
        axes = figure.subplots(1, len(indices), squeeze=False, sharey=True)[0]
        for ax, index in zip(axes, indices, strict=True):
            of_panel = table[table["index"] == index]
            n = sorted({of_panel["n"].min(), of_panel["n"].max()})
            dots(
                ax,
                of_panel,
                names="name",
                hue="reading",
                order=order,
                hues=READINGS,
                reference=0.0,
                xlabel=f"error − right (n = {'–'.join(map(str, n))})",
            )
            ax.set_title(INDICES[index])
        legend_below(figure, axes, ncols=3)
    return figure


def make(results: AnyResults) -> tuple[Figure, pd.DataFrame]:
    """The figure and the rows that it shows."""
    table = load(results)
    return draw(table), table
