"""Recovery when one head's output is patched in, by layer and head.

Results: `analyses.patching`.
"""

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from figures.parts import colour_bar, layer_grid
from figures.results import MissingResultsError, read
from figures.style import COLUMN, new_figure, style

NAME = "patching_heads"


def load(results: Path) -> pd.DataFrame:
    """Denoising of single heads at the step that the prediction is read from."""
    table = read(results, "patching")
    chosen = table[(table["site"] == "z") & (table["direction"] == "denoising")]
    chosen = chosen[(chosen["role"] == "read") & chosen["head"].notna()]
    if chosen.empty:
        raise MissingResultsError("results/patching has no denoising of single heads")
    return chosen


def draw(table: pd.DataFrame) -> Figure:
    """A panel per kind of pair, on one colour scale."""
    kinds = list(dict.fromkeys(table["kind"]))
    most = float(table["estimate"].abs().max())
    with style():
        figure = new_figure(COLUMN, 2.0)
        axes = figure.subplots(1, len(kinds), squeeze=False, sharey=True)[0]
        for ax, kind in zip(axes, kinds, strict=True):
            image = layer_grid(ax, table[table["kind"] == kind], columns="head")
            image.set_clim(-most, most)
            ax.set_title(kind)
        colour_bar(image, axes, "recovery")
    return figure


def make(results: Path) -> tuple[Figure, pd.DataFrame]:
    """The figure and the rows that it shows."""
    table = load(results)
    return draw(table), table
