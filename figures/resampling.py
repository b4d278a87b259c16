"""Do maps know which steps matter? Rank correlation with what drawing a step anew does.

Results: `analyses.resampling`.
"""

import pandas as pd
from matplotlib.figure import Figure

from figures.parts import panels
from figures.results import AnyResults, read
from figures.style import PAGE, label, new_figure, style

NAME = "resampling"
ROWS = {"summary": "from the summary", "later": "from all later steps", "none": ""}
OUTCOMES = {"same": "the same answer", "right": "the right answer"}
IMPORTANCE = {
    "resample": "The step drawn anew",
    "counterfactual": "The step drawn anew, and another step",
}
CEILING = "other half"


def load(results: AnyResults) -> pd.DataFrame:
    """Correlations, with ``name``, the score in words, and ``what``, the outcome."""
    table = read(results, "resampling")
    return table.assign(
        name=[_name(row) for _, row in table.iterrows()], what=table["outcome"].map(OUTCOMES)
    )


def _name(row: pd.Series) -> str:
    if row["score"] == CEILING:
        return "other half of the drawn answers"
    return f"{label(row['score'])} {ROWS[row['rows']]}".strip()


def draw(table: pd.DataFrame) -> Figure:
    """A panel per importance, a row per score; colours are outcomes."""
    ceiling = table["score"] == CEILING
    order = list(dict.fromkeys([*table.loc[~ceiling, "name"], *table.loc[ceiling, "name"]]))
    with style():
        figure = new_figure(PAGE, 1.0 + 0.27 * len(order))
        panels(
            figure,
            table,
            IMPORTANCE,
            by="importance",
            names="name",
            hue="what",
            order=order,
            hues=list(OUTCOMES.values()),
            xlabel="rank correlation",
            ncols=2,
        )
    return figure


def make(results: AnyResults) -> tuple[Figure, pd.DataFrame]:
    """The figure and the rows that it shows."""
    table = load(results)
    return draw(table), table
