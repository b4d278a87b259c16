"""Does lock-in come before the error? Error traces minus correct ones, cut before the first error.

Results: `analyses.mediation`, part ``prediction``.
"""

import pandas as pd
from matplotlib.figure import Figure

from figures.parts import dots, note_below, p_value
from figures.parts.legends import INTERVALS
from figures.results import AnyResults, read
from figures.style import NEUTRAL, PAGE, new_figure, style

NAME = "mediation_prediction"
PANELS = {
    "lock_in_index": ("Lock-in before the error", "share, error − correct"),
    "reach": ("Reach of deep layers", "share, error − correct"),
    "n_tokens": ("Length of the cut trace", "tokens, error − correct"),
}
CONTROLS = {"within": "same problem", "matched": "matched in length"}


def load(results: AnyResults) -> pd.DataFrame:
    """Differences of the indices by control."""
    table = read(results, "mediation", "prediction")
    return table.assign(name=table["control"].map(CONTROLS))


def draw(table: pd.DataFrame) -> Figure:
    """A panel per index; beside each estimate its pairs, ties and test."""
    with style():
        figure = new_figure(PAGE, 1.55)
        axes = figure.subplots(1, 3, sharey=True)
        for ax, (index, (title, xlabel)) in zip(axes, PANELS.items(), strict=True):
            of_index = table[table["index"] == index]
            order = list(CONTROLS.values())
            dots(ax, of_index, names="name", order=order, reference=0.0, xlabel=xlabel)
            ax.set_title(title)
            for _, row in of_index.iterrows():
                ax.annotate(
                    f"n = {row['n']:,}, {row['ties']:.0%} ties, p = {p_value(row['p_holm'])}",
                    (0.5, order.index(row["name"]) - 0.2),
                    xycoords=("axes fraction", "data"),
                    ha="center",
                    va="bottom",
                    fontsize=6.5,
                    color=NEUTRAL,
                )
        note_below(figure, f"{INTERVALS}; p after Holm's correction over a row")
    return figure


def make(results: AnyResults) -> tuple[Figure, pd.DataFrame]:
    """The figure and the rows that it shows."""
    table = load(results)
    return draw(table), table
