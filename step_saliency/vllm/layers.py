"""One layer of a pass: what is added to the output of vLLM's own kernel."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from step_saliency.vllm.counts import RequestCounts
from step_saliency.vllm.cpu_kernel import compiled
from step_saliency.vllm.edits import Bridged, bridged, momenta, visible_keys
from step_saliency.vllm.engine import RunningPass
from step_saliency.vllm.paged import PackedPages, Pages
from step_saliency.vllm.plan import PassPlan, PlannedBatch


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
            self._momentum(plan, counts)

    def _bridge(self, batch: PlannedBatch, counts: RequestCounts) -> None:
        result = self._bridged(batch)
        self._add(batch.queries.flatten(), result.added.flatten(0, 1))
        counts.moved(self.layer, batch, result.sums, result.counts)

    def _bridged(self, batch: PlannedBatch) -> Bridged:
        width = batch.width
        n_queries = batch.queries.shape[1]
        blocks = self._blocks(batch.table_rows, width)
        if (
            batch.places is not None
            and isinstance(self.pages, PackedPages)
            and self.pages.is_read_in_place
        ):
            return self._in_place(batch, blocks, self.pages)
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

    def _in_place(
        self, batch: PlannedBatch, blocks: Int[Tensor, "row n_blocks"], pages: PackedPages
    ) -> Bridged:
        query = self.query[batch.queries[:, 0]].float()
        result = Bridged(
            torch.zeros_like(query).unsqueeze(1),
            query.new_zeros(len(query), 1, query.shape[1], 2),
            query.new_zeros(len(query), 1, 2),
        )
        sinks = query.new_empty(0) if self.sinks is None else self.sinks.float()
        assert batch.places is not None
        compiled()(
            query.numpy(),
            pages.halves.numpy(),
            blocks.numpy(),
            batch.n_keys.numpy(),
            batch.table.members.numpy(),
            batch.places.numpy(),
            batch.tau_max.numpy(),
            self.window or 0,
            self.scale,
            self.softcap,
            sinks.numpy(),
            tuple(each[:, 0].numpy() for each in result),
        )
        return result

    def _momentum(self, plan: PassPlan, counts: RequestCounts) -> None:
        due = plan.momentum(self.layer)
        blocks = self.block_table[due.table_rows, due.positions // self.pages.block_size].long()
        values = self.pages.some_values(blocks, due.positions % self.pages.block_size)
        added = momenta(values, due.owners, due.factors, n_heads=self.output.shape[1])
        self._add(due.queries, added)
        for row in due.rows:
            counts.injected(row.request, self.layer, row.n_fresh_injections)

    def _add(
        self, queries: Int[Tensor, "query"], added: Float[Tensor, "query head d_value"]
    ) -> None:
        before = self.output[queries]
        self.output[queries] = (before.to(added.dtype) + added).to(before.dtype)

    def _blocks(self, rows: Int[Tensor, "row"], width: int) -> Int[Tensor, "row n_blocks"]:
        n_blocks = -(-width // self.pages.block_size)
        return self.block_table[rows, :n_blocks].long()
