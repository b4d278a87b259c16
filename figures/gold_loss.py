"""What each part of StepFlow does to the loss of the gold solution, teacher-forced.

It moves where no answer flips. Results: `analyses.ablation`, of every model that it was run on.
"""

import pandas as pd
from matplotlib.figure import Figure

from figures.conditions import named, placebo_note
from figures.parts import INTERVALS, dots, note_below
from figures.results import AnyResults, read_all
from figures.style import PAGE, new_figure, style

NAME = "gold_loss"
GROUPS = ("method", "placebo", "bands", "sliding")
MILLI = 1e3
SCALED = ("estimate", "lower", "upper")


def load(results: AnyResults) -> pd.DataFrame:
    """Differences in the loss of thinking and summary from the baseline."""
    table = read_all(results, "ablation", ("smollm2",), "losses")
    rows = table[(table["outcome"] == "loss") & table["group"].isin(GROUPS)]
    return named(rows)


def draw(table: pd.DataFrame) -> Figure:
    """A panel per model; the line is no difference."""
    settings = list(dict.fromkeys(table["setting"]))
    most = table.groupby("setting").size().max()
    with style():
        figure = new_figure(PAGE, 0.95 + 0.155 * most)
        axes = figure.subplots(1, len(settings), squeeze=False)[0]
        for ax, setting in zip(axes, settings, strict=True):
            of_setting = table[table["setting"] == setting]
            scaled = of_setting.assign(**{name: MILLI * of_setting[name] for name in SCALED})
            dots(ax, scaled, names="name", reference=0.0)
            ax.set_xlabel(
                f"gold loss − no edit\n(10⁻³ nats per token, {of_setting['n'].max():,} problems)"
            )
            ax.set_title(setting)
            groups = list(of_setting["group"])
            for i in range(1, len(groups)):
                if groups[i] != groups[i - 1]:
                    ax.axhline(i - 0.5, color="#cccccc", linewidth=0.5)
        doses = placebo_note(table)
        note_below(figure, f"{doses}; {INTERVALS}" if doses else INTERVALS)
    return figure


def make(results: AnyResults) -> tuple[Figure, pd.DataFrame]:
    """The figure and the rows that it shows."""
    table = load(results)
    return draw(table), table
