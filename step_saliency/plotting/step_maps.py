"""Step maps as heat maps, from arrays.

Rows are query steps (what is being written), columns key steps (what is looked at); template steps
are left out unless asked for, and ticks keep the numbers that the steps have in the trace. Colours
are on a log scale by default, since entries span orders of magnitude; its low end is the 2nd
percentile of the positive entries, at most five decades below the top. Pairs that causality
forbids, and zeros on the log scale, stay grey.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int
from matplotlib.axes import Axes
from matplotlib.colorbar import Colorbar
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from torch import Tensor

from step_saliency.options import is_finite
from step_saliency.plotting.grid import Grid
from step_saliency.plotting.regions import draw_borders, draw_strips, region_legend
from step_saliency.plotting.style import EMPTY_COLOUR, MAP_COLOURS, new_figure, style
from step_saliency.segment.regions import Region

Extend = Literal["neither", "min", "max", "both"]
_DECADES = 5.0


@dataclass(frozen=True, kw_only=True)
class MapLook:
    """Sizes of what stands around a map, in points.

    Attributes:
        strip: Width of the region strips.
        gap: Distance of their middle from the map.
        border: Width of the borders between regions, with a halo.
        most_bordered: Cells up to which borders are so; on a finer grid, where a halo would hide
            whole cells, they are half as wide and without.
        most_ticks: Numbers on an axis at most.
        legend: Name the regions in the empty triangle.
        bar: Sizes of the colour bar, as matplotlib takes them.
    """

    strip: float = 6.0
    gap: float = 6.0
    border: float = 0.8
    most_bordered: int = 80
    most_ticks: int = 12
    legend: bool = True
    bar: Mapping[str, Any] = field(default_factory=lambda: {"shrink": 0.85, "pad": 0.02})


SCREEN = MapLook()


def step_map(
    maps: Float[Tensor, "panel step step"],
    regions: Sequence[Region],
    *,
    defined: Bool[Tensor, "#panel step step"],
    titles: Sequence[str],
    label: str,
    ax: Axes | None = None,
    log: bool = True,
    template: bool = False,
    vmin: float | int | None = None,
    vmax: float | int | None = None,
) -> Figure:
    """Heat maps of the same steps, one panel each, on one colour scale.

    Args:
        maps: Maps with query steps as rows and key steps as columns.
        regions: Region of each step.
        defined: Entries that mean something, in all panels or in each; the others stay grey.
        titles: Title of each panel.
        label: What the entries are, with their unit: text of the colour bar.
        ax: Where to draw a single map; a new figure by default.
        log: Log colour scale; linear from 0 otherwise.
        template: Show template steps too.
        vmin: Low end of the colour scale.
        vmax: High end of the colour scale.

    Raises:
        ValueError: ``ax`` comes with several maps, or the ends make no scale.
    """
    if len(maps) != 1 and ax is not None:
        raise ValueError(f"ax is for a single map; there are {len(maps)}")
    steps = shown_steps(regions, template=template)
    of_panels = zip(maps, defined.expand(maps.shape), strict=True)
    panels = [_masked(values, entries, steps) for values, entries in of_panels]
    norm = colour_norm(
        np.ma.concatenate([panel.ravel() for panel in panels]), log=log, vmin=vmin, vmax=vmax
    )
    grid = Grid(steps, tuple(regions[step] for step in steps.tolist()))
    with style(own=ax is None):
        axes = [ax] if ax is not None else _panels(len(panels), len(steps))
        for place, values, title in zip(axes, panels, titles, strict=True):
            image = draw_map(place, values, grid, norm)
            place.set_title(title)
            place.set_xlabel("key step (looked at)")
        axes[0].set_ylabel("query step (being written)")
        figure = axes[0].get_figure(root=True)
        assert isinstance(figure, Figure)
        colour_bar(image, axes, label, extend=beyond(panels, norm))
    return figure


def shown_steps(regions: Sequence[Region], *, template: bool) -> Int[np.ndarray, "cell"]:
    """Steps that a picture shows: all of them, or all but those of the template."""
    steps = enumerate(regions)
    return np.array([n for n, r in steps if template or r is not Region.TEMPLATE], dtype=int)


def colour_norm(
    values: np.ma.MaskedArray,
    *,
    log: bool,
    vmin: float | int | None = None,
    vmax: float | int | None = None,
) -> Normalize:
    """Colour scale for these values (module docstring)."""
    vmin, vmax = _plain_end("vmin", vmin), _plain_end("vmax", vmax)
    positive = values.compressed()
    positive = positive[positive > 0]
    if not len(positive):
        return Normalize(*_ends(0.0, 1.0, vmin, vmax))
    top = float(positive.max()) if vmax is None else vmax
    if not log:
        return Normalize(*_ends(0.0, top, vmin, vmax))
    if vmin is not None and vmin <= 0:
        raise ValueError(f"vmin={vmin:g} is not above 0, where a log scale ends; log=False has 0")
    low = max(float(np.percentile(positive, 2, method="lower")), top / 10**_DECADES)
    return LogNorm(*_ends(min(low, top / 1.01), top, vmin, vmax))


def _plain_end(name: str, end: Any) -> float | None:
    """A given end as a plain number, of an array or tensor without axes too.

    Raises:
        ValueError: it is none.
    """
    plain = end.item() if hasattr(end, "item") and np.ndim(end) == 0 else end
    if plain is not None and not is_finite(plain):
        raise ValueError(f"{name}={plain!r:.80} is no number")
    return None if plain is None else float(plain)


def _ends(low: float, high: float, vmin: float | None, vmax: float | None) -> tuple[float, float]:
    """Ends of a colour scale: those given, the others as they are.

    Raises:
        ValueError: they are the wrong way round.
    """
    low, high = low if vmin is None else vmin, high if vmax is None else vmax
    if low >= high:
        raise ValueError(
            f"a colour scale cannot go from {low:.4g} up to {high:.4g} (vmin={vmin!r}, "
            f"vmax={vmax!r})"
        )
    return low, high


def draw_map(
    ax: Axes, values: np.ma.MaskedArray, grid: Grid, norm: Normalize, *, look: MapLook = SCREEN
) -> AxesImage:
    """Draw one square map with region borders and strips into an axes."""
    n = len(grid.numbers)
    shown = np.ma.masked_less_equal(values, 0) if isinstance(norm, LogNorm) else values
    ax.set_facecolor(EMPTY_COLOUR)
    ax.grid(False)
    image = ax.imshow(shown, cmap=MAP_COLOURS, norm=norm, interpolation="nearest", aspect="equal")
    ax.set(xlim=(-0.5, n - 0.5), ylim=(n - 0.5, -0.5))
    ax.spines[:].set_visible(False)
    fine = n > look.most_bordered
    draw_borders(ax, grid, width=look.border / 2 if fine else look.border, halo=not fine)
    draw_strips(ax, grid, width=look.strip, gap=look.gap)
    if look.legend:
        region_legend(ax, grid.regions, loc="upper right", colour="black")
    ticks = grid.ticks(look.most_ticks)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_ticks(list(ticks), [str(number) for number in ticks.values()])
    ax.tick_params(length=0, pad=look.gap + look.strip / 2 + 2)
    return image


def colour_bar(
    image: AxesImage,
    axes: Sequence[Axes],
    label: str,
    *,
    extend: Extend = "neither",
    look: MapLook = SCREEN,
) -> Colorbar:
    """Colour bar beside the axes, with what the colours mean and the unit."""
    figure = axes[0].get_figure(root=True)
    assert figure is not None
    bar = figure.colorbar(image, ax=list(axes), extend=extend, label=label, **look.bar)
    bar.outline.set_visible(False)
    return bar


def beyond(maps: Sequence[np.ma.MaskedArray], norm: Normalize) -> Extend:
    """At which ends of the colour scale values lie beyond it."""
    values = np.ma.concatenate([values.ravel() for values in maps]).compressed()
    values = values[values > 0] if isinstance(norm, LogNorm) else values
    below, above = bool((values < norm.vmin).any()), bool((values > norm.vmax).any())
    if below:
        return "both" if above else "min"
    return "max" if above else "neither"


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
