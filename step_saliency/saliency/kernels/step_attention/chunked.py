"""Step attention in tiles of queries and keys, with PyTorch alone: for CPUs and for any GPU.

Heads of one group lie side by side as rows of one matrix, so that a tile is one matrix product per
key-value head and grouped keys are never repeated. Work buffers hold one tile; everything else is
linear in pos. Tiles are computed in float32 (float64 for float64 inputs).
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from step_saliency.saliency.kernels.step_attention import short
from step_saliency.saliency.kernels.step_attention.tiles import (
    TilePooling,
    blocks,
    hide_keys,
    pack,
)
from step_saliency.saliency.kernels.step_attention.types import (
    AttentionGradients,
    AttentionSpec,
    Spans,
    StepIndex,
    Tile,
    accumulation_dtype,
    check_attention_inputs,
    diagonal_gradients,
)

DEFAULT_TILE = Tile(rows=384, keys=1024)
"""Fits the second-level cache of a CPU core, and keeps its matrix products busy."""

FUSED = "_scaled_dot_product_flash_attention_for_cpu"

GPU_TILE = Tile(rows=2048, keys=8192)
"""Few enough launches, and work buffers of 64 MiB."""


def attention(
    q: Float[Tensor, "batch head pos d_head"],
    k: Float[Tensor, "batch kv_head pos d_head"],
    v: Float[Tensor, "batch kv_head pos d_value"],
    spec: AttentionSpec,
    *,
    spans: Spans | None = None,
    sinks: Float[Tensor, "head"] | None = None,
    tile: Tile | None = None,
) -> tuple[Float[Tensor, "batch head pos d_value"], Float[Tensor, "batch head pos"]]:
    """Causal attention of one layer.

    Arguments, result and errors are those of `naive.attention`; ``tile`` changes speed and memory,
    not the result.
    """
    check_attention_inputs(q, k, v, spans, sinks)
    plain = sinks is None and all(start == 0 for start, _ in spans or ()) and _is_fused(q, v, spec)
    if tile is None and plain and short.is_short(q):
        return short.attention(q, k, v, spec, spans)
    batch, head, n_pos, _ = q.shape
    z = q.new_zeros(batch, n_pos, head, v.shape[-1]).transpose(1, 2)
    lse = q.new_full((batch, head, n_pos), torch.inf, dtype=accumulation_dtype(q.dtype))
    for sequence, (start, stop) in enumerate(spans or ((0, n_pos),) * batch):
        one_z, one_lse = _attend_one(
            q[sequence, :, start:stop],
            k[sequence, :, start:stop],
            v[sequence, :, start:stop],
            spec,
            tile or _default_tile(q),
        )
        if sinks is not None:
            with_sink = torch.logaddexp(one_lse, sinks.detach().to(one_lse).unsqueeze(-1))
            one_z = one_z * torch.exp(one_lse - with_sink).unsqueeze(-1).to(one_z.dtype)
            one_lse = with_sink
        z[sequence, :, start:stop] = one_z
        lse[sequence, :, start:stop] = one_lse
    return z, lse


def pool_influence(
    q: Float[Tensor, "batch head pos d_head"],
    k: Float[Tensor, "batch kv_head pos d_head"],
    v: Float[Tensor, "batch kv_head pos d_value"],
    z: Float[Tensor, "batch head pos d_value"],
    lse: Float[Tensor, "batch head pos"],
    dz: Float[Tensor, "batch head pos d_value"],
    spec: AttentionSpec,
    *,
    spans: Spans | None = None,
    steps: StepIndex | None = None,
    per_head: bool = False,
    local: bool = True,
    tile: Tile | None = None,
) -> AttentionGradients:
    """Differentiate attention and sum |P * dP| into pairs of steps.

    Arguments, result and errors are those of `naive.pool_influence`; ``tile`` changes speed and
    memory, not the result.
    """
    check_attention_inputs(q, k, v, spans, None)
    if tile is None and short.is_short(q):
        return short.pool_influence(
            q, k, v, z, lse, dz, spec, spans=spans, steps=steps, per_head=per_head, local=local
        )
    batch, head, n_pos, _ = q.shape
    dq, dk, dv = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
    totals = _empty_totals(q, steps, head if per_head else 1)
    for sequence, (start, stop) in enumerate(spans or ((0, n_pos),) * batch):
        real = slice(start, stop)
        one = tuple(x[sequence, :, real] for x in (q, k, v, z, lse, dz))
        layer = _Layer(one, spec, tile or _default_tile(q), full=not local)
        if steps is not None and totals is not None:
            layer.pool_into(
                totals[sequence], steps.row_steps[sequence, real], steps.key_steps[sequence, real]
            )
        layer.differentiate()
        dq[sequence, :, real] = layer.unpacked_dq()
        if layer.full:
            dk[sequence, :, real], dv[sequence, :, real] = layer.dk, layer.dv
        del layer, one  # its buffers and wide copies, before there are others
    if local:
        dk, dv = diagonal_gradients(q, k, v, z, lse, dz, spec, spans)
    return AttentionGradients(dq, dk, dv, totals)


def _default_tile(q: Tensor) -> Tile:
    return DEFAULT_TILE if q.device.type == "cpu" else GPU_TILE


def _empty_totals(
    q: Tensor, steps: StepIndex | None, heads_out: int
) -> Float[Tensor, "batch heads_out step step"] | None:
    if steps is None:
        return None
    return torch.zeros(
        (len(q), heads_out, steps.n_steps, steps.n_steps),
        dtype=accumulation_dtype(q.dtype),
        device=q.device,
    )


def _attend_one(
    q: Float[Tensor, "head pos d_head"],
    k: Float[Tensor, "kv_head pos d_head"],
    v: Float[Tensor, "kv_head pos d_value"],
    spec: AttentionSpec,
    tile: Tile,
) -> tuple[Float[Tensor, "head pos d_value"], Float[Tensor, "head pos"]]:
    if _is_fused(q, v, spec):
        return _fused_cpu_attention(q, k, v, spec.scale)
    return _tiled_attention(q, k, v, spec, tile)


def _is_fused(q: Tensor, v: Tensor, spec: AttentionSpec) -> bool:
    """Whether PyTorch's own kernel, which hands out the denominators too, computes the layer."""
    plain = spec.softcap is None and (spec.window is None or spec.window >= q.shape[-2])
    on_cpu = q.device.type == "cpu" and hasattr(torch.ops.aten, FUSED)
    return plain and on_cpu and q.shape[-1] == v.shape[-1]


