"""Lock-in that is planted: accuracy, and the first errors that appear, against random keys.

Results: `analyses.mediation.injection`, in a folder of its own (``mediation_injection``) or, where
there is none, as the part ``injection`` of `analyses.mediation`.
"""

import math

import pandas as pd
from matplotlib.figure import Figure

from figures.error_kinds import KINDS
from figures.parts import INTERVALS, dots, note_below
from figures.results import AnyResults, read
from figures.style import PAGE, label, new_figure, style

NAME = "mediation_injection"
CONDITIONS = {
    "lock-in-shallow-0.5": "own step, shallow, mass 0.5",
    "random-shallow-0.5": "random keys, shallow, mass 0.5",
    "random-shallow-0.5-kl": "random keys, shallow, KL of 0.5",
    "lock-in-shallow-0.8": "own step, shallow, mass 0.8",
    "random-shallow-0.8": "random keys, shallow, mass 0.8",
    "random-shallow-0.8-kl": "random keys, shallow, KL of 0.8",
    "lock-in-deep-0.5": "own step, deep, mass 0.5",
    "random-deep-0.5-kl": "random keys, deep, KL of 0.5",
}
"""Planted lock-in, and random keys that hold as much mass or move rows as far (KL)."""
KEYS = ("own step", "random keys")
N_COLUMNS = 4
FOLDERS = ("mediation_injection", "mediation")


def load(results: AnyResults) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Differences in accuracy from no edit; changes of the share of each kind of first error."""
    folder = FOLDERS[0] if (results / FOLDERS[0]).is_dir() else FOLDERS[1]
    accuracy = read(results, folder, "injection_accuracy")
    kinds = read(results, folder, "injection_kinds")
    accuracy, kinds = (
        table.assign(name=table["condition"].map(CONDITIONS)) for table in (accuracy, kinds)
    )
    return accuracy, kinds[kinds["state"].isin(KINDS)]


def draw(accuracy: pd.DataFrame, kinds: pd.DataFrame) -> Figure:
    """Accuracy, then each kind of first error, on one scale; conditions are the rows."""
    order = [name for name in CONDITIONS.values() if (accuracy["name"] == name).any()]
    panels = {"Accuracy": accuracy} | {
        label(kind).capitalize(): kinds[kinds["state"] == kind]
        for kind in KINDS
        if (kinds["state"] == kind).any()
    }
    n_rows = math.ceil(len(panels) / N_COLUMNS)
    with style():
        figure = new_figure(PAGE, 0.4 + n_rows * (0.62 + 0.15 * len(order)))
        axes = figure.subplots(n_rows, N_COLUMNS, squeeze=False, sharey=True).flatten()
        for ax in axes[2 : len(panels)]:
            ax.sharex(axes[1])
        for ax, (title, table) in zip(axes, panels.items(), strict=False):
            xlabel = "accuracy − no edit" if table is accuracy else "share − no edit"
            marked = table.assign(keys=[_keys(name) for name in table["name"]])
            dots(
                ax,
                marked,
                names="name",
                hue="keys",
                order=order,
                hues=KEYS,
                reference=0.0,
                xlabel=xlabel,
            )
            ax.set_title(title)
        for ax in axes[len(panels) :]:
            ax.set_axis_off()
        n = f"{accuracy['n'].max():,} problems"
        note_below(figure, f"{n}; shares: answers whose first error is of the kind; {INTERVALS}")
    return figure


def _keys(name: str) -> str:
    """Which keys hold the mass: colours and markers tell the placebos from what is planted."""
    return name.partition(", ")[0]


def make(results: AnyResults) -> tuple[Figure, pd.DataFrame]:
    """The figure and the rows that it shows."""
    accuracy, kinds = load(results)
    return draw(accuracy, kinds), pd.concat([accuracy, kinds], ignore_index=True)
