"""How regions are marked on a picture: strips beside a map, borders in it, a legend."""

from collections.abc import Collection
from typing import Any

from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.transforms import offset_copy

from step_saliency.plotting.grid import Grid
from step_saliency.plotting.style import BORDER_COLOUR, REGION_COLOURS
from step_saliency.segment.regions import Region


def draw_borders(ax: Axes, grid: Grid, *, width: float, halo: bool) -> None:
    """Lines where a new region begins, as far as the diagonal.

    Args:
        ax: Axes with a map.
        grid: Its rows and columns.
        width: Of the lines, in points.
        halo: Draw white around them, which keeps them visible on dark cells.
    """
    last = len(grid.numbers) - 0.5
    edges = [border - 0.5 for border in grid.borders]
    lines = [[(-0.5, e), (e, e)] for e in edges] + [[(e, e), (e, last)] for e in edges]
    strokes = [("white", 2.5 * width)] if halo else []
    for colour, thickness in [*strokes, (BORDER_COLOUR, width)]:
        ax.add_collection(LineCollection(lines, colors=colour, linewidths=thickness), autolim=False)


def draw_strips(ax: Axes, grid: Grid, *, width: float, gap: float) -> None:
    """Strips in the colours of the regions along the left and the lower edge, sizes in points."""
    n = max(len(grid.numbers), 1)
    for region, start, stop in grid.runs:
        span = (start / n, stop / n)
        upright = ((0.0, 0.0), (1 - span[0], 1 - span[1]))
        for ends, offset in ((upright, (-gap, 0.0)), ((span, (0.0, 0.0)), (0.0, -gap))):
            aside = offset_copy(ax.transAxes, ax.get_figure(root=True), *offset, units="points")
            ax.add_artist(
                Line2D(
                    *ends,
                    transform=aside,
                    color=REGION_COLOURS[region],
                    linewidth=width,
                    solid_capstyle="butt",
                    clip_on=False,
                    label=f"_{region.value}",
                )
            )


def region_legend(
    target: Axes | Figure,
    regions: Collection[str],
    *,
    loc: Any,
    ncols: int = 1,
    colour: str | None = None,
) -> None:
    """Legend of the colours of these regions; ``colour`` is that of the words."""
    handles = [
        Patch(color=REGION_COLOURS[region], label=region.value)
        for region in Region
        if region in regions
    ]
    target.legend(
        handles=handles,
        loc=loc,
        ncols=ncols,
        handlelength=0.9,
        handleheight=0.9,
        labelcolor=colour,
    )
