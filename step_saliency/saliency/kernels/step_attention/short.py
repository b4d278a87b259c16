"""Step attention of a batch of short sequences at once, with PyTorch alone.

The tiles of `chunked` are those of one sequence; of many short ones, most of the time would go into
setting them up. Here a tile is all heads of some sequences, whole. Padding is zeroed first, so that
what stands there does not matter.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from step_saliency.saliency.kernels.step_attention.types import (
    AttentionGradients,
    AttentionSpec,
    Spans,
    StepIndex,
    accumulation_dtype,
)

LONGEST = 512
"""Positions of a batch up to which its sequences count as short."""
TILE_ENTRIES = 2**18
"""Entries of a tile, which stay in the cache."""


def is_short(q: Float[Tensor, "batch head pos d_head"]) -> bool:
    """Whether a batch is taken at once."""
    return q.device.type == "cpu" and len(q) > 1 and q.shape[2] <= LONGEST


def pool_influence(
    q: Float[Tensor, "batch head pos d_head"],
    k: Float[Tensor, "batch kv_head pos d_head"],
    v: Float[Tensor, "batch kv_head pos d_value"],
    z: Float[Tensor, "batch head pos d_value"],
    lse: Float[Tensor, "batch head pos"],
    dz: Float[Tensor, "batch head pos d_value"],
    spec: AttentionSpec,
    *,
    spans: Spans | None,
    steps: StepIndex | None,
    per_head: bool,
    local: bool,
) -> AttentionGradients:
    """Arguments and result are those of `naive.pool_influence`."""
    wide, shape = accumulation_dtype(q.dtype), (q.dtype, k.dtype, v.dtype)
    padding = _padding(q, spans)
    q, k, v, z, dz = (x.to(wide).masked_fill(padding, 0) for x in (q, k, v, z, dz))
    lse = lse.to(wide).masked_fill(padding.squeeze(-1), 0)
    group, visible = q.shape[1] // k.shape[1], _visible_keys(padding, spec).to(wide)
    parts: list[AttentionGradients] = []
    for some in _tiles(q):
        here = None if steps is None else _some_steps(steps, some)
        tile = tuple(x[some] for x in (q, k, v, z, lse, dz, visible))
        parts.append(_differentiate(tile, spec, group, here, per_head=per_head, local=local))
    dq, dk, dv = (torch.cat([getattr(part, name) for part in parts]) for name in ("dq", "dk", "dv"))
    totals = [part.totals for part in parts if part.totals is not None]
    return AttentionGradients(
        dq.to(shape[0]), dk.to(shape[1]), dv.to(shape[2]), torch.cat(totals) if totals else None
    )


def _differentiate(
    tile: tuple[Tensor, ...],
    spec: AttentionSpec,
    group: int,
    steps: StepIndex | None,
    *,
    per_head: bool,
    local: bool,
) -> AttentionGradients:
    """Gradients of some sequences."""
    q, k, v, z, lse, dz, visible = tile
    k, v = (x.repeat_interleave(group, 1) for x in (k, v))
    weights, slope = _weights(q, k, lse, visible, spec)
    influence = (dz @ v.mT).mul_(weights)
    delta = (dz * z).sum(-1, keepdim=True)
    dv = _own(weights) * dz if local else weights.mT @ dz
    dscores = torch.addcmul(influence, weights, delta, value=-1, out=weights)
    if slope is not None:
        dscores.mul_(slope)
    dq = (dscores @ k).mul_(spec.scale)
    dk = (_own(dscores) * q if local else dscores.mT @ q).mul_(spec.scale)
    totals = None if steps is None else _sum_steps(influence, steps, per_head=per_head)
    if group > 1:
        dk, dv = (x.unflatten(1, (-1, group)).sum(2) for x in (dk, dv))
    return AttentionGradients(dq, dk, dv, totals)


def _own(pairs: Float[Tensor, "batch head pos pos"]) -> Float[Tensor, "batch head pos 1"]:
    """What each query has with its own key."""
    return pairs.diagonal(dim1=-2, dim2=-1).unsqueeze(-1)


def _weights(
    q: Float[Tensor, "batch head pos d_head"],
    k: Float[Tensor, "batch head pos d_head"],
    lse: Float[Tensor, "batch head pos"],
    visible: Float[Tensor, "batch 1 pos pos"],
    spec: AttentionSpec,
) -> tuple[Float[Tensor, "batch head pos pos"], Float[Tensor, "batch head pos pos"] | None]:
    """Attention weights, and the slope of the cap.

    Logarithms of weights are at most 0; those of hidden keys, which may be anything, are held at 1.
    The exponential of -inf, the usual mask, takes four times as long as that of other numbers.
    """
    less, slope = lse.unsqueeze(-1), None
    if spec.softcap is None:
        factors = (x.flatten(0, 1) for x in (-less, q, k.mT))
        logs = torch.baddbmm(*factors, alpha=spec.scale).unflatten(0, q.shape[:2])
    else:
        tanh = (q @ k.mT).mul_(spec.scale / spec.softcap).tanh_()
        slope = 1 - tanh**2
        logs = tanh.mul_(spec.softcap).sub_(less)
    return logs.clamp_(max=1).exp_().mul_(visible), slope


def _sum_steps(
    influence: Float[Tensor, "batch head pos pos"], steps: StepIndex, *, per_head: bool
) -> Float[Tensor, "batch heads_out step step"]:
    influence = influence.abs_()
    if not per_head:
        influence = influence.sum(1, keepdim=True)
    rows, keys = (
        (labels.unsqueeze(-1) == torch.arange(steps.n_steps)).to(influence).unsqueeze(1)
        for labels in (steps.row_steps, steps.key_steps)
    )
    return rows.mT @ influence @ keys


def _padding(
    q: Float[Tensor, "batch head pos d_head"], spans: Spans | None
) -> Bool[Tensor, "batch 1 pos 1"]:
    batch, _, n_pos, _ = q.shape
    bounds = torch.tensor(spans or ((0, n_pos),) * batch)
    place = torch.arange(n_pos)
    real = (place >= bounds[:, :1]) & (place < bounds[:, 1:])
    return ~real[:, None, :, None]


def _visible_keys(
    padding: Bool[Tensor, "batch 1 pos 1"], spec: AttentionSpec
) -> Bool[Tensor, "batch 1 pos pos"]:
    """Keys that a query sees."""
    place = torch.arange(padding.shape[2])
    ahead = place - place.unsqueeze(-1)  # query key
    visible = ahead <= 0
    if spec.window is not None:
        visible = visible & (ahead > -spec.window)
    return visible & ~padding.mT


def _tiles(q: Float[Tensor, "batch head pos d_head"]) -> list[slice]:
    """Sequences that are taken together."""
    batch, head, n_pos, _ = q.shape
    size = max(1, TILE_ENTRIES // (head * n_pos**2))
    return [slice(first, first + size) for first in range(0, batch, size)]


def _some_steps(steps: StepIndex, some: slice) -> StepIndex:
    return StepIndex(steps.row_steps[some], steps.key_steps[some], steps.n_steps)


def attention(
    q: Float[Tensor, "batch head pos d_head"],
    k: Float[Tensor, "batch kv_head pos d_head"],
    v: Float[Tensor, "batch kv_head pos d_value"],
    spec: AttentionSpec,
    spans: Spans | None,
) -> tuple[Float[Tensor, "batch head pos d_value"], Float[Tensor, "batch head pos"]]:
    """Causal attention without window, cap and sinks, of sequences that begin at position 0.

    Arguments and result are those of `naive.attention`.
    """
    padding, group = _padding(q, spans), q.shape[1] // k.shape[1]
    q, k, v = (x.masked_fill(padding, 0) for x in (q, k, v))
    k, v = (x.repeat_interleave(group, 1) for x in (k, v))
    fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    z, lse = fused(q, k, v, 0.0, True, scale=spec.scale)
    lse = lse.to(accumulation_dtype(q.dtype)).masked_fill(padding.squeeze(-1), torch.inf)
    return z.masked_fill(padding, 0), lse
