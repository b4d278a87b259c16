"""Depth curves: where thinking and summary rows look, layer by layer.

Only draws. Dotted lines are what a map that prefers no position would give; shaded layers are the
bands that are named.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from step_saliency.plotting.style import (
    BAND_COLOUR,
    DECAY_COLOUR,
    LOCK_IN_COLOUR,
    REGION_COLOURS,
    new_figure,
    style,
)
from step_saliency.segment.regions import Region

_REGIONS = (Region.QUESTION, Region.THINKING, Region.SUMMARY)
_SHARES = (-0.09, 1.03)


@dataclass(frozen=True, eq=False, kw_only=True)
class DepthCurve:
    """A quantity by layer.

    Attributes:
        values: The quantity; NaN where it cannot be had.
        index: What stands for all layers; NaN where it cannot be had.
        uniform: What a map that prefers no position gives.
        heads: The quantity of each head, drawn as thin lines.
        reason: Why values are missing, written where all of them are.
    """

    values: Float[Tensor, "layer"]
    index: float
    uniform: float = 0.0
    heads: Float[Tensor, "layer head"] | None = None
    reason: str | None = None


def depth_curves(
    layers: Sequence[int],
    *,
    lock_in: DepthCurve,
    decay: DepthCurve,
    shares: Float[Tensor, "layer query_region key_region"],
    uniform_shares: Float[Tensor, "query_region key_region"],
    bands: Sequence[tuple[str, Sequence[int]]],
) -> Figure:
    """Shares of thinking and summary rows, lock-in and decay, by layer.

    Args:
        layers: Model layer of each value.
        lock_in: Share of the thinking rows on local steps, beyond uniform.
        decay: Share of the summary rows on thinking steps.
        shares: Share of each region's rows on each region: question, thinking, summary.
        uniform_shares: `shares` of a map that prefers no position.
        bands: Layers to shade, by name.
    """
    with style():
        figure = new_figure(8.4, 5.4)
        (thinking, lock_ins), (summary, decays) = figure.subplots(2, 2, sharex=True)
        for ax in (thinking, lock_ins, summary, decays):
            _shade_bands(ax, bands)
        for ax, query in ((thinking, 1), (summary, 2)):
            _draw_shares(ax, layers, query, shares[:, query], uniform_shares[query])
        _draw_curve(lock_ins, layers, lock_in, "Lock-in", LOCK_IN_COLOUR)
        lock_ins.set(ylabel="share on steps i, i − 1\nbeyond uniform")
        lock_ins.margins(y=0.12)
        _draw_curve(decays, layers, decay, "Decay", DECAY_COLOUR)
        decays.set(ylabel="share of summary rows\non thinking steps", ylim=_SHARES)
        for ax in (summary, decays):
            ax.set_xlabel("layer")
            ax.xaxis.get_major_locator().set_params(integer=True)
        figure.legend(handles=_legend(), loc="outside lower center", ncols=5)
    return figure


def _legend() -> list[Line2D]:
    regions = [
        Line2D([], [], color=REGION_COLOURS[region], marker="o", label=f"on {region.value} steps")
        for region in _REGIONS
    ]
    return [*regions, Line2D([], [], color="#666666", linestyle=":", label="no preference")]


def _draw_shares(
    ax: Axes,
    layers: Sequence[int],
    query: int,
    shares: Float[Tensor, "layer key_region"],
    uniform: Float[Tensor, "key_region"],
) -> None:
    name = _REGIONS[query].value
    for key, region in enumerate(_REGIONS[: query + 1]):
        colour = REGION_COLOURS[region]
        ax.plot(layers, shares[:, key], marker="o", color=colour, label=region.value)
        ax.axhline(float(uniform[key]), color=colour, linestyle=":", linewidth=1)
    ax.set(title=f"Where {name} rows look", ylabel="share of the row", ylim=_SHARES)
    _say_if_missing(ax, shares[:, query], f"the trace has no {name} rows")


def _draw_curve(ax: Axes, layers: Sequence[int], curve: DepthCurve, name: str, colour: str) -> None:
    if curve.heads is not None:
        ax.plot(layers, curve.heads, color=colour, linewidth=0.6, alpha=0.35)
    ax.plot(layers, curve.values, marker="o", color=colour)
    ax.axhline(curve.uniform, color=colour, linestyle=":", linewidth=1)
    ax.set_title(name if math.isnan(curve.index) else f"{name} (index {curve.index:.3f})")
    _say_if_missing(ax, curve.values, curve.reason)


def _shade_bands(ax: Axes, bands: Sequence[tuple[str, Sequence[int]]]) -> None:
    for name, layers in bands:
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
