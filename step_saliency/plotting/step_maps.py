"""Step maps as heat maps, from arrays.

Rows are query steps (what is being written), columns key steps (what is looked at); template steps
are left out unless asked for, and ticks keep the numbers that the steps have in the trace. Colours
are on a log scale by default, since entries span orders of magnitude; its low end is the 2nd
percentile of the positive entries, at most five decades below the top. Pairs that causality
forbids, and zeros on the log scale, stay grey.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from jaxtyping import Bool, Float, Int
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.transforms import offset_copy
from torch import Tensor

from step_saliency.plotting.style import (
    BORDER_COLOUR,
    EMPTY_COLOUR,
    MAP_COLOURS,
    REGION_COLOURS,
    new_figure,
    style,
)
from step_saliency.segment.regions import Region

_STRIP_WIDTH, _STRIP_GAP = 6.0, 6.0
_DECADES = 5.0
_STRIDES = (1, 2, 5, 10, 20, 25, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)


@dataclass(frozen=True)
class Grid:
    """Rows and columns of a picture.

    Attributes:
        numbers: Number of each row and column in the trace (step or position), the first of its
            block.
        regions: Region of each.
        block: Steps or positions in a cell.
    """

    numbers: Int[np.ndarray, "cell"]
    regions: tuple[Region, ...]
    block: int = 1

    @property
    def runs(self) -> list[tuple[Region, int, int]]:
        """Regions in order, with the first cell of each and the one after its last."""
        runs, start = [], 0
        for region, cells in groupby(self.regions):
            stop = start + len(list(cells))
            runs.append((region, start, stop))
            start = stop
        return runs

    @property
    def borders(self) -> list[int]:
        """Cells at which a new region begins."""
        return [start for _, start, _ in self.runs[1:]]

    def ticks(self, most: int = 12) -> dict[int, int]:
        """Round numbers to write on the axes, at most ``most``, by the cell that holds each."""
        if not len(self.numbers):
            return {}
        first, last = int(self.numbers[0]), int(self.numbers[-1]) + self.block - 1
        stride = next((s for s in _STRIDES if last - first < s * most), last - first + 1)
        rounds = np.arange(-(-first // stride) * stride, last + 1, stride)
        cells = np.searchsorted(self.numbers, rounds, side="right") - 1
        held = rounds - self.numbers[cells] < self.block
        return dict(zip(cells[held].tolist(), rounds[held].tolist(), strict=True))


def step_map(
    maps: Float[Tensor, "panel step step"],
    regions: Sequence[Region],
    *,
    defined: Bool[Tensor, "step step"],
    titles: Sequence[str],
    label: str,
    ax: Axes | None = None,
    log: bool = True,
    template: bool = False,
    vmin: float | None = None,
    vmax: float | None = None,
) -> Figure:
    """Heat maps of the same steps, one panel each, on one colour scale.

    Args:
        maps: Maps with query steps as rows and key steps as columns.
        regions: Region of each step.
        defined: Entries that mean something; the others stay grey.
        titles: Title of each panel.
        label: What the entries are, with their unit: text of the colour bar.
        ax: Where to draw a single map; a new figure by default.
        log: Log colour scale; linear from 0 otherwise.
        template: Show template steps too.
        vmin: Low end of the colour scale.
        vmax: High end of the colour scale.

    Raises:
        ValueError: ``ax`` comes with several maps.
    """
    if len(maps) != 1 and ax is not None:
        raise ValueError(f"ax is for a single map; there are {len(maps)}")
    steps = shown_steps(regions, template=template)
    panels = [_masked(values, defined, steps) for values in maps]
    norm = colour_norm(
        np.ma.concatenate([panel.ravel() for panel in panels]), log=log, vmin=vmin, vmax=vmax
    )
    grid = Grid(steps, tuple(regions[step] for step in steps.tolist()))
    with style():
        axes = [ax] if ax is not None else _panels(len(panels), len(steps))
        for place, values, title in zip(axes, panels, titles, strict=True):
            image = draw_map(place, values, grid, norm)
            place.set_title(title)
            place.set_xlabel("key step (looked at)")
        axes[0].set_ylabel("query step (being written)")
        figure = axes[0].get_figure(root=True)
        assert isinstance(figure, Figure)
        add_colour_bar(image, axes, label, panels, norm)
    return figure


def shown_steps(regions: Sequence[Region], *, template: bool) -> Int[np.ndarray, "cell"]:
    """Steps that a picture shows: all of them, or all but those of the template."""
    steps = enumerate(regions)
    return np.array([n for n, r in steps if template or r is not Region.TEMPLATE], dtype=int)


def colour_norm(
    values: np.ma.MaskedArray, *, log: bool, vmin: float | None = None, vmax: float | None = None
) -> Normalize:
    """Colour scale for these values (module docstring)."""
    positive = values.compressed()
    positive = positive[positive > 0]
    if not len(positive):
        return Normalize(vmin or 0, vmax or 1)
    top = float(positive.max()) if vmax is None else vmax
    if not log:
        return Normalize(0 if vmin is None else vmin, top)
    low = max(float(np.percentile(positive, 2)), top / 10**_DECADES)
    return LogNorm(min(low, top / 1.01) if vmin is None else vmin, top)


def draw_map(ax: Axes, values: np.ma.MaskedArray, grid: Grid, norm: Normalize) -> AxesImage:
    """Draw one square map with region borders and strips into an axes."""
    n = len(grid.numbers)
    shown = np.ma.masked_less_equal(values, 0) if isinstance(norm, LogNorm) else values
    ax.set_facecolor(EMPTY_COLOUR)
    image = ax.imshow(shown, cmap=MAP_COLOURS, norm=norm, interpolation="nearest", aspect="equal")
    ax.set(xlim=(-0.5, n - 0.5), ylim=(n - 0.5, -0.5))
    ax.spines[:].set_visible(False)
    _draw_borders(ax, grid)
    _draw_strips(ax, grid)
    ticks = grid.ticks()
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_ticks(list(ticks), [str(number) for number in ticks.values()])
    ax.tick_params(length=0, pad=11)
    return image


def add_colour_bar(
    image: AxesImage,
    axes: Sequence[Axes],
    label: str,
    maps: Sequence[np.ma.MaskedArray],
    norm: Normalize,
) -> None:
    """Colour bar beside the axes, pointed where values lie beyond its ends."""
    values = np.ma.concatenate([values.ravel() for values in maps]).compressed()
    values = values[values > 0] if isinstance(norm, LogNorm) else values
    below = bool((values < norm.vmin).any())
    above = bool((values > norm.vmax).any())
    extend = {(0, 0): "neither", (1, 0): "min", (0, 1): "max", (1, 1): "both"}[below, above]
    figure = axes[0].figure
    bar = figure.colorbar(image, ax=list(axes), shrink=0.85, pad=0.02, extend=extend, label=label)
    bar.outline.set_visible(False)


def _panels(n: int, n_cells: int) -> list[Axes]:
    columns = min(n, 4)
    rows = -(-n // columns)
    side = 3.9 if n > 1 else min(max(4.4, 0.03 * n_cells), 7.5)
    figure = new_figure(1.4 + (side + 0.1) * columns, side * rows + 0.3, compress=True)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for unused in grid[n:]:
        unused.remove()
    return list(grid[:n])


def _masked(
    values: Float[Tensor, "step step"],
    defined: Bool[Tensor, "step step"],
    steps: Int[np.ndarray, "cell"],
) -> np.ma.MaskedArray:
    cells = np.ix_(steps, steps)
    undefined = ~defined.cpu().numpy()[cells]
    return np.ma.masked_array(values.detach().double().cpu().numpy()[cells], undefined)


def _draw_borders(ax: Axes, grid: Grid) -> None:
    last = len(grid.numbers) - 0.5
    edges = [border - 0.5 for border in grid.borders]
    lines = [[(-0.5, e), (e, e)] for e in edges] + [[(e, e), (e, last)] for e in edges]
    # A halo keeps the lines visible on dark cells; on a fine grid it would hide whole cells.
    strokes = [("white", 2.0), (BORDER_COLOUR, 0.8)] if last < 80 else [(BORDER_COLOUR, 0.4)]
    for colour, width in strokes:
        ax.add_collection(LineCollection(lines, colors=colour, linewidths=width), autolim=False)


def _draw_strips(ax: Axes, grid: Grid) -> None:
    """Region strips along the left and lower edge, with their names in the empty triangle."""
    n = max(len(grid.numbers), 1)
    for region, start, stop in grid.runs:
        span = (start / n, stop / n)
        _draw_strip(ax, (0.0, 0.0), (1 - span[0], 1 - span[1]), (-_STRIP_GAP, 0.0), region)
        _draw_strip(ax, span, (0.0, 0.0), (0.0, -_STRIP_GAP), region)
    shown = [region for region in Region if region in grid.regions]
    ax.legend(
        handles=[Patch(color=REGION_COLOURS[region], label=region.value) for region in shown],
        loc="upper right",
        handlelength=0.9,
        handleheight=0.9,
    )


def _draw_strip(
    ax: Axes,
    x: tuple[float, float],
    y: tuple[float, float],
    offset: tuple[float, float],
    region: Region,
) -> None:
    """A bar of fixed width in points between two places in axes coordinates."""
    aside = offset_copy(ax.transAxes, ax.get_figure(root=True), *offset, units="points")
    ax.add_artist(
        Line2D(
            x,
            y,
            transform=aside,
            color=REGION_COLOURS[region],
            linewidth=_STRIP_WIDTH,
            solid_capstyle="butt",
            clip_on=False,
            label=f"_{region.value}",
        )
    )
