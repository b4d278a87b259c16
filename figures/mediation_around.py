"""Lock-in, reach and decay around the first wrong step, error minus right, by three readings.

Results: `analyses.mediation.around`, of answers to the same problem that are still right at the
step.
"""

import pandas as pd
from matplotlib.figure import Figure

from figures.parts import panels
from figures.results import AnyResults, read
from figures.style import PAGE, new_figure, style

NAME = "mediation_around"
CONTROL = "risk set"
INDICES = {
    "lock_in": "Lock-in, shallow layers",
    "reach": "Reach, deep layers",
    "decay": "Decay, middle − deep",
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
    order = [name for name in PLACES.values() if (table["name"] == name).any()]
    with style():
        figure = new_figure(PAGE, 1.0 + 0.36 * len(order))
        panels(
            figure,
            table,
            INDICES,
            by="index",
            names="name",
            hue="reading",
            order=order,
            hues=READINGS,
            xlabel="share, error − right",
            ncols=3,
        )
    return figure


def make(results: AnyResults) -> tuple[Figure, pd.DataFrame]:
    """The figure and the rows that it shows."""
    table = load(results)
    return draw(table), table
