"""Recovery when one head's output is patched in, by layer and head.

Results: `analyses.patching`, of every model that it was run on.
"""

import pandas as pd
from matplotlib.figure import Figure

from figures.parts import colour_bar, layer_grid
from figures.results import AnyResults, MissingResultsError, read_all
from figures.style import COLUMN, PAGE, new_figure, style

NAME = "patching_heads"


def load(results: AnyResults) -> pd.DataFrame:
    """Denoising of single heads at the step that the prediction is read from."""
    table = read_all(results, "patching", ("smollm2",))
    rows = table[(table["site"] == "z") & (table["direction"] == "denoising")]
    rows = rows[(rows["role"] == "read") & rows["head"].notna()]
    if rows.empty:
        raise MissingResultsError("results/patching has no denoising of single heads")
    return rows


def draw(table: pd.DataFrame) -> Figure:
    """A panel per model and kind of pair, on one colour scale."""
    panels = list(dict.fromkeys(zip(table["setting"], table["kind"], strict=True)))
    most = float(table["estimate"].abs().max())
    with style():
        figure = new_figure(COLUMN if len(panels) == 1 else PAGE, 2.4)
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
        for ax, (setting, kind) in zip(axes, panels, strict=True):
            of_panel = table[(table["setting"] == setting) & (table["kind"] == kind)]
            image = layer_grid(ax, of_panel, columns="head")
            image.set_clim(-most, most)
            ax.set_title(
                f"{setting.replace(', ', chr(10))}\n{kind} ({of_panel['n'].max():,} pairs)"
            )
        colour_bar(image, axes, "recovery, read step")
    return figure


def make(results: AnyResults) -> tuple[Figure, pd.DataFrame]:
    """The figure and the rows that it shows."""
    table = load(results)
    return draw(table), table
