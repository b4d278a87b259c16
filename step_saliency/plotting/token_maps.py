"""A token map beside the step map that it is pooled into.

Token maps of more than `MOST_CELLS` positions are shrunk by the largest entry of each block, so
that single strong entries stay visible; ticks keep the positions.
"""

import numpy as np
import torch
from jaxtyping import Float, Int
from matplotlib.figure import Figure
from torch import Tensor

from step_saliency.plotting.step_maps import (
    Grid,
    add_colour_bar,
    colour_norm,
    draw_map,
    kept_steps,
    step_map,
)
from step_saliency.plotting.style import new_figure, saliency_label, style
from step_saliency.saliency.result import StepSaliency
from step_saliency.trace import Region

MOST_CELLS = 1000


def token_and_step(
    token_map: Float[Tensor, "pos pos"],
    sal: StepSaliency,
    layer: int,
    *,
    log: bool = True,
    template: bool = False,
) -> Figure:
    """Influence between tokens on the left, between steps on the right, each on its own scale.

    Args:
        token_map: Influence of key position (column) on query position (row) in this layer.
        sal: Step maps of the same trace.
        layer: Model layer of both.
        log: Log colour scales; linear from 0 otherwise.
        template: Show template tokens and steps too.

    Raises:
        ValueError: the token map is not of this trace, or the layer is not in the step maps.
    """
    n_tokens = len(sal.trace.tokens)
    if token_map.shape[0] != n_tokens:
        raise ValueError(f"the token map has {len(token_map)} positions, the trace {n_tokens}")
    values, grid = _token_cells(token_map, sal, template=template)
    norm = colour_norm(values, log=log)
    with style():
        figure = new_figure(10.6, 4.6, compress=True)
        tokens, steps = figure.subplots(1, 2)
        image = draw_map(tokens, values, grid, norm)
        tokens.set(title=f"Layer {layer}, tokens", xlabel="key position", ylabel="query position")
        add_colour_bar(image, [tokens], saliency_label(sal.objective), [values], norm)
    step_map(sal, layer, ax=steps, log=log, template=template, title=f"Layer {layer}, steps")
    return figure


def _token_cells(
    token_map: Float[Tensor, "pos pos"], sal: StepSaliency, *, template: bool
) -> tuple[np.ma.MaskedArray, Grid]:
    """Cells of the picture: the positions shown, in blocks of equal size."""
    shown = torch.from_numpy(kept_steps(sal, template=template))
    positions = torch.isin(sal.trace.step_ids, shown).nonzero().squeeze(-1)
    block = -(-len(positions) // MOST_CELLS)
    filed = (sal.layout.row_steps >= 0)[positions]
    allowed = (positions.unsqueeze(-1) >= positions) & filed.unsqueeze(-1)
    values = token_map.detach().double().cpu()[positions][:, positions]
    pooled = _largest(values.where(allowed, -torch.inf), block).numpy()
    numbers: Int[np.ndarray, "cell"] = positions[::block].numpy()
    steps = sal.trace.step_ids[positions[::block]].tolist()
    regions: tuple[Region, ...] = tuple(sal.trace.steps[step].region for step in steps)
    return np.ma.masked_array(pooled, np.isneginf(pooled)), Grid(numbers, regions, block)


def _largest(values: Float[Tensor, "pos pos"], block: int) -> Float[Tensor, "cell cell"]:
    pooled = torch.nn.functional.max_pool2d(values.unsqueeze(0), block, ceil_mode=True)
    return pooled.squeeze(0)
