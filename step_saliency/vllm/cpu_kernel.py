"""An Odds-Equal Bridge for single queries, read straight out of the CPU backend's paged cache.

What `edits.bridged` does with gathered keys and values, without gathering them: one loop over a
row's blocks for the scores, one for the values of rows that are moved. float32 only, and only where
keys lie ``d_head slot`` and values ``slot d_head`` in a block, with a d_head that is a multiple of
4; all else takes the other way.
"""

import inspect
import math
from collections.abc import Callable
from functools import cache

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


@cache
def compiled() -> Callable[..., None]:
    """`bridged_rows`, compiled by numba, which comes with vLLM."""
    import numba

    options = {"contract", "reassoc", "nsz", "arcp"}
    plain = inspect.unwrap(bridged_rows)  # without what run-time type checks put around it
    made: Callable[..., None] = numba.njit(cache=True, nogil=True, fastmath=options)(plain)
    return made


def bridged_rows(
    query: Floats,
    pages: Floats,
    blocks: Ints,
    n_keys: Ints,
    members: Floats,
    tau_max: Floats,
    window: int,
    scale: float,
    softcap: float,
    sinks: Floats,
    result: tuple[Floats, Floats, Floats],
) -> None:
    """Fill the three arrays of `edits.Bridged`, which come filled with zeros.

    Args:
        query: ``row head d_head``.
        pages: ``block kv_head 2 slot*d_head``.
        blocks: ``row n_blocks``.
        n_keys: ``row``.
        members: ``row key 2``.
        tau_max: ``row``.
        window: Keys that a query sees; 0 for all.
        scale: Factor of the scores.
        softcap: Bound of the scores, 0 without.
        sinks: ``head``, or empty.
        result: ``row head d_value``, ``row head 2`` and ``row 2``.
    """
    added, sums, counts = result
    n_rows, n_heads, d_head = query.shape
    n_kv_heads = pages.shape[1]
    n_slots = pages.shape[3] // d_head
    group = n_heads // n_kv_heads
    factor = np.float32(scale)
    for row in range(n_rows):
        last = n_keys[row]
        first = max(0, last - window) if window > 0 else 0
        for key in range(first, last):
            counts[row, 0] += members[row, key, 0]
            counts[row, 1] += members[row, key, 1]
        n_bridge, n_current = counts[row]
        if n_bridge == 0 or n_current == 0:
            continue
        floor = min(math.sqrt(n_bridge / (n_bridge + n_current)), tau_max[row])
        n_blocks = (last + n_slots - 1) // n_slots
        scores = np.empty((group, n_blocks * n_slots), dtype=np.float32)
        for kv_head in range(n_kv_heads):
            scores[:] = 0.0
            for block in range(first // n_slots, n_blocks):
                keys = pages[blocks[row, block], kv_head, 0]
                begin = block * n_slots
                n_here = min(n_slots, last - begin)
                for i in range(0, d_head, 4):
                    at = i * n_slots
                    for g in range(group):
                        of_head = query[row, kv_head * group + g]
                        q0, q1 = of_head[i] * factor, of_head[i + 1] * factor
                        q2, q3 = of_head[i + 2] * factor, of_head[i + 3] * factor
                        for slot in range(n_here):
                            scores[g, begin + slot] += (
                                q0 * keys[at + slot]
                                + q1 * keys[at + n_slots + slot]
                                + q2 * keys[at + 2 * n_slots + slot]
                                + q3 * keys[at + 3 * n_slots + slot]
                            )
            for g in range(group):
                head = kv_head * group + g
                if softcap > 0:
                    for key in range(first, last):
                        scores[g, key] = math.tanh(scores[g, key] / softcap) * softcap
                top = scores[g, first]
                for key in range(first, last):
                    top = max(top, scores[g, key])
                if len(sinks) > 0:
                    top = max(top, sinks[head])
                total = math.exp(sinks[head] - top) if len(sinks) > 0 else 0.0
                on_bridge, on_current = 0.0, 0.0
                for key in range(first, last):
                    weight = np.exp(scores[g, key] - top)
                    scores[g, key] = weight
                    total += weight
                    on_bridge += weight * members[row, key, 0]
                    on_current += weight * members[row, key, 1]
                on_bridge, on_current = on_bridge / total, on_current / total
                sums[row, head, 0], sums[row, head, 1] = on_bridge, on_current
                pair = on_bridge + on_current
                target = floor if floor < pair else pair / 2
                moved = target - on_bridge
                if on_bridge <= 0 or on_current <= 0 or moved <= 0:
                    continue
                gains, gives = moved / on_bridge / total, moved / on_current / total
                for key in range(first, last):
                    change = members[row, key, 0] * gains - members[row, key, 1] * gives
                    if change != 0:
                        weight = scores[g, key] * change
                        values = pages[blocks[row, key // n_slots], kv_head, 1]
                        begin = (key % n_slots) * d_head
                        for i in range(d_head):
                            added[row, head, i] += weight * values[begin + i]
