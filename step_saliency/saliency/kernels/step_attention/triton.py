# mypy: disable-error-code="no-untyped-def"
"""Step attention in Triton, for CUDA devices (and, to be tested there, CPUs in its interpreter).

Three kernels: `_forward`, `_query_backward` (dq and the totals) and, for objectives that are not
local, `_key_backward` (dk and dv). One program has one head's block of queries, or one key-value
head's block of keys. Matrix products take their inputs in the type that they have and sum in
float32.

The influence of a tile is summed over keys into windows of 16 steps at a time, and over rows when
the window is left, so that few atomic additions remain. Their order is not fixed: totals of two
runs can differ in the last digits.
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from step_saliency.saliency.kernels.step_attention.types import (
    TRITON_WIDEST,
    AttentionGradients,
    AttentionSpec,
    Spans,
    StepIndex,
    Tile,
    check_attention_inputs,
    diagonal_gradients,
)


def _jit(function: Callable[..., None]) -> Any:
    # run-time type checkers wrap all functions of a module; Triton compiles the function itself
    return triton.jit(inspect.unwrap(function))


STEP_WINDOW = tl.constexpr(16)
NO_STEP = tl.constexpr(2**30)


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

    Arguments and result are those of `naive.attention`, sums in float32, tiles powers of two
    from 16.

    Raises:
        ValueError: as there, or inputs that Triton cannot take.
    """
    check_attention_inputs(q, k, v, spans, sinks)
    tile = _checked_tile(q, v, tile)
    batch, head, n_pos, d_head = q.shape
    q, k, v = (_unit_stride(x) for x in (q, k, v))
    z = q.new_zeros(batch, n_pos, head, v.shape[-1]).transpose(1, 2)
    lse = torch.full((batch, head, n_pos), torch.inf, dtype=torch.float32, device=q.device)
    _forward[(triton.cdiv(n_pos, tile.rows), head, batch)](
        q, k, v, z, lse, _span_tensor(q, spans), sinks if sinks is not None else lse,
        *q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *z.stride()[:3],
        n_pos, spec.scale, spec.softcap or 0.0, spec.window or n_pos,
        HEADS=head, GROUP=head // k.shape[1], D_HEAD=d_head, D_VALUE=v.shape[-1],
        HAS_SINKS=sinks is not None, **_options(q, v, spec, tile),
    )  # fmt: skip
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

    Arguments and result are those of `naive.pool_influence`, sums in float32, tiles powers of two
    from 16.

    Raises:
        ValueError: as there, or inputs that Triton cannot take.
    """
    check_attention_inputs(q, k, v, spans, None)
    tile = _checked_tile(q, v, tile)
    batch, head, n_pos, d_head = q.shape
    q, k, v, dz = (_unit_stride(x) for x in (q, k, v, dz))
    delta = (dz.float() * z.float()).sum(-1).contiguous()
    lse = lse.contiguous()
    dq = torch.zeros(q.shape, dtype=q.dtype, device=q.device)
    totals, row_steps, key_steps = _step_tensors(q, steps, head if per_head else 1)
    shared = {
        "HEADS": head,
        "GROUP": head // k.shape[1],
        "D_HEAD": d_head,
        "D_VALUE": v.shape[-1],
        **_options(q, v, spec, tile),
    }
    numbers = (n_pos, spec.scale, spec.softcap or 0.0, spec.window or n_pos)
    span_tensor = _span_tensor(q, spans)
    _query_backward[(triton.cdiv(n_pos, tile.rows), head, batch)](
        q, k, v, dz, lse, delta, dq, span_tensor, row_steps, key_steps, totals,
        *q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *dz.stride()[:3], *dq.stride()[:3],
        *numbers, steps.n_steps if steps is not None else 0,
        POOL=steps is not None, PER_HEAD=per_head, **shared,
    )  # fmt: skip
    pooled = totals if steps is not None else None
    if local:
        dk, dv = diagonal_gradients(q, k, v, z, lse, dz, spec, spans)
        return AttentionGradients(dq, dk, dv, pooled)
    dk = torch.zeros(k.shape, dtype=k.dtype, device=k.device)
    dv = torch.zeros(v.shape, dtype=v.dtype, device=v.device)
    _key_backward[(triton.cdiv(n_pos, tile.keys), k.shape[1], batch)](
        q, k, v, dz, lse, delta, dk, dv, span_tensor,
        *q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *dz.stride()[:3],
        *dk.stride()[:3], *dv.stride()[:3], *numbers, **shared,
    )  # fmt: skip
    return AttentionGradients(dq, dk, dv, pooled)


def _checked_tile(q: Tensor, v: Tensor, tile: Tile | None) -> Tile:
    if q.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise ValueError(f"Triton step attention takes 16 and 32 bit floats, not {q.dtype}")
    widest = max(q.shape[-1], v.shape[-1])
    if widest > TRITON_WIDEST:
        raise ValueError(
            f"heads of {widest} dimensions exceed Triton step attention's {TRITON_WIDEST}"
        )
    if tile is None:
        if q.dtype == torch.float32:
            return Tile(rows=32, keys=32)
        return Tile(rows=64 if widest > 128 else 128, keys=64)
    if any(size < 16 or size & (size - 1) for size in (tile.rows, tile.keys)):
        raise ValueError(f"{tile} must have powers of two from 16, for Triton")
    return tile


def _options(q: Tensor, v: Tensor, spec: AttentionSpec, tile: Tile) -> dict[str, object]:
    widest = max(q.shape[-1], v.shape[-1])
    return {
        "CAPPED": spec.softcap is not None,
        "WINDOWED": spec.window is not None,
        "BLOCK_Q": tile.rows,
        "BLOCK_K": tile.keys,
        "BLOCK_D": max(16, triton.next_power_of_2(q.shape[-1])),
        "BLOCK_V": max(16, triton.next_power_of_2(v.shape[-1])),
        "PRECISION": "ieee" if q.dtype == torch.float32 else "tf32",
        "num_warps": 4 if widest <= 64 else 8,
        "num_stages": 2,
    }


def _unit_stride(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()


def _span_tensor(q: Tensor, spans: Spans | None) -> Int[Tensor, "batch 2"]:
    spans = spans or ((0, q.shape[2]),) * len(q)
    return torch.tensor(spans, dtype=torch.int32, device=q.device)


def _step_tensors(
    q: Tensor, steps: StepIndex | None, heads_out: int
) -> tuple[Tensor, Tensor, Tensor]:
    if steps is None:
        empty = torch.empty(0, dtype=torch.int32, device=q.device)
        return empty.float(), empty, empty
    shape = (len(q), heads_out, steps.n_steps, steps.n_steps)
    return (
        torch.zeros(shape, dtype=torch.float32, device=q.device),
        steps.row_steps.to(q.device, torch.int32).contiguous(),
        steps.key_steps.to(q.device, torch.int32).contiguous(),
    )


@_jit
def _load_rows(pointer, rows, stride, real, D: tl.constexpr, BLOCK: tl.constexpr):
    columns = tl.arange(0, BLOCK)
    mask = real[:, None] & (columns < D)[None, :]
    return tl.load(pointer + rows[:, None] * stride + columns[None, :], mask=mask, other=0.0)


@_jit
def _store_rows(pointer, rows, stride, real, x, D: tl.constexpr, BLOCK: tl.constexpr):
    columns = tl.arange(0, BLOCK)
    mask = real[:, None] & (columns < D)[None, :]
    tl.store(pointer + rows[:, None] * stride + columns[None, :], x, mask=mask)


@_jit
def _score_tile(q, k, queries, keys, real, scale, softcap, window, CAPPED: tl.constexpr,
                WINDOWED: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """Scores with what is not seen at -inf, and the slope of each with respect to q . k."""
    scores = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale
    slope = tl.zeros_like(scores) + scale
    if CAPPED:
        # tanh(x) = 1 - 2 / (exp(2x) + 1), which saturates without overflow to NaN
        tanh = 1.0 - 2.0 / (tl.exp(2.0 * scores / softcap) + 1.0)
        scores = softcap * tanh
        slope = slope * (1.0 - tanh * tanh)
    seen = (keys[None, :] <= queries[:, None]) & real
    if WINDOWED:
        seen = seen & (keys[None, :] > queries[:, None] - window)
    return tl.where(seen, scores, -float("inf")), slope


@_jit
def _forward(
    q_ptr, k_ptr, v_ptr, z_ptr, lse_ptr, span_ptr, sink_ptr,
    q_batch, q_head, q_pos, k_batch, k_head, k_pos,
    v_batch, v_head, v_pos, z_batch, z_head, z_pos,
    n_pos, scale, softcap, window,
    HEADS: tl.constexpr, GROUP: tl.constexpr, D_HEAD: tl.constexpr, D_VALUE: tl.constexpr,
    HAS_SINKS: tl.constexpr, CAPPED: tl.constexpr, WINDOWED: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_V: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(1)
    batch = tl.program_id(2).to(tl.int64)
    start = tl.load(span_ptr + 2 * batch)
    stop = tl.load(span_ptr + 2 * batch + 1)
    # long rows first, so that the last programs to run are short
    first = start + (tl.num_programs(0) - 1 - tl.program_id(0)) * BLOCK_Q
    if first >= stop:
        return
    q_ptr += batch * q_batch + head * q_head
    k_ptr += batch * k_batch + (head // GROUP) * k_head
    v_ptr += batch * v_batch + (head // GROUP) * v_head
    queries = first + tl.arange(0, BLOCK_Q)
    real = queries < stop
    q = _load_rows(q_ptr, queries, q_pos, real, D_HEAD, BLOCK_D)
    largest = tl.zeros([BLOCK_Q], tl.float32) - float("inf")
    total = tl.zeros([BLOCK_Q], tl.float32)
    if HAS_SINKS:
        # the sink is a key without a value, seen before all others
        largest = tl.zeros([BLOCK_Q], tl.float32) + tl.load(sink_ptr + head).to(tl.float32)
        total += 1.0
    z = tl.zeros([BLOCK_Q, BLOCK_V], tl.float32)
    low = start
    if WINDOWED:
        low = tl.maximum(start, first - window + 1)
    for block in range(low, tl.minimum(stop, first + BLOCK_Q), BLOCK_K):
        keys = block + tl.arange(0, BLOCK_K)
        k = _load_rows(k_ptr, keys, k_pos, keys < stop, D_HEAD, BLOCK_D)
        v = _load_rows(v_ptr, keys, v_pos, keys < stop, D_VALUE, BLOCK_V)
        both = real[:, None] & (keys < stop)[None, :]
        scores, _ = _score_tile(q, k, queries, keys, both, scale, softcap, window,
                                CAPPED, WINDOWED, PRECISION)  # fmt: skip
        larger = tl.maximum(largest, tl.max(scores, 1))
        # a row that has seen nothing yet must not compute -inf - -inf
        shift = tl.where(larger == -float("inf"), 0.0, larger)
        weights = tl.exp(scores - shift[:, None])
        shrink = tl.exp(largest - shift)
        total = total * shrink + tl.sum(weights, 1)
        z = z * shrink[:, None]
        z += tl.dot(weights.to(v.dtype), v, input_precision=PRECISION)
        largest = larger
    total = tl.where(real, total, 1.0)
    z_ptr += batch * z_batch + head * z_head
    out = (z / total[:, None]).to(z_ptr.dtype.element_ty)
    _store_rows(z_ptr, queries, z_pos, real, out, D_VALUE, BLOCK_V)
    lse_ptr += (batch * HEADS + head) * n_pos
    tl.store(lse_ptr + queries, largest + tl.log(total), mask=real)


@_jit
def _rounded_to_tf32(x):
    """The nearest TF32 number. The hardware cuts off, which makes sums of positive numbers too
    small, row after row."""
    return ((x.to(tl.int32, bitcast=True) + 0x1000) & -0x2000).to(tl.float32, bitcast=True)


@_jit
def _file_window(totals_ptr, sums, row_steps, window, n_steps):
    """Add one window's sums, row by row so far, to the totals of the steps that the rows are in."""
    offsets = tl.arange(0, STEP_WINDOW)
    first = tl.min(tl.where(row_steps >= 0, row_steps, NO_STEP), 0)
    last = tl.max(row_steps, 0)
    for base in range(first // STEP_WINDOW * STEP_WINDOW, last + 1, STEP_WINDOW):
        of_step = (row_steps[None, :] == (base + offsets)[:, None]).to(tl.float32)
        part = tl.dot(of_step, sums, input_precision="ieee")
        rows = (base + offsets)[:, None]
        columns = (window + offsets)[None, :]
        mask = (rows < n_steps) & (columns < n_steps) & (part != 0.0)
        tl.atomic_add(totals_ptr + rows * n_steps + columns, part, mask=mask)


@_jit
def _query_backward(
    q_ptr, k_ptr, v_ptr, dz_ptr, lse_ptr, delta_ptr, dq_ptr, span_ptr,
    row_steps_ptr, key_steps_ptr, totals_ptr,
    q_batch, q_head, q_pos, k_batch, k_head, k_pos, v_batch, v_head, v_pos,
    dz_batch, dz_head, dz_pos, dq_batch, dq_head, dq_pos,
    n_pos, scale, softcap, window, n_steps,
    POOL: tl.constexpr, PER_HEAD: tl.constexpr,
    HEADS: tl.constexpr, GROUP: tl.constexpr, D_HEAD: tl.constexpr, D_VALUE: tl.constexpr,
    CAPPED: tl.constexpr, WINDOWED: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_V: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(1)
    batch = tl.program_id(2).to(tl.int64)
    start = tl.load(span_ptr + 2 * batch)
    stop = tl.load(span_ptr + 2 * batch + 1)
    first = start + (tl.num_programs(0) - 1 - tl.program_id(0)) * BLOCK_Q
    if first >= stop:
        return
    q_ptr += batch * q_batch + head * q_head
    k_ptr += batch * k_batch + (head // GROUP) * k_head
    v_ptr += batch * v_batch + (head // GROUP) * v_head
    dz_ptr += batch * dz_batch + head * dz_head
    queries = first + tl.arange(0, BLOCK_Q)
    real = queries < stop
    q = _load_rows(q_ptr, queries, q_pos, real, D_HEAD, BLOCK_D)
    dz = _load_rows(dz_ptr, queries, dz_pos, real, D_VALUE, BLOCK_V)
    per_row = (batch * HEADS + head) * n_pos + queries
    lse = tl.load(lse_ptr + per_row, mask=real, other=float("inf"))
    delta = tl.load(delta_ptr + per_row, mask=real, other=0.0)
    dq = tl.zeros([BLOCK_Q, BLOCK_D], tl.float32)
    offsets = tl.arange(0, STEP_WINDOW)
    row_steps = queries
    sums = tl.zeros([BLOCK_Q, STEP_WINDOW], tl.float32)
    current = start * 0
    if POOL:
        row_steps = tl.load(row_steps_ptr + batch * n_pos + queries, mask=real, other=-1)
        totals_ptr += batch * n_steps * n_steps * (HEADS if PER_HEAD else 1)
        if PER_HEAD:
            totals_ptr += head * n_steps * n_steps
    low = start
    if WINDOWED:
        low = tl.maximum(start, first - window + 1)
    for block in range(low, tl.minimum(stop, first + BLOCK_Q), BLOCK_K):
        keys = block + tl.arange(0, BLOCK_K)
        k = _load_rows(k_ptr, keys, k_pos, keys < stop, D_HEAD, BLOCK_D)
        v = _load_rows(v_ptr, keys, v_pos, keys < stop, D_VALUE, BLOCK_V)
        both = real[:, None] & (keys < stop)[None, :]
        scores, slope = _score_tile(q, k, queries, keys, both, scale, softcap, window,
                                    CAPPED, WINDOWED, PRECISION)  # fmt: skip
        weights = tl.exp(scores - lse[:, None])
        dweights = tl.dot(dz, tl.trans(v), input_precision=PRECISION)
        dscores = weights * (dweights - delta[:, None]) * slope
        dq += tl.dot(dscores.to(k.dtype), k, input_precision=PRECISION)
        if POOL:
            influence = tl.abs(weights * dweights)
            if PRECISION == "tf32":
                influence = _rounded_to_tf32(influence)
            key_steps = tl.load(key_steps_ptr + batch * n_pos + keys, mask=keys < stop, other=-1)
            lowest = tl.min(tl.where(key_steps >= 0, key_steps, NO_STEP), 0)
            for base in range(
                lowest // STEP_WINDOW * STEP_WINDOW, tl.max(key_steps, 0) + 1, STEP_WINDOW
            ):
                if base != current:
                    _file_window(totals_ptr, sums, row_steps, current, n_steps)
                    sums = tl.zeros([BLOCK_Q, STEP_WINDOW], tl.float32)
                    current = base
                of_step = (key_steps[:, None] == (base + offsets)[None, :]).to(tl.float32)
                sums += tl.dot(influence, of_step, input_precision=PRECISION)
    if POOL:
        _file_window(totals_ptr, sums, row_steps, current, n_steps)
    dq_ptr += batch * dq_batch + head * dq_head
    dq = dq.to(dq_ptr.dtype.element_ty)
    _store_rows(dq_ptr, queries, dq_pos, real, dq, D_HEAD, BLOCK_D)


@_jit
def _key_backward(
    q_ptr, k_ptr, v_ptr, dz_ptr, lse_ptr, delta_ptr, dk_ptr, dv_ptr, span_ptr,
    q_batch, q_head, q_pos, k_batch, k_head, k_pos, v_batch, v_head, v_pos,
    dz_batch, dz_head, dz_pos, dk_batch, dk_head, dk_pos, dv_batch, dv_head, dv_pos,
    n_pos, scale, softcap, window,
    HEADS: tl.constexpr, GROUP: tl.constexpr, D_HEAD: tl.constexpr, D_VALUE: tl.constexpr,
    CAPPED: tl.constexpr, WINDOWED: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_V: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    kv_head = tl.program_id(1)
    batch = tl.program_id(2).to(tl.int64)
    start = tl.load(span_ptr + 2 * batch)
    stop = tl.load(span_ptr + 2 * batch + 1)
    first = start + tl.program_id(0) * BLOCK_K
    if first >= stop:
        return
    k_ptr += batch * k_batch + kv_head * k_head
    v_ptr += batch * v_batch + kv_head * v_head
    keys = first + tl.arange(0, BLOCK_K)
    real = keys < stop
    k = _load_rows(k_ptr, keys, k_pos, real, D_HEAD, BLOCK_D)
    v = _load_rows(v_ptr, keys, v_pos, real, D_VALUE, BLOCK_V)
    dk = tl.zeros([BLOCK_K, BLOCK_D], tl.float32)
    dv = tl.zeros([BLOCK_K, BLOCK_V], tl.float32)
    end = stop
    if WINDOWED:
        end = tl.minimum(stop, first + BLOCK_K + window - 1)
    for member in range(GROUP):
        head = kv_head * GROUP + member
        for block in range(first, end, BLOCK_Q):
            queries = block + tl.arange(0, BLOCK_Q)
            asks = queries < stop
            q = _load_rows(q_ptr + batch * q_batch + head * q_head, queries, q_pos, asks,
                           D_HEAD, BLOCK_D)  # fmt: skip
            dz = _load_rows(dz_ptr + batch * dz_batch + head * dz_head, queries, dz_pos, asks,
                            D_VALUE, BLOCK_V)  # fmt: skip
            per_row = (batch * HEADS + head) * n_pos + queries
            lse = tl.load(lse_ptr + per_row, mask=asks, other=float("inf"))
            delta = tl.load(delta_ptr + per_row, mask=asks, other=0.0)
            both = asks[:, None] & real[None, :]
            scores, slope = _score_tile(q, k, queries, keys, both, scale, softcap, window,
                                        CAPPED, WINDOWED, PRECISION)  # fmt: skip
            weights = tl.exp(scores - lse[:, None])
            dv += tl.dot(tl.trans(weights.to(dz.dtype)), dz, input_precision=PRECISION)
            dweights = tl.dot(dz, tl.trans(v), input_precision=PRECISION)
            dscores = weights * (dweights - delta[:, None]) * slope
            dk += tl.dot(tl.trans(dscores.to(q.dtype)), q, input_precision=PRECISION)
    dk_ptr += batch * dk_batch + kv_head * dk_head
    dv_ptr += batch * dv_batch + kv_head * dv_head
    _store_rows(dk_ptr, keys, dk_pos, real, dk.to(dk_ptr.dtype.element_ty), D_HEAD, BLOCK_D)
    _store_rows(dv_ptr, keys, dv_pos, real, dv.to(dv_ptr.dtype.element_ty), D_VALUE, BLOCK_V)
