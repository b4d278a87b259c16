"""A map of one trace, with everything that is needed to read it."""

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from step_saliency.models.bands import spell_layers
from step_saliency.options import Pool, Rows
from step_saliency.saliency.frame import map_frame
from step_saliency.saliency.given import layer_numbers, whole_numbers
from step_saliency.saliency.map_files import read_maps, write_maps
from step_saliency.saliency.pooling import (
    StepLayout,
    defined_pairs,
    mean_over_layers,
    step_layout,
)
from step_saliency.trace import Region, Trace

if TYPE_CHECKING:
    import circuitsvis.utils.render
    import matplotlib.axes
    import matplotlib.figure


@dataclass(frozen=True, eq=False)
class StepSaliency:
    """How much the predictions of each step depend, through attention, on each earlier step.

    Attributes:
        maps: ``layer step step``, or ``layer head step step`` with ``per_head``; rows are query
            steps, columns key steps. Entries above the diagonal and of empty rows are 0 (see
            `defined`).
        trace: The trace that the maps are of.
        layers: Model layer of each map.
        n_layers: Number of layers that the model has.
        objective: Name of the objective whose gradient was taken.
        method: Path that computed the maps: ``"hooks"`` or ``"streaming"``.
        pool: How token pairs became step pairs, see `step_saliency.saliency.pooling`.
        rows: Whether row t is filed under position t or under the token predicted there.
        last_row: Whether the last position's prediction counts.
        windows: Sliding window of each map's layer, None where the layer sees all keys; None
            instead of all of them if not known, which counts as all keys (maps saved before windows
            were).
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
    windows: tuple[int | None, ...] | None = None

    def __post_init__(self) -> None:
        if self.windows is not None and len(self.windows) != len(self.layers):
            raise ValueError(f"{len(self.windows)} windows for {len(self.layers)} layers")

    @property
    def per_head(self) -> bool:
        """Whether `maps` has a head axis."""
        return self.maps.ndim == 4

    @cached_property
    def layout(self) -> StepLayout:
        """Rows and columns of the token maps behind these maps."""
        return step_layout(self.trace.step_ids, rows=self.rows, last_row=self.last_row)

    @cached_property
    def seen(self) -> Bool[Tensor, "layer step step"]:
        """Pairs of steps with at least one pair of positions that is inside the layer's window:
        the entries that mean something."""
        pairs = defined_pairs(self.layout, self.windows)
        return pairs if pairs.ndim == 3 else pairs.expand(len(self.layers), -1, -1)

    @property
    def defined(self) -> Bool[Tensor, "step step"]:
        """Pairs of steps that are `seen` in any of the layers."""
        return self.seen.any(0)

    @property
    def mean_heads(self) -> Float[Tensor, "layer step step"]:
        """The maps averaged over heads (the maps themselves without ``per_head``)."""
        return self.maps.mean(1) if self.per_head else self.maps

    def layer(self, layer: int) -> Float[Tensor, "*head step step"]:
        """Map of one model layer; negative ones count from the model's last.

        Raises:
            ValueError: the layer was not computed.
        """
        return self.maps[self._index(layer)]

    def to_frame(self) -> pd.DataFrame:
        """One row per layer, head and pair of steps that the maps say something about.

        Returns:
            Columns ``layer, head, query_step, key_step, query_region, key_region, saliency``, for
            the pairs that are `seen` in the layer. ``head`` is missing throughout without
            ``per_head``; regions are categories in the order of `Region`. Template steps are
            included.
        """
        return map_frame(self.maps, layers=self.layers, seen=self.seen, regions=self.trace.regions)

    def save(self, path: str | Path) -> None:
        """Write maps and trace to one safetensors file.

        The file appears whole or not at all: it is written beside its place and moved there.

        Args:
            path: File to write; one that is there is replaced. Its folder is made.
        """
        write_maps(Path(path), self.maps, self._description())

    @classmethod
    def load(cls, path: str | Path) -> "StepSaliency":
        """Read what `save` wrote.

        Files of before maps knew windows are read as of a model without; a warning says so.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is cut short or is no map.
        """
        maps, fields = read_maps(path)
        trace, layers = fields.pop("trace"), tuple(fields.pop("layers"))
        windows = fields.pop("windows", None)
        if windows is None:
            warnings.warn(
                "a saved map does not say which keys its layers see: it counts as a map of full "
                "attention; if the model has sliding windows, map the trace again",
                stacklevel=2,
            )
        windows = None if windows is None else tuple(windows)
        return cls(maps=maps, trace=trace, layers=layers, windows=windows, **fields)

    def plot(
        self,
        layer: int | Sequence[int] | Literal["mean"] = "mean",
        *,
        head: int | None = None,
        ax: "matplotlib.axes.Axes | None" = None,
        log: bool = True,
        template: bool = False,
        vmin: float | int | None = None,
        vmax: float | int | None = None,
        title: str | None = None,
    ) -> "matplotlib.figure.Figure":
        """Heat map of one layer, of the mean over layers, or of several layers on one colour scale.

        Rows are query steps (what is being written), columns key steps (what is looked at).

        Args:
            layer: Model layer, several of them (one panel each), or ``"mean"``: of each pair, over
                the layers computed that see it. Here and elsewhere negative ones count from the
                end.
            head: Head to show; the mean over heads by default.
            ax: Where to draw a single map; a new figure by default.
            log: Log colour scale; linear from 0 otherwise.
            template: Show template steps too.
            vmin: Low end of the colour scale.
            vmax: High end of the colour scale.
            title: Title of a single map; layer and head by default.

        Raises:
            ValueError: a layer or head is not in the maps, ``ax`` or ``title`` comes with several
                layers, or ``vmin`` and ``vmax`` make no colour scale.
        """
        from step_saliency.plotting.step_maps import step_map
        from step_saliency.plotting.style import saliency_label

        several = None if isinstance(layer, str) else whole_numbers(layer)
        layers: Sequence[Any] = several or [layer]
        if len(layers) != 1 and (ax is not None or title is not None):
            raise ValueError(
                f"ax and title are for a single map; {len(layers)} layers were asked for"
            )
        return step_map(
            torch.stack([self._panel(one, head) for one in layers]),
            self.trace.regions,
            defined=torch.stack([self._defined(one) for one in layers]),
            titles=[self._title(one, head) if title is None else title for one in layers],
            label=saliency_label(self.objective, self.pool),
            ax=ax,
            log=log,
            template=template,
            vmin=vmin,
            vmax=vmax,
        )

    def plot_tokens(
        self,
        token_map: Float[Tensor, "pos pos"] | Float[np.ndarray, "pos pos"],
        layer: int,
        *,
        log: bool = True,
        template: bool = False,
    ) -> "matplotlib.figure.Figure":
        """Token map of a layer beside its step map, each on its own colour scale.

        Args:
            token_map: Influence of key position (column) on query position (row) in this layer.
            layer: Model layer of both.
            log: Log colour scales; linear from 0 otherwise.
            template: Show template tokens and steps too.

        Raises:
            ValueError: the token map is not of this trace, or the layer is not in the maps.
        """
        from step_saliency.plotting.token_maps import token_and_step

        if not isinstance(token_map, Tensor | np.ndarray):
            raise ValueError(
                f"a {type(token_map).__name__} is no token map; token_map(model, trace, layer=...) "
                "makes one"
            )
        token_map = torch.as_tensor(token_map)
        if token_map.shape != (len(self.trace), len(self.trace)):
            raise ValueError(
                f"the token map is of shape {list(token_map.shape)} and the trace has "
                f"{len(self.trace)} positions; a map per head is drawn one head at a time"
            )
        return token_and_step(
            token_map,
            self._panel(layer),
            self.trace,
            filed=self.layout.row_steps >= 0,
            defined=self._defined(layer),
            layer=self.layers[self._index(layer)],
            objective=self.objective,
            pool=self.pool,
            log=log,
            template=template,
        )

    def view(
        self, layer: int | None = None, *, template: bool = False
    ) -> "circuitsvis.utils.render.RenderedHTML":
        """Interactive attention view, each row as shares that sum to one.

        Args:
            layer: Layer whose heads to show (one averaged map without ``per_head``); without it,
                the layers are shown side by side, averaged over heads.
            template: Show template steps too.

        Raises:
            ValueError: the layer is not in the maps.
        """
        from step_saliency.plotting.views import attention_view

        if layer is None:
            maps, names = self.mean_heads, [f"layer {number}" for number in self.layers]
        else:
            of_layer = self.layer(layer)
            maps, names = of_layer if self.per_head else of_layer.unsqueeze(0), None
        return attention_view(maps, self.trace.steps, names=names, template=template)

    def view_step(
        self,
        query_step: int,
        layer: int | Literal["mean"] = "mean",
        *,
        template: bool = False,
    ) -> "circuitsvis.utils.render.RenderedHTML":
        """The trace's text, each step coloured by what ``query_step`` draws from it.

        Args:
            query_step: Step whose row is shown, averaged over heads.
            layer: Model layer, or of each pair the mean over those computed that see it.
            template: Show template steps too.

        Raises:
            ValueError: the trace has no such step, or the layer is not in the maps.
        """
        from step_saliency.plotting.views import step_view

        query_step = _place("query_step", query_step, self.trace.n_steps, "steps")
        if layer == "mean":
            row = mean_over_layers(self.mean_heads, self.seen)[query_step]
        else:
            row = self.layer(layer)[..., query_step, :].reshape(-1, len(self.trace.steps)).mean(0)
        return step_view(row, self.trace.steps, template=template)

    def _panel(
        self, layer: int | Literal["mean"], head: int | None = None
    ) -> Float[Tensor, "step step"]:
        """One map to draw, in double precision: of one layer or the mean of those that see a pair,
        of one head or the mean of all."""
        if layer == "mean":
            mean = mean_over_layers(self.maps, self.seen)
        else:
            mean = self.layer(layer).detach().double()
        if not self.per_head:
            if head is not None:
                raise ValueError(
                    f"head={head!r:.80}, but the maps are averaged over heads; use per_head=True"
                )
            return mean
        if head is None:
            return mean.mean(0)
        return mean[_place("head", head, len(mean), "heads of the maps")]

    def _defined(self, layer: int | Literal["mean"]) -> Bool[Tensor, "step step"]:
        return self.defined if layer == "mean" else self.seen[self._index(layer)]

    def _index(self, layer: int) -> int:
        """Which of the maps is that of a model layer."""
        (number,) = layer_numbers([layer], self.n_layers)
        if number not in self.layers:
            raise ValueError(f"layer {layer} was not computed; there are {list(self.layers)}")
        return self.layers.index(number)

    def _title(self, layer: int | Literal["mean"], head: int | None) -> str:
        of_mean = f"Mean of {len(self.layers)} layers"
        name = of_mean if layer == "mean" else f"Layer {self.layers[self._index(layer)]}"
        return name if head is None else f"{name}, head {head}"

    def _repr_html_(self) -> str:
        from step_saliency.plotting.html import card, shortened

        heads = f", {self.maps.shape[1]} heads each" if self.per_head else ", averaged over heads"
        facts = {
            "trace": self.trace.id or "(no id)",
            "question": shortened(self.trace.question, 160),
            "tokens": str(len(self.trace.tokens)),
            "steps": f"{len(self.trace.steps)} ({self.region_counts})",
            "layers": f"{spell_layers(self.layers)} of {self.n_layers}{heads}",
            "objective": self.objective,
            "pool, rows": f"{self.pool}, {self.rows}",
            "method": self.method,
        }
        return card("StepSaliency", facts, self.plot(), name="mean step map")

    def __repr__(self) -> str:
        name = f"{self.trace.id!r}, " if self.trace.id is not None else ""
        heads = f", {self.maps.shape[1]} heads" if self.per_head else ""
        return (
            f"StepSaliency({name}{len(self.layers)} of {self.n_layers} layers{heads}, "
            f"{len(self.trace.steps)} steps ({self.region_counts}), "
            f"objective={self.objective!r}, pool={self.pool!r}, rows={self.rows!r}, "
            f"method={self.method!r})"
        )

    @property
    def region_counts(self) -> str:
        """Steps of each region, in words."""
        counts = Counter(self.trace.regions)
        return ", ".join(f"{counts[region]} {region.value}" for region in Region if counts[region])

    def _description(self) -> dict[str, Any]:
        scalars = ("n_layers", "objective", "method", "pool", "rows", "last_row")
        fields = {name: getattr(self, name) for name in scalars}
        windows = None if self.windows is None else list(self.windows)
        lists = {"layers": list(self.layers), "windows": windows}
        return {"trace": self.trace.to_dict(), **lists, **fields}


def _place(name: str, number: object, n: int, what: str) -> int:
    """A number that counts from 0, as Python's own.

    Raises:
        ValueError: it is none, or there are not so many.
    """
    (place,) = whole_numbers([number], least=0) or [n]
    if place >= n:
        raise ValueError(f"{name}={number!r:.80} is not among the {n} {what}, 0 to {n - 1}")
    return place
