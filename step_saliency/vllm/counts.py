"""What was done to each request: counters that are summed on the device and read when asked for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from step_saliency.intervene.effects import Effects
from step_saliency.intervene.oeb.edit import OddsEqualBridge
from step_saliency.intervene.oeb.projection import odds_equal_factors
from step_saliency.intervene.smi import StepMomentumInjection
from step_saliency.vllm.plan import PlannedBatch

COUNTED_TOGETHER = 256
"""Batches of rows whose counters are summed together."""


@dataclass(frozen=True, eq=False)
class MovedRows:
    """Queries that a bridge saw in one layer of one pass."""

    layer: int
    batch: PlannedBatch
    sums: Float[Tensor, "row query head 2"]
    counts: Float[Tensor, "row query 2"]


@dataclass(eq=False)
class RequestCounts:
    """Effects of each request that is running or has ended and not been fetched.

    What is computed anew after a preemption is counted once.

    Attributes:
        kept: Requests whose effects are kept until they are fetched; the oldest are dropped.
    """

    kept: int = 10_000
    _effects: dict[str, Effects] = field(default_factory=dict)
    _waiting: list[MovedRows] = field(default_factory=list)

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

    def injected(self, request: str, layer: int, n: int) -> None:
        """Momentum that was added."""
        self._of(request).add(StepMomentumInjection.__name__, layer, injections=n)

    def settle(self) -> None:
        """Count all that waits."""
        waiting, self._waiting = self._waiting, []
        for layer in sorted({rows.layer for rows in waiting}):
            self._count(layer, [rows for rows in waiting if rows.layer == layer])

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


Written = Sequence[Sequence[Any]]
"""Layer, edit, counter and its sum, over all heads together or by head."""


def written(effects: Effects) -> Written:
    """Effects in JSON types, for the way between processes."""
    return [
        [layer, edit, name, total.tolist()]
        for (layer, edit), totals in effects.sums.items()
        for name, total in totals.items()
    ]


def of_all_ranks(by_worker: Sequence[Mapping[str, Written]]) -> Effects:
    """Effects of all requests together, from what each rank of a tensor-parallel engine counted.

    Ranks have heads of their own, one behind the other; what is counted for all heads together,
    each of them has counted.

    Args:
        by_worker: What each rank `written`, by request.
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
