"""What a pass of the engine edits: made once before it runs, read by every layer."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from step_saliency.vllm.members import MemberTable
from step_saliency.vllm.requests import Injection, RequestSteps

PAIRS_AT_A_TIME = 2**19
"""Pairs of queries and keys whose weights, in every head, are formed together."""


@dataclass(frozen=True, eq=False)
class PlannedRow:
    """One request in a pass.

    Attributes:
        request: Its identity.
        steps: Its labels.
        row: Its row in the block table.
        first: Index of its first query among all queries of the pass.
        start: Position of that query in its sequence.
        stop: Position after its last query.
        acts: Whether its bridge may move a query.
        injections: Momentum that its queries get.
        fresh: First position that no pass has computed before.
    """

    request: str
    steps: RequestSteps
    row: int
    first: int
    start: int
    stop: int
    acts: bool
    injections: Sequence[Injection]
    fresh: int = 0

    @property
    def n_queries(self) -> int:
        return self.stop - self.start

    @property
    def n_fresh_injections(self) -> int:
        """Injections into positions that no pass has computed before."""
        return sum(self.start + each.query >= self.fresh for each in self.injections)

    def parts(self) -> Iterator["PlannedRow"]:
        """Its queries, so many at a time that their pairs with keys fit `PAIRS_AT_A_TIME`."""
        size = max(1, PAIRS_AT_A_TIME // self.stop)
        for start in range(self.start, self.stop, size):
            first, stop = self.first + start - self.start, min(start + size, self.stop)
            if self.steps.bridge_acts(start, stop):
                yield replace(self, first=first, start=start, stop=stop)


@dataclass(frozen=True, eq=False)
class PlannedBatch:
    """Requests whose queries are moved together: all with one query, or one request.

    Attributes:
        rows: The requests.
        table_rows: Rows of the block table.
        queries: Indices of the queries among all of the pass.
        n_keys: Keys of each request.
        tau_max: Upper bound of tau_B of each.
        own_members: Members of the queries of one request; None where the table has them.
        table: Members of the newest query of every request.
        places: Where in it the requests are.
    """

    rows: tuple[PlannedRow, ...]
    table_rows: Int[Tensor, "row"]
    queries: Int[Tensor, "row query"]
    n_keys: Int[Tensor, "row"]
    tau_max: Float[Tensor, "row"]
    own_members: Bool[Tensor, "row query key 2"] | None
    table: MemberTable
    places: Int[Tensor, "row"] | None

    @classmethod
    def of_newest(cls, rows: Sequence[PlannedRow], table: MemberTable) -> "PlannedBatch":
        """From requests with one query each, their newest."""
        places = table.up_to_date([(row.request, row.steps, row.stop) for row in rows])
        device = table.members.device
        return cls(**_of_rows(rows, device), own_members=None, table=table, places=places)

    @classmethod
    def of_one(cls, row: PlannedRow, table: MemberTable) -> "PlannedBatch":
        """From some queries of one request."""
        members = row.steps.members(row.start, row.stop).unsqueeze(0)
        device = table.members.device
        own = members.to(device)
        return cls(**_of_rows([row], device), own_members=own, table=table, places=None)

    @property
    def width(self) -> int:
        """Places for keys."""
        return max(row.stop for row in self.rows)

    @property
    def members(self) -> Shaped[Tensor, "row query key 2"]:
        """1 where a key is in the bridge (0) or the current part (1)."""
        if self.own_members is not None:
            return self.own_members
        return self.table.members[self.places, :, : self.width].mT.unsqueeze(1)


def _of_rows(rows: Sequence[PlannedRow], device: torch.device) -> dict[str, Any]:
    """What a batch has of each of its requests."""
    queries = [list(range(row.first, row.first + row.n_queries)) for row in rows]
    return {
        "rows": tuple(rows),
        "table_rows": torch.tensor([row.row for row in rows], device=device),
        "queries": torch.tensor(queries, device=device),
        "n_keys": torch.tensor([row.stop for row in rows], device=device),
        "tau_max": torch.tensor([_tau(row) for row in rows], device=device),
    }


@dataclass(frozen=True, eq=False)
class PlannedMomentum:
    """What the requests of a pass inject into a layer.

    Attributes:
        rows: The requests.
        table_rows: Row of the block table, for each key of a mean.
        positions: Its position in the request.
        owners: Which injection it belongs to.
        queries: Index of each injection's query among all of the pass.
        factors: alpha over the number of its keys.
    """

    rows: tuple[PlannedRow, ...]
    table_rows: Int[Tensor, "key"]
    positions: Int[Tensor, "key"]
    owners: Int[Tensor, "key"]
    queries: Int[Tensor, "injection"]
    factors: Float[Tensor, "injection"]

    @classmethod
    def of(cls, rows: Sequence[PlannedRow], device: torch.device) -> "PlannedMomentum":
        """From requests, each with an injection or more."""
        injections = [(row, injection) for row in rows for injection in row.injections]
        keys = [
            (row.row, position, owner)
            for owner, (row, injection) in enumerate(injections)
            for position in injection.previous
        ]
        table_rows, positions, owners = torch.tensor(keys, device=device).unbind(-1)
        queries = [row.first + injection.query for row, injection in injections]
        factors = [_alpha(row) / len(injection.previous) for row, injection in injections]
        return cls(
            tuple(rows),
            table_rows,
            positions,
            owners,
            torch.tensor(queries, device=device),
            torch.tensor(factors, device=device),
        )


def _alpha(row: PlannedRow) -> float:
    assert row.steps.flow.smi is not None
    return float(row.steps.flow.smi.alpha)  # type: ignore[arg-type]


def _tau(row: PlannedRow) -> float:
    assert row.steps.flow.oeb is not None
    return float(row.steps.flow.oeb.tau_max)  # type: ignore[arg-type]


@dataclass(eq=False)
class PassPlan:
    """The edits of one pass.

    Attributes:
        rows: Requests with a flow.
        table: Members of the newest query of every request.
    """

    rows: Sequence[PlannedRow]
    table: MemberTable
    _batches: dict[tuple[int, ...], list[PlannedBatch]] = field(default_factory=dict)
    _momenta: dict[tuple[int, ...], PlannedMomentum] = field(default_factory=dict)

    @cached_property
    def bridge_layers(self) -> frozenset[int]:
        """Layers in which a bridge may move a query."""
        return frozenset(
            layer
            for row in self.rows
            if row.acts
            for layer in row.steps.flow.oeb.layers  # type: ignore[union-attr]
        )

    @cached_property
    def momentum_layers(self) -> frozenset[int]:
        """Layers in which a query gets momentum."""
        return frozenset(
            layer
            for row in self.rows
            if row.injections
            for layer in row.steps.flow.smi.layers  # type: ignore[union-attr]
        )

    def batches(self, layer: int) -> list[PlannedBatch]:
        """Queries that a layer's bridge may move; shared by the layers that move the same."""
        places = tuple(
            place
            for place, row in enumerate(self.rows)
            if row.acts and layer in row.steps.flow.oeb.layers  # type: ignore[union-attr]
        )
        if places not in self._batches:
            self._batches[places] = self._made([self.rows[place] for place in places])
        return self._batches[places]

    def _made(self, rows: Sequence[PlannedRow]) -> list[PlannedBatch]:
        single = [row for row in rows if row.n_queries == 1]
        parts = [part for row in rows if row.n_queries > 1 for part in row.parts()]
        newest = [PlannedBatch.of_newest(single, self.table)] if single else []
        return [*newest, *(PlannedBatch.of_one(part, self.table) for part in parts)]

    def momentum(self, layer: int) -> PlannedMomentum:
        """What is injected into a layer; shared by the layers that get the same."""
        places = tuple(
            place
            for place, row in enumerate(self.rows)
            if row.injections and layer in row.steps.flow.smi.layers  # type: ignore[union-attr]
        )
        if places not in self._momenta:
            rows = [self.rows[place] for place in places]
            self._momenta[places] = PlannedMomentum.of(rows, self.table.members.device)
        return self._momenta[places]
