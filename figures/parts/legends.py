"""Legends and colour bars, placed for print."""

from collections.abc import Iterable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from figures.style import PRINT
from step_saliency.plotting import step_maps


def legend_below(figure: Figure, axes: Iterable[Axes], *, ncols: int) -> None:
    """One legend of everything that is labelled in the axes, under them."""
    entries: dict[str, Any] = {}
    for ax in axes:
        handles, names = ax.get_legend_handles_labels()
        entries |= dict(zip(names, handles, strict=True))
    figure.legend(
        list(entries.values()),
        list(entries),
        loc="outside lower center",
        ncols=ncols,
        columnspacing=1.2,
    )


def colour_bar(image: AxesImage, axes: Sequence[Axes], text: str) -> None:
    """Colour bar beside the axes, with what it means and the unit."""
    bar = step_maps.colour_bar(image, list(axes), text, look=PRINT)
    bar.ax.tick_params(length=2, width=0.5)
