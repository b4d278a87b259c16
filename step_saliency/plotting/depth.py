"""Depth curves of a diagnosis: where thinking and summary rows look, layer by layer.

Only draws: every number comes from `step_saliency.diagnosis.Diagnosis`. Dotted lines are what a map
that prefers no position would give; shaded layers are the shallow and the deep band.
"""

import math
from collections.abc import Iterable, Iterator

from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from step_saliency.diagnosis.diagnosis import Diagnosis
from step_saliency.diagnosis.shares import REGIONS
from step_saliency.plotting.style import (
    BAND_COLOUR,
    DECAY_COLOUR,
    LOCK_IN_COLOUR,
    REGION_COLOURS,
    new_figure,
    style,
)
from step_saliency.trace import Region

_SHARES = (-0.09, 1.03)


def depth_curves(diagnosis: Diagnosis) -> Figure:
    """Shares of thinking and summary rows, lock-in and decay, by layer.

    Args:
        diagnosis: What to draw; heads are drawn as thin lines where it has them.
    """
    with style():
        figure = new_figure(8.4, 5.4)
        (thinking, lock_in), (summary, decay) = figure.subplots(2, 2, sharex=True)
        for ax in (thinking, lock_in, summary, decay):
            _shade_bands(ax, diagnosis)
        _draw_shares(thinking, diagnosis, Region.THINKING)
        _draw_shares(summary, diagnosis, Region.SUMMARY)
        _draw_lock_in(lock_in, diagnosis)
        _draw_decay(decay, diagnosis)
        for ax in (summary, decay):
            ax.set_xlabel("layer")
            ax.xaxis.get_major_locator().set_params(integer=True)
        figure.legend(handles=_legend(), loc="outside lower center", ncols=5)
    return figure


def _legend() -> list[Line2D]:
    regions = [
        Line2D([], [], color=REGION_COLOURS[region], marker="o", label=f"on {region.value} steps")
        for region in REGIONS
    ]
    return [*regions, Line2D([], [], color="#666666", linestyle=":", label="no preference")]


def _draw_shares(ax: Axes, diagnosis: Diagnosis, query: Region) -> None:
    for key in REGIONS[: REGIONS.index(query) + 1]:
        colour = REGION_COLOURS[key]
        values = diagnosis.share(query, key)
        ax.plot(diagnosis.layers, values, marker="o", color=colour, label=key.value)
        ax.axhline(
            float(diagnosis.uniform_shares[REGIONS.index(query), REGIONS.index(key)]),
            color=colour,
            linestyle=":",
            linewidth=1,
        )
    ax.set(title=f"Where {query.value} rows look", ylabel="share of the row", ylim=_SHARES)
    _say_if_missing(ax, diagnosis.share(query, query), f"the trace has no {query.value} rows")


def _draw_lock_in(ax: Axes, diagnosis: Diagnosis) -> None:
    _draw_heads(ax, diagnosis, diagnosis.lock_in_heads, LOCK_IN_COLOUR)
    ax.plot(diagnosis.layers, diagnosis.lock_in, marker="o", color=LOCK_IN_COLOUR)
    ax.axhline(0, color=LOCK_IN_COLOUR, linestyle=":", linewidth=1)
    index = diagnosis.lock_in_index
    ax.set(
        title="Lock-in" if math.isnan(index) else f"Lock-in (index {index:.3f})",
        ylabel="share on steps i, i − 1\nbeyond uniform",
    )
    ax.margins(y=0.12)
    _say_if_missing(ax, diagnosis.lock_in, diagnosis.reasons.get("lock_in"))


def _draw_decay(ax: Axes, diagnosis: Diagnosis) -> None:
    _draw_heads(ax, diagnosis, diagnosis.decay_heads, DECAY_COLOUR)
    ax.plot(diagnosis.layers, diagnosis.decay, marker="o", color=DECAY_COLOUR)
    query, key = REGIONS.index(Region.SUMMARY), REGIONS.index(Region.THINKING)
    uniform = float(diagnosis.uniform_shares[query, key])
    ax.axhline(uniform, color=DECAY_COLOUR, linestyle=":", linewidth=1)
    index = diagnosis.decay_index
    ax.set(
        title="Decay" if math.isnan(index) else f"Decay (index {index:.3f})",
        ylabel="share of summary rows\non thinking steps",
        ylim=_SHARES,
    )
    _say_if_missing(ax, diagnosis.decay, diagnosis.reasons.get("decay"))


def _draw_heads(
    ax: Axes, diagnosis: Diagnosis, values: Float[Tensor, "layer head"] | None, colour: str
) -> None:
    if values is not None:
        ax.plot(diagnosis.layers, values, color=colour, linewidth=0.6, alpha=0.35)


def _shade_bands(ax: Axes, diagnosis: Diagnosis) -> None:
    for name, layers in (("shallow", diagnosis.shallow), ("deep", diagnosis.deep)):
        for first, last in _runs(layers):
            ax.axvspan(first - 0.5, last + 0.5, color=BAND_COLOUR, zorder=0, linewidth=0)
            ax.annotate(
                name,
                ((first + last) / 2, 0.01),
                xycoords=("data", "axes fraction"),
                ha="center",
                va="bottom",
                fontsize=7,
                color="#7a8296",
            )


def _runs(layers: Iterable[int]) -> Iterator[tuple[int, int]]:
    """First and last layer of each run of neighbours."""
    ordered = sorted(layers)
    starts = [layer for layer in ordered if layer - 1 not in ordered]
    stops = [layer for layer in ordered if layer + 1 not in ordered]
    return zip(starts, stops, strict=True)


def _say_if_missing(ax: Axes, values: Float[Tensor, "layer"], reason: str | None) -> None:
    if bool(values.isnan().all()) and reason:
        ax.text(0.5, 0.5, reason, transform=ax.transAxes, ha="center", va="center", color="#666666")
