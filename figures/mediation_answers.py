"""Accuracy under the interventions of the mediation analysis, and against their placebos.

Results: `analyses.mediation`, part ``answers``.
"""

import pandas as pd
from matplotlib.figure import Figure

from figures.mediation_paths import CONDITIONS
from figures.parts import RANDOM_KEYS, dots, note_below
from figures.results import AnyResults, read
from figures.style import PAGE, new_figure, style

NAME = "mediation_answers"


def load(results: AnyResults) -> pd.DataFrame:
    """Differences in accuracy from no edit, and from placebos (``against``)."""
    plain = read(results, "mediation", "answers_accuracy").assign(against="no edit")
    placebos = read(results, "mediation", "answers_placebos").assign(against="placebo")
    table = pd.concat([plain, placebos], ignore_index=True)
    return table.assign(name=[_name(row) for _, row in table.iterrows()])


def _name(row: pd.Series) -> str:
    name = CONDITIONS.get(row["condition"], row["condition"])
    if row["against"] == "no edit":
        return name
    kind = CONDITIONS.get(row["reference"], row["reference"]).rpartition(", ")[2]
    return f"{name}\n− {kind}"


def draw(table: pd.DataFrame) -> Figure:
    """Against no edit on the left, against placebos on the right."""
    with style():
        figure = new_figure(PAGE, 2.4)
        axes = figure.subplots(1, 2)
        for ax, against in zip(axes, ("no edit", "placebo"), strict=True):
            of_reference = table[table["against"] == against]
            dots(ax, of_reference, names="name", reference=0.0)
            n = of_reference["n"].max()
            ax.set(title=f"Against {against}", xlabel=f"difference in accuracy ({n:,} problems)")
        note_below(figure, RANDOM_KEYS)
    return figure


def make(results: AnyResults) -> tuple[Figure, pd.DataFrame]:
    """The figure and the rows that it shows."""
    table = load(results)
    return draw(table), table
