"""Accuracy and loss of the gold solution over the strength of each half.

Results: `analyses.ablation`. Accuracy stands on one scale for both halves; the loss is linear up to
`LINEAR` nats and logarithmic beyond. The point at strength 0 is no edit, from which all are
subtracted.
"""

from contextlib import suppress

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.parts import curve, note_below
from figures.results import AnyResults, MissingResultsError, read
from figures.style import COLUMN, CYCLE, NEUTRAL, new_figure, style

NAME = "dose_response"
DOSES = {"tau_max": ("oeb", "OEB", "strength τ max"), "alpha": ("smi", "SMI", "strength α")}
OUTCOMES = {"accuracy": "accuracy − no edit", "loss": "loss − no edit\nnats per token"}
LINEAR = 1e-3


def load(results: AnyResults) -> pd.DataFrame:
    """Differences from the baseline of the conditions that vary one strength, the default too."""
    tables = [read(results, "ablation").assign(outcome="accuracy")]
    with suppress(MissingResultsError):
        tables.append(read(results, "ablation", "losses"))
    table = pd.concat(tables, ignore_index=True)
    table = table[table["outcome"].isin(OUTCOMES)]
    parts = []
    for dose, (edit, _, _) in DOSES.items():
        alone = (table["group"] == "method") & (table["edit"] == edit)
        rows = table[(table["group"] == dose) | alone]
        parts.append(rows.assign(dose=dose, strength=rows[dose]))
    return pd.concat(parts, ignore_index=True)


def draw(table: pd.DataFrame) -> Figure:
    """A row per outcome, a column per half; the dotted line is no edit."""
    outcomes = [name for name in OUTCOMES if (table["outcome"] == name).any()]
    with style():
        figure = new_figure(COLUMN, 0.55 + 1.45 * len(outcomes))
        axes = figure.subplots(len(outcomes), 2, sharey="row", sharex="col", squeeze=False)
        for row, outcome in enumerate(outcomes):
            if outcome == "loss":
                axes[row, 0].set_yscale("symlog", linthresh=LINEAR)
            for column, (dose, (_, title, xlabel)) in enumerate(DOSES.items()):
                of_panel = table[(table["dose"] == dose) & (table["outcome"] == outcome)]
                _panel(axes[row, column], of_panel, CYCLE[column])
                if row == 0:
                    axes[row, column].set_title(title)
                if row == len(outcomes) - 1:
                    axes[row, column].set_xlabel(xlabel)
            n = table.loc[table["outcome"] == outcome, "n"].max()
            axes[row, 0].set_ylabel(f"{OUTCOMES[outcome]}\n({n:,} problems)")
        scale = f"\nloss: linear up to {LINEAR:g}, then logarithmic"
        note_below(
            figure,
            "bands: 95% intervals over problems" + (scale if "loss" in outcomes else ""),
        )
    return figure


def _panel(ax: Axes, table: pd.DataFrame, colour: str) -> None:
    curve(ax, table, x="strength", colour=colour)
    ax.plot(0, 0, marker="o", markerfacecolor="white", markeredgecolor=NEUTRAL, linestyle="")
    ax.axhline(0, color=NEUTRAL, linestyle=":", linewidth=0.8)


def make(results: AnyResults) -> tuple[Figure, pd.DataFrame]:
    """The figure and the rows that it shows."""
    table = load(results)
    return draw(table), table
