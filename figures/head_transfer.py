"""The best heads of one half of the problems steered on the other half, beside the whole band.

Results: `analyses.head_steering` with ``--found``. Heads were not looked at on the problems that
they are shown for. Random heads are drawn once per half, so that their intervals are too narrow.
"""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.parts import dots, legend_below
from figures.results import AnyResults, read
from figures.style import CYCLE, PAGE, new_figure, style

NAME = "head_transfer"
FOLDER = "head_steering_transfer"
PICKED = {"top": "best on the other half", "random": "random heads"}
PANELS = {
    "margin": ("Margin at the error", "nats − no edit"),
    "loss": ("Loss, gold solution", "nats per token − no edit"),
    "accuracy": ("Written answers", "accuracy − no edit"),
}
BAND = "whole band"


def load(results: AnyResults) -> pd.DataFrame:
    """Differences from no edit, with the number of heads and how they were picked."""
    forced = read(results, FOLDER)
    written = read(results, FOLDER, "accuracy").assign(outcome="accuracy")
    table = pd.concat([forced, written], ignore_index=True)
    table = table[(table["reference"] == "baseline") & table["outcome"].isin(PANELS)]
    parts = [name.partition("-") for name in table["condition"]]
    return table.assign(
        picked=[PICKED.get(kind, BAND) for kind, _, _ in parts],
        heads=[_counted(k) if kind in PICKED else BAND for kind, _, k in parts],
    )


def _counted(k: str) -> str:
    return f"{k} head" if k == "1" else f"{k} heads"


def draw(table: pd.DataFrame) -> Figure:
    """A panel per outcome; the shaded strip is the interval of the whole band."""
    rows = [_counted(k) for k in ("1", "2", "4", "8")]
    order = [*(name for name in rows if (table["heads"] == name).any()), BAND]
    with style():
        figure = new_figure(PAGE, 2.3)
        axes = figure.subplots(1, len(PANELS), sharey=True)
        for ax, (outcome, (title, unit)) in zip(axes, PANELS.items(), strict=True):
            of_outcome = table[table["outcome"] == outcome]
            n = 0 if of_outcome.empty else of_outcome["n"].max()
            dots(
                ax,
                of_outcome,
                names="heads",
                hue="picked",
                order=order,
                hues=[*PICKED.values(), BAND],
                reference=0.0,
                xlabel=f"{unit} (n = {n:,})",
            )
            _band(ax, of_outcome)
            ax.set_title(title)
        legend_below(figure, axes, ncols=3)
    return figure


def _band(ax: Axes, table: pd.DataFrame) -> None:
    for _, row in table[table["heads"] == BAND].iterrows():
        ax.axvspan(row["lower"], row["upper"], color=CYCLE[2], alpha=0.12, linewidth=0, zorder=0)


def make(results: AnyResults) -> tuple[Figure, pd.DataFrame]:
    """The figure and the rows that it shows."""
    table = load(results)
    return draw(table), table
