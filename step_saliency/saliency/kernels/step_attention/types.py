"""What every implementation of step attention takes and returns.

Let q, k, v be the (rotated) queries, keys and values of one layer. Attention of head h is

    S[t, k] = softcap(scale * q_t . k_k)     softcap(s) = c * tanh(s / c), if scores are capped
    P[t, k] = exp(S[t, k] - lse[t])          lse[t] = log(sum_k exp S[t, k] + exp sink), if any
    z[t]    = sum_k P[t, k] v_k

over the keys that t sees: k <= t, within the window, inside the sequence's span. Given dz = dL/dz,

    dP[t, k] = dz_t . v_k                    the gradient of L at the attention weight
    I[t, k]  = | P[t, k] * dP[t, k] |        the influence
    dS[t, k] = P[t, k] * (dP[t, k] - dz_t . z_t)
    dq, dk, dv                               as usual; if local, dk and dv from t = k alone

P and dP are the tiles that the backward pass of flash attention forms anyway, so I is summed into
pairs of steps while they exist and nothing of size pos x pos is kept.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

TRITON_WIDEST = 256
"""Most dimensions of a head whose tiles fit into a GPU's shared memory."""

Spans = tuple[tuple[int, int], ...]
"""First and last-plus-one real position of each sequence of a batch; the rest is padding."""


@dataclass(frozen=True)
class AttentionSpec:
    """What one layer does with its queries and keys.

    Attributes:
        scale: Factor between q . k and the score.
        softcap: c of c * tanh(score / c), None without.
        window: Number of keys that a query sees, itself included, None for all before it.
    """

    scale: float
    softcap: float | None = None
    window: int | None = None

    def __post_init__(self) -> None:
        if self.softcap is not None and not self.softcap > 0:
            raise ValueError(f"softcap={self.softcap} must be positive, or None for no cap")
        if self.window is not None and self.window < 1:
            raise ValueError(f"window={self.window} must be at least 1, or None for all keys")


@dataclass(frozen=True)
class Tile:
    """Size of a tile; changes speed and memory, not the result.

    Attributes:
        rows: Queries, times the heads that are handled together.
        keys: Keys.
    """

    rows: int
    keys: int

    def __post_init__(self) -> None:
        if self.rows < 1 or self.keys < 1:
            raise ValueError(f"a tile of {self.rows} x {self.keys} is empty")


@dataclass(frozen=True, eq=False)
class StepIndex:
    """Step of each row and each column of the token maps of a batch, on the CPU.

    Attributes:
        row_steps: Step that query position t is filed under, -1 for a row that counts nowhere.
        key_steps: Step of key position k, -1 for a column that counts nowhere.
        n_steps: Number of steps of the longest map.
    """

    row_steps: Int[Tensor, "batch pos"]
    key_steps: Int[Tensor, "batch pos"]
    n_steps: int


@dataclass(frozen=True, eq=False)
class AttentionGradients:
    """What one backward pass through attention leaves.

    Attributes:
        dq: Gradient at the queries.
        dk: Gradient at the keys; from the diagonal alone if local.
        dv: Gradient at the values; from the diagonal alone if local.
        totals: Influence summed over each pair of steps, by head or over all heads; None if not
            asked for.
    """

    dq: Float[Tensor, "batch head pos d_head"]
    dk: Float[Tensor, "batch kv_head pos d_head"]
    dv: Float[Tensor, "batch kv_head pos d_value"]
    totals: Float[Tensor, "batch heads_out step step"] | None


