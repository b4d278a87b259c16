"""Parts that figures are made of: dots with intervals, curves with bands, maps, arcs, tables.

Every part draws into axes that it is given, from a table with the columns it names. Where a table
has ``estimate, lower, upper``, the interval is drawn as it stands; where they are missing, none is.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Patch
from matplotlib.path import Path as Outline
from matplotlib.ticker import MaxNLocator

from figures.style import (
    BAND_COLOUR,
    BORDER_COLOUR,
    COLUMN,
    CYCLE,
    EMPTY_COLOUR,
    MAP_COLOURS,
    MARKERS,
    NEUTRAL,
    REGION_COLOURS,
    label,
    new_figure,
)
from step_saliency.trace import Region


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
        hues: Values of ``hue``, which take the colours and markers in turn; by default as they
            first appear.
        reference: Value at which a line is drawn, such as chance.
        xlabel: What the estimates are, with their unit.
    """
    rows = list(order) if order is not None else list(dict.fromkeys(table[names]))
    groups = list(hues or dict.fromkeys(table[hue])) if hue else [None]
    places = _places(table, rows, groups, names, hue)
    for number, group in enumerate(groups):
        chosen = table if group is None else table[table[hue] == group]
        chosen = chosen[chosen[names].isin(rows)]
        if chosen.empty:
            continue
        y = [places[name, group] for name in chosen[names]]
        interval = _interval(chosen)
        ax.errorbar(
            chosen["estimate"],
            y,
            xerr=interval,
            fmt=MARKERS[number % len(MARKERS)],
            color=CYCLE[number % len(CYCLE)],
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
    ax.grid(axis="x", color="#e5e5e5", linewidth=0.5)
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
        found = [g for g in groups if g is None or (of_row[hue] == g).any()]
        middle = (len(found) - 1) / 2
        places |= {(name, g): number + distance * (i - middle) for i, g in enumerate(found)}
    return places


def _interval(table: pd.DataFrame) -> Any:
    if not {"lower", "upper"} <= set(table.columns) or table["lower"].isna().all():
        return None
    below = (table["estimate"] - table["lower"]).clip(lower=0)
    above = (table["upper"] - table["estimate"]).clip(lower=0)
    return np.stack([below.fillna(0), above.fillna(0)])


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
    at = ordered[x].to_numpy(float)
    ax.plot(at, ordered["estimate"], color=colour, marker=marker, linestyle=linestyle, label=name)
    if {"lower", "upper"} <= set(ordered.columns):
        ax.fill_between(
            at,
            ordered["lower"].to_numpy(float),
            ordered["upper"].to_numpy(float),
            color=colour,
            alpha=0.18,
            linewidth=0,
        )


def shade_bands(ax: Axes, bands: pd.DataFrame) -> None:
    """Shade the shallow and the deep layers; columns ``layer, band``."""
    for name in ("shallow", "deep"):
        layers = bands.loc[bands["band"] == name, "layer"].dropna().astype(int)
        if layers.empty:
            continue
        first, last = layers.min(), layers.max()
        ax.axvspan(first - 0.5, last + 0.5, color=BAND_COLOUR, zorder=0, linewidth=0)
        ax.annotate(
            name,
            ((first + last) / 2, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(0, 1),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=6.5,
            color=NEUTRAL,
        )
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))


