"""Estimates as dots with their intervals, one row a name."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from figures.style import CYCLE, GRID_COLOUR, MARKERS, NEUTRAL, label


def dots(
    ax: Axes,
    table: pd.DataFrame,
    *,
    names: str,
    hue: str | None = None,
    order: Sequence[str] | None = None,
    hues: Sequence[str] | None = None,
    reference: float | None = None,
    xlabel: str = "",
) -> None:
    """Estimates as dots with their intervals, one row a name, colours and markers by ``hue``.

    Args:
        ax: Where to draw.
        table: Columns ``names``, ``hue`` and ``estimate, lower, upper``.
        names: Column that the rows are.
        hue: Column that tells the dots of a row apart.
        order: Rows from the top; by default as they first appear.
        hues: Values of ``hue``, which take the colours and markers in turn, hollow ones once these
            are used up; by default as they first appear.
        reference: Value at which a line is drawn, such as chance.
        xlabel: What the estimates are, with their unit.
    """
    rows = list(order) if order is not None else list(dict.fromkeys(table[names]))
    groups = list(hues or dict.fromkeys(table[hue])) if hue else [None]
    places = _places(table, rows, groups, names, hue)
    for number, group in enumerate(groups):
        of_group = table if group is None else table[table[hue] == group]
        of_group = of_group[of_group[names].isin(rows)]
        if of_group.empty:
            continue
        y = [places[name, group] for name in of_group[names]]
        ax.errorbar(
            of_group["estimate"],
            y,
            xerr=_interval(of_group),
            fmt=MARKERS[number % len(MARKERS)],
            color=CYCLE[number % len(CYCLE)],
            markerfacecolor="white" if number >= len(CYCLE) else None,
            elinewidth=1.1,
            capsize=0,
            label=None if group is None else label(str(group)),
        )
    if reference is not None:
        ax.axvline(reference, color=NEUTRAL, linestyle=":", linewidth=0.9, zorder=0)
    ax.set_yticks(range(len(rows)), [label(str(name)) for name in rows])
    ax.set(xlabel=xlabel, ylim=(len(rows) - 0.5, -0.5))
    ax.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x", color=GRID_COLOUR, linewidth=0.5)
    ax.set_axisbelow(True)


def _places(
    table: pd.DataFrame,
    rows: Sequence[str],
    groups: Sequence[str | None],
    names: str,
    hue: str | None,
) -> dict[tuple[str, str | None], float]:
    """Height of each dot: those of a row stand evenly about its middle."""
    distance = 0.48 / max(len(groups) - 1, 1) if len(groups) < 4 else 0.68 / (len(groups) - 1)
    places: dict[tuple[str, str | None], float] = {}
    for number, name in enumerate(rows):
        of_row = table[table[names] == name]
        present = [g for g in groups if g is None or (of_row[hue] == g).any()]
        middle = (len(present) - 1) / 2
        places |= {(name, g): number + distance * (i - middle) for i, g in enumerate(present)}
    return places


def _interval(table: pd.DataFrame) -> Any:
    if not {"lower", "upper"} <= set(table.columns) or table["lower"].isna().all():
        return None
    below = (table["estimate"] - table["lower"]).clip(lower=0)
    above = (table["upper"] - table["estimate"]).clip(lower=0)
    return np.stack([below.fillna(0), above.fillna(0)])