def _fused_cpu_attention(
    q: Float[Tensor, "head pos d_head"],
    k: Float[Tensor, "kv_head pos d_head"],
    v: Float[Tensor, "kv_head pos d_value"],
    scale: float,
) -> tuple[Float[Tensor, "head pos d_value"], Float[Tensor, "head pos"]]:
    grouped = q.unflatten(0, (len(k), -1))
    group = grouped.shape[1]
    # a view of stride 0: one key-value head serves its group without being repeated
    k, v = (x.unsqueeze(1).expand(-1, group, -1, -1) for x in (k, v))
    z, lse = getattr(torch.ops.aten, FUSED)(grouped, k, v, 0.0, True, scale=scale)
    return z.flatten(0, 1), lse.flatten(0, 1).to(accumulation_dtype(q.dtype))


def _tiled_attention(
    q: Float[Tensor, "head pos d_head"],
    k: Float[Tensor, "kv_head pos d_head"],
    v: Float[Tensor, "kv_head pos d_value"],
    spec: AttentionSpec,
    tile: Tile,
) -> tuple[Float[Tensor, "head pos d_value"], Float[Tensor, "head pos"]]:
    wide = accumulation_dtype(q.dtype)
    n_pos, kv_head = q.shape[1], len(k)
    group = len(q) // kv_head
    z = torch.empty(kv_head, n_pos, group, v.shape[-1], dtype=q.dtype, device=q.device)
    lse = torch.empty(kv_head, n_pos, group, dtype=wide, device=q.device)
    rows = pack(q, kv_head, wide)
    k, v = k.to(wide), v.to(wide)
    for first, last in blocks(0, n_pos, max(1, tile.rows // group)):
        low = 0 if spec.window is None else max(0, first - spec.window + 1)
        for h in range(kv_head):
            scores = (rows[h, first * group : last * group] @ k[h, low:last].mT).mul_(spec.scale)
            if spec.softcap is not None:
                scores.div_(spec.softcap).tanh_().mul_(spec.softcap)
            hide_keys(scores, first, low, group, spec.window)
            block_lse = scores.logsumexp(-1)
            weights = scores.sub_(block_lse.unsqueeze(-1)).exp_()
            z[h, first:last] = (weights @ v[h, low:last]).unflatten(0, (-1, group)).to(z.dtype)
            lse[h, first:last] = block_lse.unflatten(0, (-1, group))
    return z.transpose(1, 2).flatten(0, 1), lse.transpose(1, 2).flatten(0, 1)


class _Layer:
    """One sequence's attention, packed: row t * group + g holds head g of its group at position
    t."""

    def __init__(
        self, tensors: tuple[Tensor, ...], spec: AttentionSpec, tile: Tile, *, full: bool
    ) -> None:
        # q dz: head pos d; k v: kv_head pos d; lse: head pos
        q, k, v, z, lse, dz = tensors
        wide = accumulation_dtype(q.dtype)
        self.kv_head, self.n_pos, _ = k.shape
        self.group = len(q) // self.kv_head
        self.spec, self.tile, self.full = spec, tile, full
        self.q = pack(q, self.kv_head, wide)
        self.dz = pack(dz, self.kv_head, wide)
        self.k, self.v = k.to(wide).contiguous(), v.to(wide).contiguous()
        self.minus_lse = pack(lse.unsqueeze(-1), self.kv_head, wide).neg_()
        delta = (dz.to(wide) * z.to(wide)).sum(-1, keepdim=True)
        self.minus_delta = pack(delta, self.kv_head, wide).neg_()
        self.dq = torch.zeros_like(self.q)
        self.dk, self.dv = torch.zeros_like(self.k), torch.zeros_like(self.v)
        self.pooling: TilePooling | None = None
        tile_size = self.block * self.group * tile.keys
        self.buffers = [q.new_empty(tile_size, dtype=wide) for _ in range(3)]

    @property
    def block(self) -> int:
        """Query positions in a block of rows."""
        return max(1, self.tile.rows // self.group)

    def pool_into(
        self,
        totals: Float[Tensor, "heads_out step step"],
        row_steps: Int[Tensor, "pos"],
        key_steps: Int[Tensor, "pos"],
    ) -> None:
        """Add the influence that `differentiate` meets to these totals."""
        self.pooling = TilePooling(totals, row_steps, key_steps, self.group)

    def unpacked_dq(self) -> Float[Tensor, "head pos d_head"]:
        return self.dq.unflatten(1, (-1, self.group)).transpose(1, 2).flatten(0, 1)

    def differentiate(self) -> None:
        for first, last in blocks(0, self.n_pos, self.block):
            low = 0 if self.spec.window is None else max(0, first - self.spec.window + 1)
            if self.pooling is not None:
                self.pooling.start_rows(first, last)
            for h in range(self.kv_head):
                for keys in blocks(low, last, self.tile.keys):
                    self._differentiate_tile(h, (first, last), keys)
                if self.pooling is not None:
                    self.pooling.finish_head(h)

    def _differentiate_tile(self, h: int, queries: tuple[int, int], keys: tuple[int, int]) -> None:
        first, last = queries
        low, high = keys
        rows = slice(first * self.group, last * self.group)
        q, dz, k, v = self.q[h, rows], self.dz[h, rows], self.k[h, low:high], self.v[h, low:high]
        # row key
        weights, influence, slope = (
            buffer[: len(q) * len(k)].view(len(q), len(k)) for buffer in self.buffers
        )
        self._weights(weights, slope, h, rows, k)
        hide_keys(weights, first, low, self.group, self.spec.window, value=0.0)
        torch.mm(dz, v.mT, out=influence).mul_(weights)
        if self.full:
            self.dv[h, low:high].addmm_(weights.mT, dz)
        dscores = torch.addcmul(influence, weights, self.minus_delta[h, rows], out=weights)
        if self.spec.softcap is not None:
            dscores.mul_(slope)
        self.dq[h, rows].addmm_(dscores, k, alpha=self.spec.scale)
        if self.full:
            self.dk[h, low:high].addmm_(dscores.mT, q, alpha=self.spec.scale)
        if self.pooling is not None:
            self.pooling.add(influence.abs_(), low, high)

    def _weights(
        self,
        weights: Float[Tensor, "row key"],
        slope: Float[Tensor, "row key"],
        h: int,
        rows: slice,
        k: Float[Tensor, "key d_head"],
    ) -> None:
        """Fill in exp(scores - lse) and, under a softcap, the slope of the cap at each score."""
        q, minus_lse = self.q[h, rows], self.minus_lse[h, rows]
        if self.spec.softcap is None:
            torch.addmm(minus_lse, q, k.mT, alpha=self.spec.scale, out=weights).exp_()
            return
        torch.mm(q, k.mT, out=slope).mul_(self.spec.scale / self.spec.softcap).tanh_()
        torch.add(minus_lse, slope, alpha=self.spec.softcap, out=weights).exp_()
        slope.square_().neg_().add_(1)