def step_grid(
    ax: Axes,
    values: np.ndarray,
    regions: Sequence[str],
    norm: Normalize,
    *,
    every: int | None = None,
) -> AxesImage:
    """A square map of steps or tokens: rows are queries, regions are strips along two sides.

    Args:
        ax: Where to draw.
        values: Square array; NaN stays grey.
        regions: Region of each row.
        norm: Colour scale.
        every: Distance of the ticks; a round one by default.
    """
    n = len(values)
    ax.set_facecolor(EMPTY_COLOUR)
    shown = np.ma.masked_invalid(values)
    if isinstance(norm, LogNorm):
        shown = np.ma.masked_less_equal(shown, 0)
    image = ax.imshow(shown, cmap=MAP_COLOURS, norm=norm, interpolation="nearest")
    strip, start = 0.03 * n, 0
    for region, members in groupby(regions):
        stop = start + len(list(members))
        colour = REGION_COLOURS[Region(region)]
        for span, low in (((start, stop), None), (None, (start, stop))):
            y = span or (n + 0.2 * strip, n + 1.2 * strip)
            x = low or (-1.2 * strip, -0.2 * strip)
            ax.fill_between(np.array(x) - 0.5, y[0] - 0.5, y[1] - 0.5, color=colour, linewidth=0)
        if start:
            corner = ([-0.5, start - 0.5, start - 0.5], [start - 0.5, start - 0.5, n - 0.5])
            ax.plot(*corner, color=BORDER_COLOUR, linewidth=0.5, marker="")
        start = stop
    ax.set(xlim=(-0.5 - 1.2 * strip, n - 0.5), ylim=(n - 0.5 + 1.2 * strip, -0.5))
    stride = every or next(s for s in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if n / s <= 6)
    ticks = list(range(0, n, stride))
    ax.set_xticks(ticks, [str(tick) for tick in ticks])
    ax.set_yticks(ticks, [str(tick) for tick in ticks])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return image


def log_norm(values: np.ndarray, *, decades: float = 5) -> Normalize:
    """Log colour scale from the 2nd percentile of the positive values to the largest."""
    positive = values[np.isfinite(values) & (values > 0)]
    if not len(positive):
        return Normalize(0, 1)
    top = float(positive.max())
    low = max(float(np.percentile(positive, 2)), top / 10**decades)
    return LogNorm(min(low, top / 1.01), top)


def square(table: pd.DataFrame, *, value: str = "saliency") -> np.ndarray:
    """Long table with columns ``query, key`` and a value as a square array, NaN where missing."""
    n = int(table[["query", "key"]].to_numpy().max()) + 1
    values = np.full((n, n), np.nan)
    values[table["query"], table["key"]] = table[value]
    return values


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


def mark_cells(ax: Axes, table: pd.DataFrame, chosen: pd.Series, *, columns: str) -> None:
    """A dot in the chosen cells of a `layer_grid` of the table."""
    layers, names = (sorted(table[name].unique()) for name in ("layer", columns))
    marked = table[chosen]
    ax.scatter(
        [names.index(name) for name in marked[columns]],
        [layers.index(layer) for layer in marked["layer"]],
        s=5,
        c="white",
        edgecolors="black",
        linewidths=0.5,
    )


def legend_below(figure: Figure, axes: Iterable[Axes], *, ncols: int) -> None:
    """One legend of everything that is labelled in the axes, under them."""
    found: dict[str, Any] = {}
    for ax in axes:
        handles, names = ax.get_legend_handles_labels()
        found |= dict(zip(names, handles, strict=True))
    figure.legend(
        list(found.values()),
        list(found),
        loc="outside lower center",
        ncols=ncols,
        columnspacing=1.2,
    )


def colour_bar(image: AxesImage, axes: Sequence[Axes], text: str) -> None:
    """Colour bar beside the axes, with what it means and the unit."""
    bar = axes[0].figure.colorbar(image, ax=list(axes), fraction=0.05, pad=0.02, aspect=28)
    bar.set_label(text)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=2, width=0.5)


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
    keys, queries, shares = between[["key", "query", "share"]].to_numpy(float).T
    ends = list(zip(keys, queries, strict=True))
    moves = [Outline.MOVETO, Outline.CURVE4, Outline.CURVE4, Outline.CURVE4]
    paths = [Outline([(a, 0), (a, b - a), (b, b - a), (b, 0)], moves) for a, b in ends]
    ax.add_collection(
        PathCollection(
            paths,
            facecolors="none",
            edgecolors=colour,
            alpha=0.75,
            linewidths=0.3 + 3.2 * shares / widest,
        ),
        autolim=False,
    )
    colours = [REGION_COLOURS[Region(region)] for region in regions]
    ax.scatter(range(len(regions)), [0] * len(regions), c=colours, s=9, zorder=3)
    tallest = float((queries - keys).max(initial=1))
    ax.set(xlim=(-0.8, len(regions) - 0.2), ylim=(-0.08 * tallest, 0.8 * tallest))
    ax.set_axis_off()


