"""Curves over layers or strengths, with intervals as bands, and shaded layers behind them."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes

from step_saliency.plotting.style import BAND_COLOUR, NEUTRAL

Values = Sequence[float] | Sequence[int] | Float[np.ndarray, "place"]
"""One number for each place along x."""


def curve(
    ax: Axes,
    x: Values,
    values: Values,
    *,
    colour: str,
    interval: tuple[Values, Values] | None = None,
    name: str | None = None,
    marker: str = "o",
    linestyle: str = "-",
) -> None:
    """Values over ``x`` as a line.

    Args:
        ax: Where to draw.
        x: Places, in order.
        values: Value at each.
        colour: Of line and band.
        interval: Lower and upper ends, drawn as a band.
        name: Name in the legend.
        marker: At each value.
        linestyle: Of the line.
    """
    ax.plot(x, values, color=colour, marker=marker, linestyle=linestyle, label=name)
    if interval is not None:
        lower, upper = (np.asarray(end, dtype=float) for end in interval)
        ax.fill_between(np.asarray(x, float), lower, upper, color=colour, alpha=0.18, linewidth=0)


def shade_bands(
    ax: Axes, bands: Iterable[tuple[str, Iterable[int]]], *, above: bool = False
) -> None:
    """Shade layers.

    Args:
        ax: Axes with layers along x.
        bands: Layers by name; neighbours are shaded as one.
        above: Write the names above the axes; inside, at the foot, otherwise.
    """
    y, offset, size = (1.0, 1, 6.5) if above else (0.01, 0, 7.0)
    for name, layers in bands:
        for first, last in _runs(layers):
            ax.axvspan(first - 0.5, last + 0.5, color=BAND_COLOUR, zorder=0, linewidth=0)
            ax.annotate(
                name,
                ((first + last) / 2, y),
                xycoords=("data", "axes fraction"),
                xytext=(0, offset),
                textcoords="offset points",
                ha="center",
                va="bottom",
                fontsize=size,
                color=NEUTRAL,
            )


def _runs(layers: Iterable[int]) -> Iterator[tuple[int, int]]:
    """First and last layer of each run of neighbours."""
    ordered = sorted(layers)
    starts = [layer for layer in ordered if layer - 1 not in ordered]
    stops = [layer for layer in ordered if layer + 1 not in ordered]
    return zip(starts, stops, strict=True)
