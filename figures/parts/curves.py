"""Curves over layers or strengths, and bands of layers, from tables."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from step_saliency.plotting import curves


def curve(
    ax: Axes,
    table: pd.DataFrame,
    *,
    x: str,
    colour: str,
    name: str | None = None,
    marker: str = "o",
    linestyle: str = "-",
) -> None:
    """Estimates over ``x`` as a line, with the interval as a band."""
    ordered = table.sort_values(x)
    ends = [ordered[name].to_numpy(float) for name in ("lower", "upper") if name in ordered]
    curves.curve(
        ax,
        ordered[x].to_numpy(float),
        ordered["estimate"].to_numpy(float),
        interval=(ends[0], ends[1]) if len(ends) == 2 else None,
        colour=colour,
        name=name,
        marker=marker,
        linestyle=linestyle,
    )


def shade_bands(ax: Axes, bands: pd.DataFrame) -> None:
    """Shade the shallow and the deep layers; columns ``layer, band``."""
    spans = [
        (name, set(bands.loc[bands["band"] == name, "layer"].dropna().astype(int)))
        for name in ("shallow", "deep")
    ]
    curves.shade_bands(ax, spans, above=True)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
