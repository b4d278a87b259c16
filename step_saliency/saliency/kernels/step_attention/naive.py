"""Step attention with whole pos x pos matrices: the truth that the fast forms are tested
against."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from step_saliency.saliency.kernels.step_attention.types import (
    AttentionGradients,
    AttentionSpec,
    Spans,
    StepIndex,
    Tile,
    accumulation_dtype,
    check_attention_inputs,
)


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

    Args:
        q: Queries, rotated.
        k: Keys, rotated, one for each group of heads.
        v: Values, one for each group of heads.
        spec: Scale, cap and window.
        spans: Real positions of each sequence; None if all are.
        sinks: Learned score of each head's sink, which joins the softmax and holds no value.
        tile: Size of the tiles of the fast forms; there are none here.

    Returns:
        Head outputs z, zero at padding, and the logarithm of the softmax's denominator, +inf at
        padding, in float32 or better.

    Raises:
        ValueError: inputs that do not fit together.
    """
    check_attention_inputs(q, k, v, spans, sinks)
    scores, _ = _scores(q, k, spec, visible_keys(q, spec, spans))
    lse = scores.logsumexp(-1)
    if sinks is not None:
        lse = torch.logaddexp(lse, sinks.to(lse).unsqueeze(-1))
    lse = lse.masked_fill(_padding(q, spans), torch.inf)
    weights = torch.exp(scores - lse.unsqueeze(-1))
    v = _ungroup(v, q).masked_fill(_padding(q, spans).unsqueeze(-1), 0)
    return (weights @ v).to(q.dtype), lse


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

    Args:
        q: Queries, as given to `attention`.
        k: Keys.
        v: Values.
        z: Head outputs that `attention` returned.
        lse: Denominators that `attention` returned, sinks included.
        dz: Gradient at z.
        spec: Scale, cap and window.
        spans: Real positions of each sequence; None if all are. Gradients are zero elsewhere.
        steps: Steps to sum the influence into; None for gradients alone.
        per_head: Whether totals keep heads apart; otherwise they are summed over heads.
        local: Whether keys and values get gradient from the query at their own position alone.
        tile: Size of the tiles of the fast forms; there are none here.

    Returns:
        Gradients in the type of the inputs, and totals in float32 or better.

    Raises:
        ValueError: inputs that do not fit together.
    """
    check_attention_inputs(q, k, v, spans, None)
    wide = accumulation_dtype(q.dtype)
    scores, slope = _scores(q, k, spec, visible_keys(q, spec, spans))
    weights = torch.exp(scores - lse.unsqueeze(-1).to(wide))
    padding = _padding(q, spans).unsqueeze(-1)
    dz, z, q_real, k_real, v_real = (
        x.to(wide).masked_fill(padding, 0) for x in (dz, z, q, _ungroup(k, q), _ungroup(v, q))
    )
    dweights = dz @ v_real.mT
    dscores = weights * (dweights - (dz * z).sum(-1, keepdim=True)) * slope
    totals = None if steps is None else _sum_steps((weights * dweights).abs(), steps, per_head)
    dq = dscores @ k_real
    if local:
        dscores, weights = (x * torch.eye(q.shape[2]).to(x) for x in (dscores, weights))
    dk = (dscores.mT @ q_real).unflatten(1, (k.shape[1], -1)).sum(2)
    dv = (weights.mT @ dz).unflatten(1, (k.shape[1], -1)).sum(2)
    return AttentionGradients(dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype), totals)


def visible_keys(
    q: Float[Tensor, "batch head pos d_head"], spec: AttentionSpec, spans: Spans | None
) -> Bool[Tensor, "batch 1 pos pos"]:
    """Which keys each query sees."""
    batch, _, n_pos, _ = q.shape
    query = torch.arange(n_pos, device=q.device).unsqueeze(-1)
    key = torch.arange(n_pos, device=q.device)
    seen = key <= query
    if spec.window is not None:
        seen = seen & (key > query - spec.window)
    real = ~_padding(q, spans).squeeze(1)
    return (seen & real.unsqueeze(1) & real.unsqueeze(2)).expand(batch, -1, -1).unsqueeze(1)


def _padding(
    q: Float[Tensor, "batch head pos d_head"], spans: Spans | None
) -> Bool[Tensor, "batch 1 pos"]:
    batch, _, n_pos, _ = q.shape
    padding = torch.ones(batch, 1, n_pos, dtype=torch.bool, device=q.device)
    for sequence, (start, stop) in enumerate(spans or ((0, n_pos),) * batch):
        padding[sequence, :, start:stop] = False
    return padding


def _scores(
    q: Float[Tensor, "batch head pos d_head"],
    k: Float[Tensor, "batch kv_head pos d_head"],
    spec: AttentionSpec,
    seen: Bool[Tensor, "batch 1 pos pos"],
) -> tuple[Float[Tensor, "batch head pos pos"], Float[Tensor, "batch head pos pos"]]:
    """Scores and the slope of each with respect to q . k."""
    wide = accumulation_dtype(q.dtype)
    padding = ~seen.diagonal(dim1=-2, dim2=-1).unsqueeze(-1)
    q = q.to(wide).masked_fill(padding, 0)
    k = _ungroup(k, q).masked_fill(padding, 0)
    scores = spec.scale * (q @ k.mT)
    slope = torch.full_like(scores, spec.scale)
    if spec.softcap is not None:
        tanh = torch.tanh(scores / spec.softcap)
        scores, slope = spec.softcap * tanh, slope * (1 - tanh**2)
    return scores.masked_fill(~seen, -torch.inf), slope


def _ungroup(
    x: Float[Tensor, "batch kv_head pos d"], q: Float[Tensor, "batch head pos d_head"]
) -> Float[Tensor, "batch head pos d"]:
    return x.repeat_interleave(q.shape[1] // x.shape[1], dim=1).to(accumulation_dtype(x.dtype))


def _sum_steps(
    influence: Float[Tensor, "batch head pos pos"], steps: StepIndex, per_head: bool
) -> Float[Tensor, "batch heads_out step step"]:
    if not per_head:
        influence = influence.sum(1, keepdim=True)
    rows = _one_hot(steps.row_steps, steps.n_steps).to(influence)
    keys = _one_hot(steps.key_steps, steps.n_steps).to(influence)
    return torch.einsum("btk,bhtu,bul->bhkl", rows, influence, keys)


def _one_hot(labels: Tensor, n_steps: int) -> Bool[Tensor, "batch pos step"]:
    return labels.unsqueeze(-1) == torch.arange(n_steps)
