"""Wrong answers gone on from right before their first wrong step: how many end right.

Results: `analyses.fork_points`.
"""

import pandas as pd
from matplotlib.figure import Figure

from figures.parts import counted, dots, legend_below
from figures.results import AnyResults, read
from figures.style import PAGE, label, new_figure, style

NAME = "fork_points"
PLACES = {
    "any": "wherever the error is",
    "thinking": "error in the thinking",
    "summary": "error in the summary",
}
AGAINST = {
    "edit - baseline": "no edit",
    "placebo - baseline": "no edit",
    "edit - placebo": "its placebo",
}


def load(results: AnyResults) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Share of right continuations by condition and place; and differences, named by both sides."""
    shares = read(results, "fork_points", "accuracy")
    differences = read(results, "fork_points")
    against = differences["contrast"].map(AGAINST)
    differences["name"] = differences["condition"].map(label) + "\n− " + against
    return _placed(shares), _placed(differences)


def _placed(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(where=table["place"].map(PLACES))


def draw(shares: pd.DataFrame, differences: pd.DataFrame) -> Figure:
    """Shares on the left, differences on the right; colours are places of the first error."""
    hues = [where for where in PLACES.values() if (shares["where"] == where).any()]
    panels = (
        (shares, "condition", None, f"share right ({counted(shares)})"),
        (differences, "name", 0.0, f"difference ({counted(differences)})"),
    )
    with style():
        rows = max(shares["condition"].nunique(), differences["name"].nunique())
        figure = new_figure(PAGE, 1.1 + 0.4 * rows)
        axes = figure.subplots(1, 2)
        for ax, (table, names, reference, xlabel) in zip(axes, panels, strict=True):
            dots(
                ax,
                table,
                names=names,
                hue="where",
                hues=hues,
                reference=reference,
                xlabel=xlabel,
            )
        legend_below(figure, axes[:1], ncols=len(hues))
    return figure


def make(results: AnyResults) -> tuple[Figure, pd.DataFrame]:
    """The figure and the rows that it shows."""
    shares, differences = load(results)
    return draw(shares, differences), pd.concat([shares, differences], ignore_index=True)
