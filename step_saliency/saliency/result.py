"""A map of one trace, with everything that is needed to read it."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from step_saliency.saliency.pooling import Pool, Rows, StepLayout, defined_pairs, step_layout
from step_saliency.trace import Trace


@dataclass(frozen=True, eq=False)
class StepSaliency:
    """How much the predictions of each step depend, through attention, on each earlier step.

    Attributes:
        maps: ``layer step step``, or ``layer head step step`` with ``per_head``; rows are query steps,
            columns key steps. Entries above the diagonal and of empty rows are 0 (see `defined`).
        trace: The trace that the maps are of.
        layers: Model layer of each map.
        n_layers: Number of layers that the model has.
        objective: Name of the objective whose gradient was taken.
        method: Path that computed the maps: ``"hooks"`` or ``"streaming"``.
        pool: How token pairs became step pairs, see `step_saliency.saliency.pooling`.
        rows: Whether row t is filed under position t or under the token predicted there.
        last_row: Whether the last position's prediction counts.
    """

    maps: Float[Tensor, "layer step step"] | Float[Tensor, "layer head step step"]
    trace: Trace
    layers: tuple[int, ...]
    n_layers: int
    objective: str
    method: str
    pool: Pool
    rows: Rows
    last_row: bool = False

    @property
    def per_head(self) -> bool:
        """Whether `maps` has a head axis."""
        return self.maps.ndim == 4

    @cached_property
    def layout(self) -> StepLayout:
        """Rows and columns of the token maps behind these maps."""
        return step_layout(self.trace.step_ids, rows=self.rows, last_row=self.last_row)

    @cached_property
    def defined(self) -> Bool[Tensor, "step step"]:
        """Pairs of steps with at least one pair of positions: the entries that mean something."""
        return defined_pairs(self.layout)

    @property
    def mean_heads(self) -> Float[Tensor, "layer step step"]:
        """The maps averaged over heads (the maps themselves without ``per_head``)."""
        return self.maps.mean(1) if self.per_head else self.maps

    def layer(self, layer: int) -> Float[Tensor, "*head step step"]:
        """Map of one model layer.

        Raises:
            ValueError: the layer was not computed.
        """
        if layer not in self.layers:
            raise ValueError(f"layer {layer} was not computed; there are {list(self.layers)}")
        return self.maps[self.layers.index(layer)]
