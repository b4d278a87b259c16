"""What a pass of the engine edits: made once before it runs, read by every layer."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

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
        members: 1 where a key is in the bridge (0) or the current part (1).
        n_keys: Keys of each request.
        tau_max: Upper bound of tau_B of each.
    """

    rows: tuple[PlannedRow, ...]
    table_rows: Int[Tensor, "row"]
    queries: Int[Tensor, "row query"]
    members: Shaped[Tensor, "row query key 2"]
    n_keys: Int[Tensor, "row"]
    tau_max: Float[Tensor, "row"]

    @classmethod
    def of(cls, rows: Sequence[PlannedRow], device: torch.device) -> "PlannedBatch":
        """From requests with as many queries each."""
        members = [row.steps.members(row.start, row.stop) for row in rows]
        padded = pad_sequence([each.transpose(0, 1) for each in members], batch_first=True)
        queries = [range(row.first, row.first + row.n_queries) for row in rows]
        return cls(
            rows=tuple(rows),
            table_rows=torch.tensor([row.row for row in rows], device=device),
            queries=torch.tensor([list(each) for each in queries], device=device),
            members=padded.transpose(1, 2).to(device),
            n_keys=torch.tensor([row.stop for row in rows], device=device),
            tau_max=torch.tensor([_tau(row) for row in rows], device=device),
        )


def _tau(row: PlannedRow) -> float:
    assert row.steps.flow.oeb is not None
    return float(row.steps.flow.oeb.tau_max)  # type: ignore[arg-type]


@dataclass(eq=False)
class PassPlan:
    """The edits of one pass.

    Attributes:
        rows: Requests with a flow.
        device: Where the engine computes.
    """

    rows: Sequence[PlannedRow]
    device: torch.device
    _batches: dict[tuple[int, ...], list[PlannedBatch]] = field(default_factory=dict)

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
        parts = [[part] for row in rows if row.n_queries > 1 for part in row.parts()]
        return [PlannedBatch.of(each, self.device) for each in [single, *parts] if each]

    def injected(self, layer: int) -> list[PlannedRow]:
        """Requests that get momentum in a layer."""
        return [row for row in self.rows if row.injections and layer in row.steps.flow.smi.layers]  # type: ignore[union-attr]
