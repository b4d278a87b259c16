"""Every head steered alone: what it does at the error and to the gold solution, by layer and head.

Results: `analyses.head_steering`. Dots mark effects with p < 0.05 after Holm's correction over the
heads. A rise of the margin counts only where the loss of the gold solution does not rise with it.
"""

import pandas as pd
from matplotlib.colors import Normalize, SymLogNorm
from matplotlib.figure import Figure

from figures.parts import colour_bar, layer_grid, mark_cells, note_below
from figures.results import AnyResults, read
from figures.style import PAGE, new_figure, style

NAME = "head_steering"
WAYS = {
    "ablated": "Output set to 0",
    "oeb": "OEB",
    "redirected": "Sent to the question",
    "projected": "Previous step out",
}
OUTCOMES = {"margin": "margin − no edit\n(nats)", "loss": "gold loss − no edit\n(nats per token)"}
LEVEL = 0.05
LINEAR = 1e-2
"""Size of losses, in nats per token, up to which their colours are linear."""


def load(results: AnyResults) -> pd.DataFrame:
    """Effects of single heads."""
    table = read(results, "head_steering")
    return table[table["outcome"].isin(OUTCOMES) & table["way"].isin(WAYS)]


def draw(table: pd.DataFrame) -> Figure:
    """A row per outcome on one colour scale, a column per way of steering."""
    ways = [way for way in WAYS if (table["way"] == way).any()]
    with style():
        figure = new_figure(PAGE, 3.5)
        axes = figure.subplots(2, len(ways), squeeze=False, sharex=True, sharey=True)
        for row, (outcome, unit) in zip(axes, OUTCOMES.items(), strict=True):
            of_outcome = table[table["outcome"] == outcome]
            norm = _norm(of_outcome, outcome)
            for ax, way in zip(row, ways, strict=True):
                of_way = of_outcome[of_outcome["way"] == way]
                image = layer_grid(ax, of_way, columns="head", norm=norm)
                mark_cells(ax, of_way, of_way["p_holm"] < LEVEL, columns="head")
                if outcome == "margin":
                    ax.set_title(WAYS[way])
            n = of_outcome["n"].max()
            colour_bar(image, list(row), f"{unit}, n = {n:,}")
        for ax in axes.flat:
            ax.label_outer()
        note_below(figure, f"dots: p < {LEVEL} after Holm's correction over the heads of a panel")
    return figure


def _norm(table: pd.DataFrame, outcome: str) -> Normalize:
    """Colours about zero; of losses, which differ by orders of magnitude, logarithmic."""
    most = float(table["estimate"].abs().max())
    if outcome == "margin" or most <= LINEAR:
        return Normalize(-most, most)
    return SymLogNorm(LINEAR, vmin=-most, vmax=most)


def make(results: AnyResults) -> tuple[Figure, pd.DataFrame]:
    """The figure and the rows that it shows."""
    table = load(results)
    return draw(table), table
