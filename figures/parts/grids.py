"""Heat maps of layers by steps, heads or anything else."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.image import AxesImage

from figures.style import label


def layer_grid(
    ax: Axes,
    table: pd.DataFrame,
    *,
    columns: str,
    value: str = "estimate",
    diverging: bool = True,
    norm: Normalize | None = None,
    colour_map: str | None = None,
) -> AxesImage:
    """A heat map of layers (rows, layer 0 at the bottom) by steps, heads or anything else.

    Args:
        ax: Where to draw.
        table: Columns ``layer``, ``columns`` and ``value``, one row a cell.
        columns: Column across, such as ``head`` or ``step``.
        value: Column of the values.
        diverging: Colours about zero; otherwise from the smallest value.
        norm: Colour scale; by default linear, to the largest value.
        colour_map: Name of another colour map.
    """
    wide = table.pivot(index="layer", columns=columns, values=value).sort_index()
    values = np.ma.masked_invalid(wide.to_numpy(float))
    most = float(np.abs(values).max()) if values.count() else 1.0
    if norm is None:
        norm = Normalize(-most, most) if diverging else Normalize(float(values.min()), most)
    image = ax.imshow(
        values,
        cmap=colour_map or ("RdBu_r" if diverging else "viridis"),
        norm=norm,
        aspect="auto",
        origin="lower",
        interpolation="nearest",
    )
    _thin_ticks(ax.set_xticks, [str(name) for name in wide.columns])
    _thin_ticks(ax.set_yticks, [str(name) for name in wide.index])
    ax.set(xlabel=label(columns), ylabel="layer")
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return image


def _thin_ticks(set_ticks: Callable[..., Any], names: Sequence[str], most: int = 16) -> None:
    stride = -(-len(names) // most)
    set_ticks(range(0, len(names), stride), names[::stride])


def mark_cells(ax: Axes, table: pd.DataFrame, is_marked: pd.Series, *, columns: str) -> None:
    """A dot in some cells of a `layer_grid` of the table."""
    layers, names = (sorted(table[name].unique()) for name in ("layer", columns))
    marked = table[is_marked]
    ax.scatter(
        [names.index(name) for name in marked[columns]],
        [layers.index(layer) for layer in marked["layer"]],
        s=5,
        c="white",
        edgecolors="black",
        linewidths=0.5,
    )
