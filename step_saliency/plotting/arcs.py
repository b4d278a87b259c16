"""Arc diagrams: steps on a line, arcs from key to query step."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.path import Path

from step_saliency.plotting.style import REGION_COLOURS
from step_saliency.segment.regions import Region

_MOVES = [Path.MOVETO, Path.CURVE4, Path.CURVE4, Path.CURVE4]


def arcs(
    ax: Axes,
    queries: Int[np.ndarray, "arc"],
    keys: Int[np.ndarray, "arc"],
    shares: Float[np.ndarray, "arc"],
    regions: Sequence[str],
    *,
    colour: str,
    widest: float = 1.0,
) -> None:
    """Draw arcs, thicker where the share is larger.

    Args:
        ax: Where to draw.
        queries: Query step of each arc.
        keys: Key step of each arc.
        shares: Part of the query step's row.
        regions: Region of each step.
        colour: Of the arcs.
        widest: Share that is drawn widest; the same in panels that are compared.
    """
    ends = list(zip(keys, queries, strict=True))
    paths = [Path([(a, 0), (a, b - a), (b, b - a), (b, 0)], _MOVES) for a, b in ends]
    widths = 0.3 + 3.2 * shares / widest
    ax.add_collection(
        PathCollection(paths, facecolors="none", edgecolors=colour, alpha=0.75, linewidths=widths),
        autolim=False,
    )
    colours = [REGION_COLOURS[Region(region)] for region in regions]
    ax.scatter(range(len(regions)), [0] * len(regions), c=colours, s=9, zorder=3)
    tallest = float((queries - keys).max(initial=1))
    ax.set(xlim=(-0.8, len(regions) - 0.2), ylim=(-0.08 * tallest, 0.8 * tallest))
    ax.set_axis_off()
