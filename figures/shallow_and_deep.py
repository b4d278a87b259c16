"""Step maps of the shallow and the deep layers, correct and error trace, with arcs under them.

The paper's Figure 2. Results: `analyses.example_traces`.
"""

import pandas as pd
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec

from figures.parts import arcs, colour_bar, step_grid
from figures.results import AnyResults, read
from figures.style import CORRECT_COLOUR, ERROR_COLOUR, PAGE, new_figure, style
from step_saliency.plotting.regions import region_legend

NAME = "shallow_and_deep"


def load(results: AnyResults) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Steps, and row shares of the bands."""
    return read(results, "example_traces", "steps"), read(results, "example_traces", "band_shares")


def draw(steps: pd.DataFrame, shares: pd.DataFrame) -> Figure:
    """Four maps side by side, each over an arc diagram of its largest shares."""
    with style():
        figure = new_figure(PAGE, 3.0)
        grid = GridSpec(2, 4, figure=figure, height_ratios=(3.4, 1))
        norm = PowerNorm(0.5, 0, 1)
        between = shares[shares["query"] != shares["key"]]
        widest = float(between["share"].max())
        maps = []
        panels = [(band, correct) for band in ("shallow", "deep") for correct in (True, False)]
        for column, (band, correct) in enumerate(panels):
            of_panel = shares[(shares["band"] == band) & (shares["is_correct"] == correct)]
            regions = list(steps.loc[steps["is_correct"] == correct, "region"])
            ax, below = figure.add_subplot(grid[0, column]), figure.add_subplot(grid[1, column])
            image = step_grid(ax, of_panel, regions, norm, value="share")
            ax.set_title(f"{band.capitalize()}, {'correct' if correct else 'error'}")
            ax.set_xlabel("key step")
            if column == 0:
                ax.set_ylabel("query step")
            colour = CORRECT_COLOUR if correct else ERROR_COLOUR
            arcs(below, of_panel, regions, colour=colour, widest=widest)
            maps.append(ax)
        colour_bar(image, maps, "share of the row")
        region_legend(figure, set(steps["region"]), loc="outside lower center", ncols=4)
    return figure


def make(results: AnyResults) -> tuple[Figure, pd.DataFrame]:
    """The figure and the rows that it shows."""
    steps, shares = load(results)
    return draw(steps, shares), shares
