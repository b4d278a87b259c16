"""Depth curves: where thinking and summary rows look, layer by layer.

Only draws. Dotted lines are what a map that prefers no position would give; shaded layers are the
bands that are named.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from step_saliency.plotting.curves import curve, shade_bands
from step_saliency.plotting.style import (
    DECAY_COLOUR,
    LOCK_IN_COLOUR,
    NEUTRAL,
    REGION_COLOURS,
    new_figure,
    style,
)
from step_saliency.segment.regions import Region

_REGIONS = (Region.QUESTION, Region.THINKING, Region.SUMMARY)
_SHARES = (-0.09, 1.03)

LOCK_IN_LABELS = ("Lock-in", "share on steps i, i − 1\nbeyond uniform")
DECAY_LABELS = ("Decay", "share of summary rows\non thinking steps")
"""Title and label of the axis."""


@dataclass(frozen=True, eq=False, kw_only=True)
class DepthCurve:
    """A quantity by layer.

    Attributes:
        values: The quantity; NaN where it cannot be had.
        index: What stands for all layers; NaN where it cannot be had.
        uniform: What a map that prefers no position gives, in all layers or in each.
        heads: The quantity of each head, drawn as thin lines.
        reason: Why values are missing, written where all of them are.
    """

    values: Float[Tensor, "layer"]
    index: float
    uniform: Float[Tensor, "*layer"] = field(default_factory=lambda: torch.zeros(()))
    heads: Float[Tensor, "layer head"] | None = None
    reason: str | None = None


def depth_curves(
    layers: Sequence[int],
    *,
    lock_in: DepthCurve,
    decay: DepthCurve,
    shares: Float[Tensor, "layer query_region key_region"],
    uniform_shares: Float[Tensor, "*layer query_region key_region"],
    bands: Sequence[tuple[str, Sequence[int]]],
) -> Figure:
    """Shares of thinking and summary rows, lock-in and decay, by layer.

    Args:
        layers: Model layer of each value.
        lock_in: Share of the thinking rows on local steps, beyond uniform.
        decay: Share of the summary rows on thinking steps.
        shares: Share of each region's rows on each region: question, thinking, summary.
        uniform_shares: `shares` of a map that prefers no position, in all layers or in each.
        bands: Layers to shade, by name.
    """
    with style():
        figure = new_figure(8.4, 5.4)
        (thinking, lock_ins), (summary, decays) = figure.subplots(2, 2, sharex=True)
        for ax in (thinking, lock_ins, summary, decays):
            shade_bands(ax, bands)
        for ax, query in ((thinking, 1), (summary, 2)):
            _draw_shares(ax, layers, query, shares[:, query], uniform_shares[..., query, :])
        _draw_curve(lock_ins, layers, lock_in, LOCK_IN_LABELS, LOCK_IN_COLOUR)
        lock_ins.margins(y=0.12)
        _draw_curve(decays, layers, decay, DECAY_LABELS, DECAY_COLOUR)
        decays.set_ylim(_SHARES)
        for ax in (summary, decays):
            ax.set_xlabel("layer")
            ax.xaxis.get_major_locator().set_params(integer=True)
        has_heads = lock_in.heads is not None or decay.heads is not None
        figure.legend(handles=_legend(has_heads), loc="outside lower center", ncols=5)
    return figure


def _legend(has_heads: bool) -> list[Line2D]:
    regions = [
        Line2D([], [], color=REGION_COLOURS[region], marker="o", label=f"on {region.value} steps")
        for region in _REGIONS
    ]
    heads = [Line2D([], [], color=NEUTRAL, linewidth=0.6, label="one head")] if has_heads else []
    return [*regions, Line2D([], [], color=NEUTRAL, linestyle=":", label="no preference"), *heads]


def _draw_shares(
    ax: Axes,
    layers: Sequence[int],
    query: int,
    shares: Float[Tensor, "layer key_region"],
    uniform: Float[Tensor, "*layer key_region"],
) -> None:
    name = _REGIONS[query].value
    for key, region in enumerate(_REGIONS[: query + 1]):
        colour = REGION_COLOURS[region]
        curve(ax, layers, shares[:, key].tolist(), colour=colour, name=region.value)
        _draw_uniform(ax, layers, uniform[..., key], colour)
    ax.set(title=f"Where {name} rows look", ylabel="share of the row", ylim=_SHARES)
    _say_if_missing(ax, shares[:, query], f"the trace has no {name} rows")


def _draw_curve(
    ax: Axes, layers: Sequence[int], depth: DepthCurve, labels: tuple[str, str], colour: str
) -> None:
    title, ylabel = labels
    if depth.heads is not None:
        ax.plot(layers, depth.heads, color=colour, linewidth=0.6, alpha=0.35)
    curve(ax, layers, depth.values.tolist(), colour=colour)
    _draw_uniform(ax, layers, depth.uniform, colour)
    ax.set_title(title if math.isnan(depth.index) else f"{title} (index {depth.index:.3f})")
    ax.set_ylabel(ylabel)
    _say_if_missing(ax, depth.values, depth.reason)


def _draw_uniform(
    ax: Axes, layers: Sequence[int], uniform: Float[Tensor, "*layer"], colour: str
) -> None:
    if uniform.ndim:
        ax.plot(layers, uniform, color=colour, linestyle=":", linewidth=1)
    else:
        ax.axhline(float(uniform), color=colour, linestyle=":", linewidth=1)


def _say_if_missing(ax: Axes, values: Float[Tensor, "layer"], reason: str | None) -> None:
    if bool(values.isnan().all()) and reason:
        ax.text(0.5, 0.5, reason, transform=ax.transAxes, ha="center", va="center", color=NEUTRAL)
