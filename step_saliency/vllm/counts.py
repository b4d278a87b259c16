"""What was done to each request: counters that are summed on the device and read when asked for."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from step_saliency.intervene.effects import Effects
from step_saliency.intervene.oeb.edit import OddsEqualBridge
from step_saliency.intervene.oeb.projection import odds_equal_factors
from step_saliency.intervene.smi import StepMomentumInjection
from step_saliency.vllm.cpu_kernel import COUNTED
from step_saliency.vllm.plan import Momentum, PlannedBatch

COUNTED_TOGETHER = 256
"""Batches of rows, or passes of a layer with momentum, whose counters are summed together."""


@dataclass(frozen=True, eq=False)
class MovedRows:
    """Queries that a bridge saw in one layer of one pass."""

    layer: int
    batch: PlannedBatch
    sums: Float[Tensor, "row query head 2"]
    counts: Float[Tensor, "row query 2"]


@dataclass(frozen=True, eq=False)
class Injected:
    """What momentum added in one layer of one pass.

    Attributes:
        layer: The layer.
        injections: One for each token.
        added: What the output of attention gained.
        residual: What the layer reads at these tokens; None where it is not known.
    """

    layer: int
    injections: tuple[Momentum, ...]
    added: Float[Tensor, "injection head d_value"]
    residual: Float[Tensor, "injection d_model"] | None

    def residual_norms(self, dtype: torch.dtype) -> Float[Tensor, "injection"]:
        """Norm of the residual at each token; NaN where it is not known."""
        if self.residual is None:
            return self.added.new_full((len(self.added),), float("nan"), dtype=dtype)
        return self.residual.to(dtype).norm(dim=-1)


Written = Callable[
    [int, Float[Tensor, "injection head d_value"]], Float[Tensor, "injection d_model"]
]
"""What head outputs of a layer write to the residual stream."""


@dataclass(eq=False)
class RequestCounts:
    """Effects of each request that is running or has ended and not been fetched.

    What is computed anew after a preemption is counted once.

    Attributes:
        places: Place of each running request in the sums of kernels.
        written: What head outputs write to the residual; None where it is not known.
        kept: Requests whose effects are kept until they are fetched; the oldest are dropped.
    """

    places: Mapping[str, int] = field(default_factory=dict)
    written: Written | None = None
    kept: int = 10_000
    _effects: dict[str, Effects] = field(default_factory=dict)
    _waiting: list[MovedRows] = field(default_factory=list)
    _injected: list[Injected] = field(default_factory=list)
    _sums: dict[int, Float[np.ndarray, "place head counter"]] = field(default_factory=dict)

    def moved(
        self,
        layer: int,
        batch: PlannedBatch,
        sums: Float[Tensor, "row query head 2"],
        counts: Float[Tensor, "row query 2"],
    ) -> None:
        """Queries that a bridge saw."""
        self._waiting.append(MovedRows(layer, batch, sums, counts))
        if len(self._waiting) >= COUNTED_TOGETHER:
            self.settle()

    def injected(self, injected: Injected) -> None:
        """Momentum that was added."""
        self._injected.append(injected)
        if len(self._injected) >= COUNTED_TOGETHER:
            self.settle()

    def in_place(
        self, layer: int, *, n_places: int, n_heads: int
    ) -> Float[np.ndarray, "place head counter"]:
        """Sums of a layer that a kernel adds to by itself."""
        sums = self._sums.get(layer)
        if sums is None or len(sums) < n_places:
            larger = np.zeros((n_places, n_heads, len(COUNTED)))
            if sums is not None:
                larger[: len(sums)] = sums
            sums = self._sums[layer] = larger
        return sums

    def leave(self, requests: Iterable[str]) -> None:
        """Requests give their places up."""
        for request in requests:
            if request in self.places:
                self._take(request, self.places[request])

    def settle(self) -> None:
        """Count all that waits."""
        self.leave(self.places)
        waiting, self._waiting = self._waiting, []
        for layer in sorted({rows.layer for rows in waiting}):
            self._count(layer, [rows for rows in waiting if rows.layer == layer])
        injected, self._injected = self._injected, []
        for layer in sorted({each.layer for each in injected}):
            self._count_injected(layer, [each for each in injected if each.layer == layer])

    def _take(self, request: str, place: int) -> None:
        for layer, sums in self._sums.items():
            if place < len(sums) and sums[place, :, :2].any():
                counters = zip(COUNTED, torch.tensor(sums[place].T), strict=True)
                self._of(request).add(OddsEqualBridge.__name__, layer, **dict(counters))
                sums[place] = 0

    def _count_injected(self, layer: int, waiting: Sequence[Injected]) -> None:
        norms = self._norms(layer, waiting)
        of_request: dict[str, list[int]] = {}
        injections = (injection for each in waiting for injection in each.injections)
        for number, injection in enumerate(injections):
            counted = of_request.setdefault(injection.request, [])
            if injection.is_fresh:
                counted.append(number)
        for request, counted in of_request.items():
            counters: dict[str, float] = {"injections": len(counted)}
            if norms is not None:
                counters["injected_norm"] = float(norms[counted].sum())
            self._of(request).add(StepMomentumInjection.__name__, layer, **counters)

    def _norms(self, layer: int, waiting: Sequence[Injected]) -> Float[Tensor, "injection"] | None:
        """Norm of each vector in the residual stream, relative to the norm of the residual.

        None in an engine whose layers cannot be looked into, NaN where one was not seen.
        """
        if self.written is None:
            return None
        written = self.written(layer, torch.cat([each.added for each in waiting]))
        exact = torch.promote_types(written.dtype, torch.float32)
        residual = torch.cat([each.residual_norms(exact) for each in waiting])
        return (written.to(exact).norm(dim=-1) / residual).cpu()

    def _count(self, layer: int, waiting: Sequence[MovedRows]) -> None:
        names = [row.request for rows in waiting for row in rows.batch.rows]
        requests = list(dict.fromkeys(names))
        place = {request: number for number, request in enumerate(requests)}
        owner = [
            place[row.request] if position >= row.fresh else len(requests)
            for rows in waiting
            for row in rows.batch.rows
            for position in range(row.start, row.stop)
        ]
        sums = torch.cat([rows.sums.flatten(0, 1) for rows in waiting]).double()
        counts = torch.cat([rows.counts.flatten(0, 1) for rows in waiting])
        taus = torch.cat(
            [rows.batch.tau_max.repeat_interleave(rows.counts.shape[1]) for rows in waiting]
        )
        counters = row_counters(sums, counts, taus)
        owners = torch.tensor(owner, device=sums.device)
        for name, rows in counters.items():
            none = rows.new_zeros(len(requests) + 1, rows.shape[1])
            totals = none.index_add(0, owners, rows)[:-1].cpu()
            for request, total in zip(requests, totals, strict=True):
                self._of(request).add(OddsEqualBridge.__name__, layer, **{name: total})

    def _of(self, request: str) -> Effects:
        if request not in self._effects and len(self._effects) >= self.kept:
            del self._effects[next(iter(self._effects))]
        return self._effects.setdefault(request, Effects())

    def fetch(self, requests: Sequence[str] | None = None) -> dict[str, Effects]:
        """Effects of requests (by default of all), which are forgotten here."""
        self.settle()
        names = list(self._effects) if requests is None else requests
        return {name: self._effects.pop(name) for name in names if name in self._effects}


Sent = Sequence[Sequence[Any]]
"""Layer, edit, counter and its sum, over all heads together or by head."""


def sent(effects: Effects) -> Sent:
    """Effects in JSON types, for the way between processes."""
    return [
        [layer, edit, name, total.tolist()]
        for (layer, edit), totals in effects.sums.items()
        for name, total in totals.items()
    ]


def of_all_ranks(by_worker: Sequence[Mapping[str, Sent]]) -> Effects:
    """Effects of all requests together, from what each rank of a tensor-parallel engine counted.

    Ranks have heads of their own, one behind the other; what is counted for all heads together,
    each of them has counted.

    Args:
        by_worker: What each rank `sent`, by request.
    """
    effects = Effects()
    for request in by_worker[0]:
        ranks = [worker[request] for worker in by_worker]
        for places in zip(*ranks, strict=True):
            layer, edit, name, total = places[0]
            assert all(place[:3] == places[0][:3] for place in places)
            if isinstance(total, list):
                total = [number for place in places for number in place[3]]
            effects.add(edit, layer, **{name: torch.tensor(total, dtype=torch.float64)})
    return effects


def row_counters(
    sums: Float[Tensor, "row head 2"],
    counts: Float[Tensor, "row 2"],
    tau_max: Float[Tensor, "row"],
) -> dict[str, Float[Tensor, "row head"]]:
    """Counters of `Effects` for each query and head.

    Args:
        sums: Mass of the bridge (0) and of the current part (1) before.
        counts: Visible keys of the bridge and of the current part.
        tau_max: Upper bound of tau_B.
    """
    counters: dict[str, Float[Tensor, "row head"]] = {}
    for tau in tau_max.unique().tolist():
        here = (tau_max == tau)[:, None]
        for name, rows in _with_bound(sums, counts, tau).items():
            counters[name] = counters.get(name, 0) + torch.where(here, rows, 0.0)
    return counters


def _with_bound(
    sums: Float[Tensor, "row head 2"], counts: Float[Tensor, "row 2"], tau: float
) -> dict[str, Float[Tensor, "row head"]]:
    bridge, current = sums.unbind(-1)
    other = (1 - bridge - current).clamp(min=0)
    n_bridge, n_current = counts[:, None].unbind(-1)
    shifts = odds_equal_factors(bridge, current, other, n_bridge, n_current, tau).shifts
    rows = {
        "rows_seen": shifts.acts,
        "rows_shifted": shifts.shifted,
        "infeasible": shifts.infeasible,
        "mass_before": shifts.mass_before,
        "mass_after": shifts.mass_after,
        "kl": shifts.divergence,
        "total_variation": shifts.variation,
    }
    return {name: value.double().expand_as(bridge) for name, value in rows.items()}
