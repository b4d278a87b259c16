"""A map of one trace, with everything that is needed to read it."""

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from step_saliency.options import Pool, Rows
from step_saliency.saliency.pooling import StepLayout, defined_pairs, step_layout
from step_saliency.trace import Region, Trace

if TYPE_CHECKING:
    import circuitsvis.utils.render
    import matplotlib.axes
    import matplotlib.figure

FORMAT = "step-saliency-map/1"


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

    def to_frame(self) -> pd.DataFrame:
        """One row per layer, head and pair of steps that the maps say something about.

        Returns:
            Columns ``layer, head, query_step, key_step, query_region, key_region, saliency``, for
            the pairs that are `defined`. ``head`` is missing throughout without ``per_head``;
            regions are categories in the order of `Region`. Template steps are included.
        """
        query, key = self.defined.nonzero(as_tuple=True)
        n_heads = self.maps.shape[1] if self.per_head else 1
        n_pairs, n_maps = len(query), len(self.layers) * n_heads
        heads = torch.arange(n_heads).repeat_interleave(n_pairs).repeat(len(self.layers))
        layers = torch.tensor(self.layers, dtype=torch.long).repeat_interleave(n_heads * n_pairs)
        query, key = query.repeat(n_maps), key.repeat(n_maps)
        saliency = self.maps.detach().cpu()[..., self.defined].flatten()
        return pd.DataFrame(
            {
                "layer": layers.numpy(),
                "head": pd.array(heads.numpy(), dtype="Int64") if self.per_head else pd.NA,
                "query_step": query.numpy(),
                "key_step": key.numpy(),
                "query_region": self._regions_of(query),
                "key_region": self._regions_of(key),
                "saliency": saliency.to(torch.promote_types(saliency.dtype, torch.float32)).numpy(),
            }
        ).astype({"head": "Int64"})

    def save(self, path: str | Path) -> None:
        """Write maps and trace to one safetensors file.

        The file appears whole or not at all: it is written beside its place and moved there.

        Args:
            path: File to write; one that is there is replaced. Its folder is made.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors = {"maps": self.maps.detach().cpu().contiguous()}
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            save_file(tensors, part, metadata={"format": FORMAT, "saliency": self._description()})
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | Path) -> "StepSaliency":
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is cut short or is no map.
        """
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                maps = file.get_tensor("maps").clone() if metadata.get("format") == FORMAT else None
        except SafetensorError as error:
            raise ValueError(f"{path} is cut short or no safetensors file: {error}") from error
        if maps is None:
            raise ValueError(
                f"{path} is no saved map: its format is {metadata.get('format')!r}, not {FORMAT!r}"
            )
        fields = json.loads(metadata["saliency"])
        trace, layers = Trace.from_dict(fields.pop("trace")), tuple(fields.pop("layers"))
        return cls(maps=maps, trace=trace, layers=layers, **fields)

    def plot(
        self,
        layer: int | Sequence[int] | Literal["mean"] = "mean",
        *,
        head: int | None = None,
        ax: "matplotlib.axes.Axes | None" = None,
        log: bool = True,
        template: bool = False,
        vmin: float | None = None,
        vmax: float | None = None,
        title: str | None = None,
    ) -> "matplotlib.figure.Figure":
        """Heat map of a layer, of several or of their mean: `step_saliency.report.step_map`."""
        from step_saliency.plotting.step_maps import step_map

        return step_map(
            self,
            layer,
            head=head,
            ax=ax,
            log=log,
            template=template,
            vmin=vmin,
            vmax=vmax,
            title=title,
        )

    def plot_depth(
        self, *, bands: Mapping[str, Sequence[int]] | None = None
    ) -> "matplotlib.figure.Figure":
        """Where thinking and summary rows look, lock-in and decay, by layer.

        Args:
            bands: Layers by band, as in `step_saliency.diagnosis.diagnose`.
        """
        from step_saliency.diagnosis.diagnosis import diagnose

        return diagnose(self, bands=bands).plot()

    def plot_tokens(
        self,
        token_map: Float[Tensor, "pos pos"],
        layer: int,
        *,
        log: bool = True,
        template: bool = False,
    ) -> "matplotlib.figure.Figure":
        """Token map of a layer beside its step map: `step_saliency.report.token_and_step`."""
        from step_saliency.plotting.token_maps import token_and_step

        return token_and_step(token_map, self, layer, log=log, template=template)

    def view(
        self, layer: int | None = None, *, template: bool = False
    ) -> "circuitsvis.utils.render.RenderedHTML":
        """Interactive attention view of the heads of a layer, or of all layers."""
        from step_saliency.plotting.views import attention_view

        return attention_view(self, layer, template=template)

    def view_step(
        self,
        query_step: int,
        layer: int | Literal["mean"] = "mean",
        *,
        template: bool = False,
    ) -> "circuitsvis.utils.render.RenderedHTML":
        """The trace's text, each step coloured by what ``query_step`` draws from it."""
        from step_saliency.plotting.views import step_view

        return step_view(self, query_step, layer, template=template)

    def _repr_html_(self) -> str:
        from step_saliency.plotting.html import saliency_html

        return saliency_html(self)

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

    def _regions_of(self, steps: Tensor) -> pd.api.extensions.ExtensionArray:
        names = [region.value for region in Region]
        codes = np.array([names.index(region.value) for region in self.trace.regions], np.int8)
        return pd.Categorical.from_codes(codes[steps.numpy()], categories=pd.Index(names))

    def _description(self) -> str:
        scalars = ("n_layers", "objective", "method", "pool", "rows", "last_row")
        fields = {name: getattr(self, name) for name in scalars}
        return json.dumps({"trace": self.trace.to_dict(), "layers": list(self.layers), **fields})
