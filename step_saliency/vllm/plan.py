"""What a pass of the engine edits: made once before it runs, read by every layer."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from step_saliency.vllm.members import MemberTable
from step_saliency.vllm.requests import Injection, RequestSteps

PAIRS_AT_A_TIME = 2**19
"""Pairs of queries and keys whose weights, in every head, are formed together."""
KEYS_AT_A_TIME = 2**16
"""Keys, padding included, that are gathered together for requests with one query each."""


class PlannedRow(NamedTuple):
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

    def parts(self) -> Iterator["PlannedRow"]:
        """Its queries, so many at a time that their pairs with keys fit `PAIRS_AT_A_TIME`."""
        size = max(1, PAIRS_AT_A_TIME // self.stop)
        for start in range(self.start, self.stop, size):
            first, stop = self.first + start - self.start, min(start + size, self.stop)
            if self.steps.bridge_acts(start, stop):
                yield self._replace(first=first, start=start, stop=stop)


@dataclass(frozen=True, eq=False)
class PlannedBatch:
    """Requests whose queries are moved together: all with one query, or one request.

    Attributes:
        rows: The requests.
        table: Members of the newest query of every request.
        newest: Where in it the requests are; None for some queries of one request.
    """

    rows: tuple[PlannedRow, ...]
    table: MemberTable
    newest: Int[np.ndarray, "row"] | None

    @classmethod
    def of_newest(cls, rows: Sequence[PlannedRow], table: MemberTable) -> "PlannedBatch":
        """From requests with one query each, their newest."""
        places = table.up_to_date([(row.request, row.steps, row.stop) for row in rows])
        return cls(tuple(rows), table, places)

    @property
    def width(self) -> int:
        """Places for keys."""
        return max(row.stop for row in self.rows)

    @cached_property
    def gathered(self) -> "tuple[PlannedBatch, ...]":
        """The same in parts whose gathered keys, of rows of about one length, are few enough."""
        if self.newest is None or len(self.rows) * self.width <= KEYS_AT_A_TIME:
            return (self,)
        parts: list[list[int]] = [[]]
        for place in sorted(range(len(self.rows)), key=lambda place: -self.rows[place].stop):
            longest = self.rows[parts[-1][0]].stop if parts[-1] else 0
            if longest * (len(parts[-1]) + 1) > KEYS_AT_A_TIME:
                parts.append([])
            parts[-1].append(place)
        return tuple(
            PlannedBatch(tuple(self.rows[i] for i in part), self.table, self.newest[part])
            for part in parts
        )

    @cached_property
    def in_place(self) -> Int[np.ndarray, "row 5"]:
        """Query, row of the block table, number of keys, place, and whether it is counted."""
        assert self.newest is not None
        rows = [(row.first, row.row, row.stop, 0, row.stop > row.fresh) for row in self.rows]
        numbers = np.array(rows, dtype=np.int64)
        numbers[:, 3] = self.newest
        return numbers

    @cached_property
    def taus(self) -> Float[np.ndarray, "row"]:
        """Upper bound of tau_B of each."""
        return np.array([_tau(row) for row in self.rows], dtype=np.float32)

    @cached_property
    def tau_max(self) -> Float[Tensor, "row"]:
        """The same where the engine computes."""
        return torch.from_numpy(self.taus).to(self._device)

    @cached_property
    def table_rows(self) -> Int[Tensor, "row"]:
        """Rows of the block table."""
        return self._numbers([row.row for row in self.rows])

    @cached_property
    def queries(self) -> Int[Tensor, "row query"]:
        """Indices of the queries among all of the pass."""
        return self._numbers([range(row.first, row.first + row.n_queries) for row in self.rows])

    @cached_property
    def n_keys(self) -> Int[Tensor, "row"]:
        """Keys of each request."""
        return self._numbers([row.stop for row in self.rows])

    @cached_property
    def members(self) -> Shaped[Tensor, "row query key 2"]:
        """1 where a key is in the bridge (0) or the current part (1)."""
        if self.newest is None:
            return self._own_members().to(self._device)
        places = torch.from_numpy(self.newest).to(self._device)
        return self.table.members[places, :, : self.width].mT.unsqueeze(1)

    def _own_members(self) -> Bool[Tensor, "row query key 2"]:
        (row,) = self.rows
        return row.steps.members(row.start, row.stop).unsqueeze(0)

    def _numbers(self, numbers: Sequence[int] | Sequence[range]) -> Int[Tensor, "..."]:
        return torch.from_numpy(np.array(numbers)).to(self._device)

    @property
    def _device(self) -> torch.device:
        return self.table.members.device


class Momentum(NamedTuple):
    """What one token of a pass gets.

    Attributes:
        request: Its request.
        query: Its index among all queries of the pass.
        row: Row of the request in the block table.
        previous: Positions of the step that it is the mean of.
        alpha: Strength.
        is_fresh: Whether no pass has computed it before.
    """

    request: str
    query: int
    row: int
    previous: range
    alpha: float
    is_fresh: bool

    @classmethod
    def of(cls, row: PlannedRow) -> Iterator["Momentum"]:
        """Of each token of a request that gets some."""
        assert row.steps.flow.smi is not None
        alpha = float(row.steps.flow.smi.alpha)  # type: ignore[arg-type]
        for query, previous in row.injections:
            is_fresh = row.start + query >= row.fresh
            yield cls(row.request, row.first + query, row.row, previous, alpha, is_fresh)


@dataclass(frozen=True, eq=False)
class PlannedMomentum:
    """What the requests of a pass inject into a layer.

    Attributes:
        injections: One for each token.
        device: Where the engine computes.
    """

    injections: tuple[Momentum, ...]
    device: torch.device

    @cached_property
    def in_place(self) -> Int[np.ndarray, "injection 4"]:
        """Query, row of the block table, first position of the step, and the one after its last."""
        rows = [(i.query, i.row, i.previous.start, i.previous.stop) for i in self.injections]
        return np.array(rows, dtype=np.int64)

    @cached_property
    def shares(self) -> Float[np.ndarray, "injection"]:
        """alpha over the number of positions."""
        factors = [i.alpha / len(i.previous) for i in self.injections]
        return np.array(factors, dtype=np.float32)

    @cached_property
    def factors(self) -> Float[Tensor, "injection"]:
        """The same where the engine computes."""
        return torch.from_numpy(self.shares).to(self.device)

    @cached_property
    def queries(self) -> Int[Tensor, "injection"]:
        """Index of each injection's query among all of the pass."""
        return torch.from_numpy(self.in_place[:, 0]).to(self.device)

    @cached_property
    def keys(self) -> Int[Tensor, "key 3"]:
        """Row of the block table, position and injection of each key of a mean."""
        keys = [
            (injection.row, position, owner)
            for owner, injection in enumerate(self.injections)
            for position in injection.previous
        ]
        return torch.from_numpy(np.array(keys)).to(self.device)


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
    def layers(self) -> frozenset[int]:
        """Layers in which a query may be edited."""
        return self.bridge_layers | self.momentum_layers

    @cached_property
    def bridge_layers(self) -> frozenset[int]:
        """Layers in which a bridge may move a query."""
        bands = {row.steps.flow.oeb.layers for row in self.rows if row.acts}  # type: ignore[union-attr]
        return frozenset(layer for layers in bands for layer in layers)

    @cached_property
    def momentum_layers(self) -> frozenset[int]:
        """Layers in which a query gets momentum."""
        bands = {row.steps.flow.smi.layers for row in self.rows if row.injections}  # type: ignore[union-attr]
        return frozenset(layer for layers in bands for layer in layers)

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
        return [*newest, *(PlannedBatch((part,), self.table, None) for part in parts)]

    def momentum(self, layer: int) -> PlannedMomentum:
        """What is injected into a layer; shared by the layers that get the same."""
        places = tuple(
            place
            for place, row in enumerate(self.rows)
            if row.injections and layer in row.steps.flow.smi.layers  # type: ignore[union-attr]
        )
        if places not in self._momenta:
            injections = [each for place in places for each in Momentum.of(self.rows[place])]
            device = self.table.members.device
            self._momenta[places] = PlannedMomentum(tuple(injections), device)
        return self._momenta[places]