def check_attention_inputs(
    q: Tensor, k: Tensor, v: Tensor, spans: Spans | None, sinks: Tensor | None
) -> None:
    """Refuse what no implementation can compute.

    Raises:
        ValueError: shapes, types, devices or spans do not fit together.
    """
    if q.ndim != 4 or k.ndim != 4 or v.ndim != 4:
        raise ValueError(
            "queries, keys and values must be batch x head x pos x d_head; got "
            f"{tuple(q.shape)}, {tuple(k.shape)} and {tuple(v.shape)}"
        )
    if k.shape[:3] != v.shape[:3] or q.shape[0] != k.shape[0] or q.shape[-1] != k.shape[-1]:
        raise ValueError(
            f"queries {tuple(q.shape)}, keys {tuple(k.shape)} and values {tuple(v.shape)} do not "
            "fit together"
        )
    if q.shape[2] != k.shape[2]:
        raise ValueError(
            f"{q.shape[2]} queries over {k.shape[2]} keys: a trace is read in one pass, without a "
            "cache"
        )
    if q.shape[1] % k.shape[1]:
        raise ValueError(f"{q.shape[1]} heads do not divide into {k.shape[1]} key-value heads")
    if len({q.dtype, k.dtype, v.dtype}) > 1 or not q.is_floating_point():
        raise ValueError(f"queries, keys and values are {q.dtype}, {k.dtype} and {v.dtype}")
    if sinks is not None and tuple(sinks.shape) != (q.shape[1],):
        raise ValueError(
            f"sinks {tuple(sinks.shape)} need one entry for each of {q.shape[1]} heads"
        )
    _check_spans(spans, batch=q.shape[0], n_pos=q.shape[2])


def _check_spans(spans: Spans | None, *, batch: int, n_pos: int) -> None:
    if spans is None:
        return
    if len(spans) != batch:
        raise ValueError(f"{len(spans)} spans for a batch of {batch}")
    for start, stop in spans:
        if not 0 <= start < stop <= n_pos:
            raise ValueError(f"span {start}..{stop} does not lie within {n_pos} positions")


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """Type that sums are kept in: float32, or float64 for float64 inputs."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def diagonal_gradients(
    q: Float[Tensor, "batch head pos d_head"],
    k: Float[Tensor, "batch kv_head pos d_head"],
    v: Float[Tensor, "batch kv_head pos d_value"],
    z: Float[Tensor, "batch head pos d_value"],
    lse: Float[Tensor, "batch head pos"],
    dz: Float[Tensor, "batch head pos d_value"],
    spec: AttentionSpec,
    spans: Spans | None = None,
) -> tuple[Float[Tensor, "batch kv_head pos d_head"], Float[Tensor, "batch kv_head pos d_value"]]:
    """Gradient that key t and value t get from query t alone, in time and memory linear in pos."""
    if spans is None:
        return diagonal(q, k, v, z, lse, dz, spec)
    dk, dv = torch.zeros_like(k), torch.zeros_like(v)
    for sequence, (start, stop) in enumerate(spans):
        real = (slice(sequence, sequence + 1), slice(None), slice(start, stop))
        dk[real], dv[real] = diagonal(q[real], k[real], v[real], z[real], lse[real], dz[real], spec)
    return dk, dv


def diagonal(
    q: Float[Tensor, "batch head pos d_head"],
    k: Float[Tensor, "batch kv_head pos d_head"],
    v: Float[Tensor, "batch kv_head pos d_value"],
    z: Float[Tensor, "batch head pos d_value"],
    lse: Float[Tensor, "batch head pos"],
    dz: Float[Tensor, "batch head pos d_value"],
    spec: AttentionSpec,
) -> tuple[Float[Tensor, "batch kv_head pos d_head"], Float[Tensor, "batch kv_head pos d_value"]]:
    """`diagonal_gradients` of sequences without padding."""
    wide, kv_head = accumulation_dtype(q.dtype), k.shape[1]
    # batch kv_head group pos d
    q1, z1, dz1 = (x.unflatten(1, (kv_head, -1)).to(wide) for x in (q, z, dz))
    k1, v1 = (x.unsqueeze(2).to(wide) for x in (k, v))
    score = spec.scale * (q1 * k1).sum(-1)
    slope = torch.full_like(score, spec.scale)
    if spec.softcap is not None:
        tanh = torch.tanh(score / spec.softcap)
        score, slope = spec.softcap * tanh, slope * (1 - tanh**2)
    weight = torch.exp(score - lse.unflatten(1, (kv_head, -1)))
    dscore = weight * (dz1 * (v1 - z1)).sum(-1) * slope
    dk = (dscore.unsqueeze(-1) * q1).sum(2).to(k.dtype)
    dv = (weight.unsqueeze(-1) * dz1).sum(2).to(v.dtype)
    return dk, dv
