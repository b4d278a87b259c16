"""A token map beside the step map that it is pooled into.

Token maps of more than `MOST_CELLS` positions are shrunk by the largest entry of each block, so
that single strong entries stay visible; ticks keep the positions.
"""

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from matplotlib.figure import Figure
from torch import Tensor

from step_saliency.plotting.grid import Grid
from step_saliency.plotting.step_maps import (
    beyond,
    colour_bar,
    colour_norm,
    draw_map,
    shown_steps,
    step_map,
)
from step_saliency.plotting.style import new_figure, saliency_label, style
from step_saliency.segment.regions import Region
from step_saliency.trace import Trace

MOST_CELLS = 1000


def token_and_step(
    token_map: Float[Tensor, "pos pos"],
    map_of_steps: Float[Tensor, "step step"],
    trace: Trace,
    *,
    filed: Bool[Tensor, "pos"],
    defined: Bool[Tensor, "step step"],
    layer: int,
    objective: str,
    pool: str,
    log: bool = True,
    template: bool = False,
) -> Figure:
    """Influence between tokens on the left, between steps on the right, each on its own scale.

    Args:
        token_map: Influence of key position (column) on query position (row).
        map_of_steps: What it is pooled into.
        trace: The trace of both.
        filed: Positions whose rows are pooled; the others stay grey.
        defined: Pairs of steps that mean something.
        layer: Model layer of both, for the titles.
        objective: Whose gradient was taken, for the labels.
        pool: How token pairs became step pairs, for the labels.
        log: Log colour scales; linear from 0 otherwise.
        template: Show template tokens and steps too.
    """
    values, grid = _token_cells(token_map, trace, filed, template=template)
    norm = colour_norm(values, log=log)
    with style():
        figure = new_figure(10.6, 4.6, compress=True)
        tokens, steps = figure.subplots(1, 2)
        image = draw_map(tokens, values, grid, norm)
        tokens.set(title=f"Layer {layer}, tokens", xlabel="key position", ylabel="query position")
        colour_bar(image, [tokens], saliency_label(objective), extend=beyond([values], norm))
        step_map(
            map_of_steps.unsqueeze(0),
            trace.regions,
            defined=defined.unsqueeze(0),
            titles=[f"Layer {layer}, steps"],
            label=saliency_label(objective, pool),
            ax=steps,
            log=log,
            template=template,
        )
    return figure


def _token_cells(
    token_map: Float[Tensor, "pos pos"],
    trace: Trace,
    filed: Bool[Tensor, "pos"],
    *,
    template: bool,
) -> tuple[np.ma.MaskedArray, Grid]:
    """Cells of the picture: the positions shown, in blocks of equal size."""
    steps = torch.from_numpy(shown_steps(trace.regions, template=template))
    positions = torch.isin(trace.step_ids, steps).nonzero().squeeze(-1)
    block = -(-len(positions) // MOST_CELLS)
    causal = positions.unsqueeze(-1) >= positions
    allowed = causal & filed[positions].unsqueeze(-1)
    values = token_map.detach().double().cpu()[positions][:, positions]
    pooled = _largest(values.where(allowed, -torch.inf), block).numpy()
    numbers: Int[np.ndarray, "cell"] = positions[::block].numpy()
    cell_steps = trace.step_ids[positions[::block]].tolist()
    regions: tuple[Region, ...] = tuple(trace.steps[step].region for step in cell_steps)
    return np.ma.masked_array(pooled, np.isneginf(pooled)), Grid(numbers, regions, block)


def _largest(values: Float[Tensor, "pos pos"], block: int) -> Float[Tensor, "cell cell"]:
    pooled = torch.nn.functional.max_pool2d(values.unsqueeze(0), block, ceil_mode=True)
    return pooled.squeeze(0)
