"""Legends and colour bars, placed for print."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from figures.style import NEUTRAL, PRINT
from step_saliency.plotting import step_maps

INTERVALS = "bars and bands: 95% intervals over problems, each by itself"
RANDOM_KEYS = f"random keys: dose not matched; {INTERVALS}"
"""Where the only placebos without the dose of what they stand for are keys at random."""


def legend_below(
    figure: Figure, axes: Iterable[Axes], *, ncols: int, note: str = INTERVALS
) -> None:
    """One legend of everything that is labelled in the axes, under them.

    Args:
        figure: Of the axes.
        axes: Whose labels are taken.
        ncols: Columns of the legend.
        note: Written above it: what intervals are.
    """
    entries: dict[str, Any] = {}
    for ax in axes:
        handles, names = ax.get_legend_handles_labels()
        entries |= dict(zip(names, handles, strict=True))
    _below(figure, entries, note, ncols=ncols)


def note_below(figure: Figure, note: str = INTERVALS) -> None:
    """A note under a figure without a legend: what intervals, or marks, are."""
    _below(figure, {}, note, ncols=1)


def _below(figure: Figure, entries: Mapping[str, Any], note: str, *, ncols: int) -> None:
    legend = figure.legend(
        list(entries.values()),
        list(entries),
        loc="outside lower center",
        ncols=ncols,
        columnspacing=1.2,
        title=note or None,
        title_fontproperties={"size": 6.5, "weight": "normal"},
    )
    legend.get_title().set_color(NEUTRAL)


def colour_bar(image: AxesImage, axes: Sequence[Axes], text: str) -> None:
    """Colour bar beside the axes, with what it means and the unit."""
    bar = step_maps.colour_bar(image, list(axes), text, look=PRINT)
    bar.ax.tick_params(length=2, width=0.5)
