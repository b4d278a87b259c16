"""What an edit adds to the output of attention: plain tensors, and no word of vLLM.

Keys and values of each row stand side by side, in places below ``n_keys``; what lies behind them is
left out by ``visible``.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from step_saliency.intervene.fast.groups import relative_changes
from step_saliency.intervene.oeb.projection import bridge_floor


class Bridged(NamedTuple):
    """What a bridge does to queries.

    Attributes:
        added: What the output of attention gains; zero, to the bit, where a row is left alone.
        sums: Mass of the bridge (0) and of the current part (1) before.
        counts: Visible keys of the bridge and of the current part.
    """

    added: Float[Tensor, "row query head d_value"]
    sums: Float[Tensor, "row query head 2"]
    counts: Float[Tensor, "row query 2"]


def bridged(
    query: Float[Tensor, "row query head d_head"],
    key: Float[Tensor, "row kv_head key d_head"],
    value: Float[Tensor, "row kv_head key d_value"],
    members: Shaped[Tensor, "row query key 2"],
    visible: Bool[Tensor, "row query key"],
    tau_max: Float[Tensor, "row"],
    *,
    scale: float,
    softcap: float = 0.0,
    sinks: Float[Tensor, "head"] | None = None,
) -> Bridged:
    """What an Odds-Equal Bridge adds to attention (see `intervene.oeb`).

    Args:
        query: Queries, rotated.
        key: Keys, rotated.
        value: Values.
        members: 1 where a key is in the bridge (0) or in the current part (1) of a query.
        visible: Keys that causality and window leave.
        tau_max: Upper bound of tau_B for each row.
        scale: Factor of the scores.
        softcap: Bound of the scores, 0 without.
        sinks: Learned sink of each head.
    """
    exact = torch.promote_types(query.dtype, torch.float32)
    members = (members * visible.unsqueeze(-1)).to(exact)
    pattern = attention_weights(query, key, visible, scale=scale, softcap=softcap, sinks=sinks)
    sums = torch.einsum("rqhk,rqkg->rqhg", pattern, members)
    counts = members.sum(2)
    floor = bridge_floor(counts[..., 0], counts[..., 1], 1.0) * (counts[..., 1] > 0)
    floor = torch.minimum(floor, tau_max.to(exact)[:, None])
    changes = relative_changes(sums.flatten(0, 1), floor.flatten()[:, None]).view_as(sums)
    # A place that no query sees may hold anything, and 0 x NaN is NaN.
    value = value.masked_fill(~visible.any(1)[:, None, :, None], 0)
    gained = members * members.new_tensor([1.0, -1.0])
    moved = pattern * torch.einsum("rqhg,rqkg->rqhk", changes, gained)
    return Bridged(weighted_values(moved, value), sums, counts)


def attention_weights(
    query: Float[Tensor, "row query head d_head"],
    key: Float[Tensor, "row kv_head key d_head"],
    visible: Bool[Tensor, "row query key"],
    *,
    scale: float,
    softcap: float = 0.0,
    sinks: Float[Tensor, "head"] | None = None,
) -> Float[Tensor, "row query head key"]:
    """Attention weights in float32 at least; with sinks they sum to less than one."""
    exact = torch.promote_types(query.dtype, torch.float32)
    by_kv = query.to(exact).unflatten(2, (key.shape[1], -1)).permute(0, 2, 1, 3, 4).flatten(2, 3)
    scores = (by_kv * scale) @ key.to(exact).mT
    scores = scores.unflatten(2, (query.shape[1], -1)).permute(0, 2, 1, 3, 4).flatten(2, 3)
    if softcap:
        scores = (scores / softcap).tanh() * softcap
    scores = scores.masked_fill(~visible.unsqueeze(2), float("-inf"))
    if sinks is None:
        return scores.softmax(-1)
    column = sinks.to(exact)[None, None, :, None].expand(*scores.shape[:3], 1)
    return torch.cat([scores, column], dim=-1).softmax(-1)[..., :-1]


def weighted_values(
    weights: Float[Tensor, "row query head key"], value: Float[Tensor, "row kv_head key d_value"]
) -> Float[Tensor, "row query head d_value"]:
    """Sums of values; heads that share them are rows of one product."""
    n_queries = weights.shape[1]
    by_kv = weights.unflatten(2, (value.shape[1], -1)).permute(0, 2, 1, 3, 4).flatten(2, 3)
    sums = by_kv @ value.to(weights.dtype)
    return sums.unflatten(2, (n_queries, -1)).permute(0, 2, 1, 3, 4).flatten(2, 3)


def momenta(
    values: Float[Tensor, "key kv_head d_value"],
    owners: Int[Tensor, "key"],
    factors: Float[Tensor, "injection"],
    *,
    n_heads: int,
) -> Float[Tensor, "injection head d_value"]:
    """Mean values of steps for each query head, by strength (see `intervene.smi`).

    Args:
        values: Values of the tokens of all steps.
        owners: Which injection each belongs to.
        factors: alpha over the number of tokens of each step.
        n_heads: Query heads.
    """
    exact = values.to(torch.promote_types(values.dtype, torch.float32))
    sums = exact.new_zeros(len(factors), *exact.shape[1:]).index_add_(0, owners, exact)
    means = sums * factors.to(sums.dtype)[:, None, None]
    return means.repeat_interleave(n_heads // means.shape[1], dim=1)


def visible_keys(
    n_keys: Int[Tensor, "row"], n_queries: int, width: int, window: int | None
) -> Bool[Tensor, "row query key"]:
    """Keys that causality and a sliding window leave to the last queries of each row.

    Args:
        n_keys: Keys of each row, those of its queries included.
        n_queries: Queries of each row, its last positions.
        width: Places for keys.
        window: Keys that a query sees, its own included; None for all.
    """
    places = torch.arange(width, device=n_keys.device)
    last = n_keys[:, None] - n_queries + torch.arange(n_queries, device=n_keys.device)
    visible = places <= last[..., None]
    return visible if window is None else visible & (places > last[..., None] - window)
