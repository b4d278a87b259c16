"""A row of panels of dots, one for each value of a column, over one legend."""

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.parts.dots import dots
from figures.parts.legends import legend_below
from figures.parts.numbers import counted


def panels(
    figure: Figure,
    table: pd.DataFrame,
    titles: Mapping[str, str],
    *,
    by: str,
    names: str,
    hue: str,
    order: Sequence[str],
    hues: Sequence[str],
    xlabel: str,
    ncols: int,
    sharex: bool = False,
) -> list[Axes]:
    """Panels side by side with the same rows; a line stands at 0.

    Args:
        figure: An empty figure.
        table: Columns ``by``, ``names``, ``hue`` and ``estimate, lower, upper, n``.
        titles: Titles by value of ``by``, from the left; a value that the table lacks has no panel.
        by: Column that tells the panels apart.
        names: Column that the rows are.
        hue: Column that tells the dots of a row apart.
        order: Rows from the top.
        hues: Values of ``hue`` in the order of their colours.
        xlabel: What the estimates are, with their unit; the numbers of problems are added.
        ncols: Columns of the legend.
        sharex: Whether all panels have one scale.

    Returns:
        The panels.
    """
    shown = [value for value in titles if (table[by] == value).any()]
    axes = figure.subplots(1, len(shown), squeeze=False, sharey=True, sharex=sharex)[0]
    for ax, value in zip(axes, shown, strict=True):
        of_panel = table[table[by] == value]
        dots(
            ax,
            of_panel,
            names=names,
            hue=hue,
            order=order,
            hues=hues,
            reference=0.0,
            xlabel=f"{xlabel} ({counted(of_panel)})",
        )
        ax.set_title(titles[value])
    legend_below(figure, axes, ncols=ncols)
    return list(axes)
