"""Lock-in that is planted: accuracy, and the first errors that appear, against random keys.

Results: `analyses.mediation.injection`, in a folder of its own (``mediation_injection``) or, where
there is none, as the part ``injection`` of `analyses.mediation`.
"""

import pandas as pd
from matplotlib.figure import Figure

from figures.error_kinds import KINDS
from figures.parts import dots, legend_below
from figures.results import AnyResults, read
from figures.style import PAGE, new_figure, style

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
    """Accuracy on the left, kinds of error on the right; conditions keep colour and marker."""
    hues = [name for name in CONDITIONS.values() if (accuracy["name"] == name).any()]
    with style():
        figure = new_figure(PAGE, 1.0 + 0.55 * len(hues))
        left, right = figure.subplots(1, 2, width_ratios=(1, 1.5))
        n = accuracy["n"].max()
        dots(
            left,
            accuracy.assign(outcome=""),
            names="outcome",
            hue="name",
            hues=hues,
            reference=0.0,
            xlabel=f"accuracy − no edit ({n:,} problems)",
        )
        left.set(title="Accuracy", yticks=[])
        dots(
            right,
            kinds,
            names="state",
            hue="name",
            order=KINDS,
            hues=hues,
            reference=0.0,
            xlabel="share of answers with this first error − no edit",
        )
        right.set_title("First errors")
        legend_below(figure, [right], ncols=3)
    return figure


def make(results: AnyResults) -> tuple[Figure, pd.DataFrame]:
    """The figure and the rows that it shows."""
    accuracy, kinds = load(results)
    return draw(accuracy, kinds), pd.concat([accuracy, kinds], ignore_index=True)
