"""Recovery when the activations of a step are patched in, by layer and step.

Results: `analyses.patching`.
"""

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from figures.parts import colour_bar, layer_grid
from figures.results import MissingResultsError, read
from figures.style import COLUMN, new_figure, style

NAME = "patching"
ROLES = {
    "before": "before",
    "source": "source",
    "between_question": "later\npremises",
    "between_thinking": "steps\nbetween",
    "read": "read",
}


def load(results: Path) -> pd.DataFrame:
    """Denoising of the residual stream, by kind of pair, layer and role of the step."""
    table = read(results, "patching")
    chosen = table[(table["site"] == "resid_post") & (table["direction"] == "denoising")]
    chosen = chosen[chosen["role"].isin(ROLES) & chosen["layer"].notna()]
    if chosen.empty:
        raise MissingResultsError("results/patching has no denoising of resid_post")
    return chosen


def draw(table: pd.DataFrame) -> Figure:
    """A panel per kind of pair, on one colour scale."""
    kinds = list(dict.fromkeys(table["kind"]))
    with style():
        figure = new_figure(COLUMN, 0.6 + 1.6 * len(kinds))
        axes = figure.subplots(len(kinds), 1, squeeze=False)[:, 0]
        for ax, kind in zip(axes, kinds, strict=True):
            chosen = table[table["kind"] == kind]
            shown = [role for role in ROLES if (chosen["role"] == role).any()]
            places = chosen.assign(step=[shown.index(role) for role in chosen["role"]])
            image = layer_grid(ax, places, columns="step")
            image.set_clim(-1, 1)
            ax.set_xticks(range(len(shown)), [ROLES[role] for role in shown])
            ax.set(title=f"{kind} ({chosen['n'].max()} pairs)", xlabel="step that is patched")
        colour_bar(image, list(axes), "recovery of the logit difference")
    return figure


def make(results: Path) -> tuple[Figure, pd.DataFrame]:
    """The figure and the rows that it shows."""
    table = load(results)
    return draw(table), table
