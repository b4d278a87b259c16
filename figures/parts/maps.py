"""Maps and arc diagrams of a trace, from long tables with columns ``query, key`` and a value."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.image import AxesImage

from figures.style import PRINT
from step_saliency.plotting import arcs as arc_diagrams
from step_saliency.plotting.grid import Grid
from step_saliency.plotting.step_maps import colour_norm, draw_map


def step_grid(
    ax: Axes,
    table: pd.DataFrame,
    regions: Sequence[str],
    norm: Normalize,
    *,
    value: str = "saliency",
) -> AxesImage:
    """A square map of steps or tokens: rows are queries, regions are strips along two sides.

    Args:
        ax: Where to draw.
        table: Columns ``query, key`` and ``value``; what is missing stays grey.
        regions: Region of each row.
        norm: Colour scale.
        value: Column of the values.
    """
    values = np.ma.masked_invalid(_square(table, value))
    return draw_map(ax, values, Grid.of_regions(regions), norm, look=PRINT)


def log_norm(values: pd.Series) -> Normalize:
    """Log colour scale from the 2nd percentile of the positive values to the largest."""
    return colour_norm(np.ma.masked_invalid(values.to_numpy(float)), log=True)


def arcs(
    ax: Axes,
    table: pd.DataFrame,
    regions: Sequence[str],
    *,
    colour: str,
    most: int = 14,
    widest: float = 1.0,
) -> None:
    """Arc diagram: steps on a line, arcs from key to query step, thicker where the share is larger.

    Args:
        ax: Where to draw.
        table: Columns ``query, key, share``: part of the query step's row. Steps on themselves are
            left out, and so are all but the ``most`` largest.
        regions: Region of each step.
        colour: Of the arcs.
        most: Number of arcs.
        widest: Share that is drawn widest; the same in panels that are compared.
    """
    between = table[table["query"] != table["key"]].nlargest(most, "share")
    queries, keys, shares = (between[name].to_numpy() for name in ("query", "key", "share"))
    arc_diagrams.arcs(ax, queries, keys, shares, regions, colour=colour, widest=widest)


def _square(table: pd.DataFrame, value: str) -> Float[np.ndarray, "step step"]:
    n = int(table[["query", "key"]].to_numpy().max()) + 1
    values = np.full((n, n), np.nan)
    values[table["query"], table["key"]] = table[value]
    return values