def region_legend(target: Axes | Figure, regions: Sequence[str], **options: Any) -> None:
    """Legend of the regions' colours."""
    shown = [region for region in Region if region.value in set(regions)]
    handles = [Patch(color=REGION_COLOURS[region], label=region.value) for region in shown]
    target.legend(handles=handles, handlelength=0.8, handleheight=0.8, **options)


def table_figure(
    table: pd.DataFrame,
    *,
    title: str,
    columns: Mapping[str, str | Callable[[pd.Series], str]],
    width: float = COLUMN,
    rules: Sequence[int] = (),
    note: str = "",
) -> Figure:
    """A table as a figure: one line a row, rules above, below the head and at the end.

    Args:
        table: Rows.
        title: Heading.
        columns: Text of each column, by heading: a column's name, or a function of the row. The
            first is set left, the others right.
        width: In inches.
        rules: Rows before which a thin rule stands.
        note: Written under the table.
    """
    cells = [
        [str(row[told]) if isinstance(told, str) else told(row) for told in columns.values()]
        for _, row in table.iterrows()
    ]
    lines = [list(columns), *cells]
    widths = np.array([max(len(line[i]) for line in lines) + 1.5 for i in range(len(columns))])
    ends = np.cumsum(widths) / widths.sum()
    n_notes = note.count("\n") + 1 if note else 0
    figure = new_figure(width, 0.16 * (len(lines) + 2.2 + n_notes))
    ax = figure.subplots()
    ax.set(xlim=(0, 1), ylim=(len(lines) + 0.2 + n_notes, -0.2), title=title)
    ax.set_axis_off()
    size = min(7.0, 7.0 * width * 17.5 / max(widths.sum(), 1))
    for y, line in enumerate(lines):
        for number, (end, text) in enumerate(zip(ends, line, strict=True)):
            weight = "bold" if y == 0 else "normal"
            ax.text(
                0 if number == 0 else end,
                y + 0.5,
                text,
                va="center",
                ha="left" if number == 0 else "right",
                fontsize=size,
                fontweight=weight,
            )
    heavy = {0: 0.9, 1: 0.5, len(lines): 0.9}
    for y, thickness in ({row + 1: 0.3 for row in rules} | heavy).items():
        ax.axhline(y, color=BORDER_COLOUR, linewidth=thickness)
    if note:
        told = ax.text(0, len(lines) + 0.3, note, va="top", fontsize=6.5, color=NEUTRAL)
        told.set_in_layout(False)
    return figure


def number(value: float, digits: int = 3, *, signed: bool = False) -> str:
    """A number with a minus sign that is one; a dash where it is missing."""
    if pd.isna(value):
        return "–"
    text = f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"
    if float(text) == 0:
        text = text.lstrip("+-")
    return text.replace("-", "−")


def p_value(value: float) -> str:
    """A p-value: three digits, or that it is smaller; a dash where nothing was tested."""
    if pd.isna(value):
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def with_interval(
    digits: int = 3, *, signed: bool = False, prefix: str = ""
) -> Callable[[pd.Series], str]:
    """Writes ``estimate [lower, upper]`` of a row, of columns that begin with a prefix."""

    def told(row: pd.Series) -> str:
        names = (f"{prefix}{name}" for name in ("estimate", "lower", "upper"))
        value, lower, upper = (
            number(row.get(name, math.nan), digits, signed=signed) for name in names
        )
        return value if lower == "–" else f"{value} [{lower}, {upper}]"

    return told
