"""One layer of a pass: what is added to the output of vLLM's own kernel."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from step_saliency.vllm.counts import Injected, RequestCounts
from step_saliency.vllm.cpu_kernel import bridged_rows, compiled, injected_rows
from step_saliency.vllm.edits import Bridged, bridged, momenta, visible_keys
from step_saliency.vllm.engine import RunningPass
from step_saliency.vllm.paged import PackedPages, Pages
from step_saliency.vllm.plan import PlannedBatch, PlannedMomentum

NO_SINKS = np.zeros(0, dtype=np.float32)


@dataclass(frozen=True, eq=False)
class LayerCall:
    """One call of a layer's attention.

    Attributes:
        layer: The layer.
        query: Queries of all tokens of the pass.
        output: What attention gave; edited in place.
        pages: Keys and values, those of the pass included.
        block_table: Blocks of each request.
        scale: Factor of the scores.
        window: Keys that a query sees; None for all.
        softcap: Bound of the scores, 0 without.
        sinks: Learned sink of each head.
    """

    layer: int
    query: Float[Tensor, "token head d_head"]
    output: Float[Tensor, "token head d_value"]
    pages: Pages
    block_table: Int[Tensor, "request n_blocks"]
    scale: float
    window: int | None = None
    softcap: float = 0.0
    sinks: Float[Tensor, "head"] | None = None

    def edit(self, running: RunningPass) -> None:
        """Add what the flows of the pass add in this layer."""
        plan, counts = running.plan, running.counts
        if self.layer in plan.bridge_layers:
            for batch in plan.batches(self.layer):
                self._bridge(batch, counts)
        if self.layer in plan.momentum_layers:
            due = plan.momentum(self.layer)
            added = self._momentum(due)
            residual = running.residuals.get(self.layer)
            counts.injected(Injected(self.layer, due.injections, added, residual))

    def _bridge(self, batch: PlannedBatch, counts: RequestCounts) -> None:
        pages = self._read_in_place()
        if pages is not None and batch.newest is not None:
            self._bridge_in_place(pages, batch, counts)
            return
        for part in batch.gathered:
            result = self._bridged(part)
            self._add(part.queries.flatten(), result.added.flatten(0, 1))
            counts.moved(self.layer, part, result.sums, result.counts)

    def _bridged(self, batch: PlannedBatch) -> Bridged:
        width = batch.width
        n_queries = batch.queries.shape[1]
        blocks = self._blocks(batch.table_rows, width)
        return bridged(
            self.query[batch.queries],
            self.pages.keys(blocks)[:, :, :width],
            self.pages.values(blocks)[:, :, :width],
            batch.members,
            visible_keys(batch.n_keys, n_queries, width, self.window),
            batch.tau_max,
            scale=self.scale,
            softcap=self.softcap,
            sinks=self.sinks,
        )

    def _bridge_in_place(
        self, pages: PackedPages, batch: PlannedBatch, counts: RequestCounts
    ) -> None:
        members = batch.table.members
        n_heads = self.output.shape[1]
        compiled(bridged_rows)(
            self.query.numpy(),
            self.output.numpy(),
            pages.halves.numpy(),
            self.block_table.numpy(),
            batch.in_place,
            members.numpy(),
            batch.taus,
            self.window or 0,
            self.scale,
            self.softcap,
            NO_SINKS if self.sinks is None else self.sinks.float().numpy(),
            counts.in_place(self.layer, n_places=len(members), n_heads=n_heads),
        )

    def _momentum(self, due: PlannedMomentum) -> Float[Tensor, "injection head d_value"]:
        pages = self._read_in_place()
        if pages is not None:
            return self._momentum_in_place(pages, due)
        table_rows, positions, owners = due.keys.unbind(-1)
        blocks = self.block_table[table_rows, positions // self.pages.block_size].long()
        values = self.pages.some_values(blocks, positions % self.pages.block_size)
        added = momenta(values, owners, due.factors, n_heads=self.output.shape[1])
        self._add(due.queries, added)
        return added

    def _momentum_in_place(
        self, pages: PackedPages, due: PlannedMomentum
    ) -> Float[Tensor, "injection head d_value"]:
        added = np.zeros((len(due.injections), *self.output.shape[1:]), dtype=np.float32)
        compiled(injected_rows)(
            self.output.numpy(),
            pages.halves.numpy(),
            self.block_table.numpy(),
            due.in_place,
            due.shares,
            added,
        )
        return torch.from_numpy(added)

    def _read_in_place(self) -> PackedPages | None:
        """The cache, if compiled loops can read it and write the output."""
        pages = self.pages
        in_place = isinstance(pages, PackedPages) and pages.is_read_in_place
        return pages if in_place and self.output.dtype == torch.float32 else None  # type: ignore[return-value]

    def _add(
        self, queries: Int[Tensor, "query"], added: Float[Tensor, "query head d_value"]
    ) -> None:
        before = self.output[queries]
        self.output[queries] = (before.to(added.dtype) + added).to(before.dtype)

    def _blocks(self, rows: Int[Tensor, "row"], width: int) -> Int[Tensor, "row n_blocks"]:
        n_blocks = -(-width // self.pages.block_size)
        return self.block_table[rows, :n_blocks].long()
