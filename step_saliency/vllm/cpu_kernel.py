"""An Odds-Equal Bridge for single queries, read straight out of the CPU backend's paged cache.

What `edits.bridged` does with gathered keys and values, without gathering them: for each row and
key-value head one loop over the blocks of keys for the scores, one over keys for the weights, and
one over the blocks of values for heads that are moved. Loops run over neighbours in memory and hold
no call, so that the compiler makes them wide; hence the exponential of its own. float32 only, and
only where keys lie ``d_head slot`` and values ``slot d_head`` in a block, with a d_head that is a
multiple of 8; all else takes the other way.
"""

import inspect
import math
from collections.abc import Callable
from functools import cache

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

LOWEST = np.float32(-87.0)
"""Scores below the largest one by more have this weight, e^-87, the least normal number."""
LOG2_E, LN_2, HALF = np.float32(math.log2(math.e)), np.float32(math.log(2)), np.float32(0.5)
C3, C4, C5, C6 = (np.float32(1 / math.factorial(n)) for n in range(3, 7))
ONE, NONE = np.float32(1.0), np.float32(0.0)


@cache
def compiled() -> Callable[..., None]:
    """`bridged_rows`, compiled by numba, which comes with vLLM."""
    import numba

    options = {"contract", "reassoc", "nsz", "arcp", "nnan"}
    plain = inspect.unwrap(bridged_rows)  # without what run-time type checks put around it
    made: Callable[..., None] = numba.njit(cache=True, nogil=True, fastmath=options)(plain)
    return made


def bridged_rows(
    query: Floats,
    pages: Floats,
    blocks: Ints,
    n_keys: Ints,
    members: Floats,
    places: Ints,
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
        members: ``place 2 key``, 1 in the bridge and in the current part.
        places: ``row``.
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
    longest = (n_keys.max() + n_slots - 1) // n_slots * n_slots
    scores = np.empty((group, longest), dtype=np.float32)
    exponents = np.empty(longest, dtype=np.int32)
    powers = exponents.view(np.float32)
    is_moved = np.empty(group, dtype=np.bool_)
    for row in range(n_rows):
        last = n_keys[row]
        first = max(0, last - window) if window > 0 else 0
        bridge, current = members[places[row], 0], members[places[row], 1]
        n_bridge, n_current = NONE, NONE
        for key in range(first, last):
            n_bridge += bridge[key]
            n_current += current[key]
        counts[row, 0], counts[row, 1] = n_bridge, n_current
        if n_bridge == 0 or n_current == 0:
            continue
        floor = min(math.sqrt(n_bridge / (n_bridge + n_current)), tau_max[row])
        first_block, n_blocks = first // n_slots, (last + n_slots - 1) // n_slots
        for kv_head in range(n_kv_heads):
            scores[:, first_block * n_slots : n_blocks * n_slots] = NONE
            for block in range(first_block, n_blocks):
                keys = pages[blocks[row, block], kv_head, 0]
                begin = block * n_slots
                n_here = min(n_slots, last - begin)
                for i in range(0, d_head, 8):
                    k0, k1 = keys[i * n_slots :], keys[(i + 1) * n_slots :]
                    k2, k3 = keys[(i + 2) * n_slots :], keys[(i + 3) * n_slots :]
                    k4, k5 = keys[(i + 4) * n_slots :], keys[(i + 5) * n_slots :]
                    k6, k7 = keys[(i + 6) * n_slots :], keys[(i + 7) * n_slots :]
                    for g in range(group):
                        q = query[row, kv_head * group + g, i : i + 8]
                        q0, q1, q2, q3 = q[0], q[1], q[2], q[3]
                        q4, q5, q6, q7 = q[4], q[5], q[6], q[7]
                        into = scores[g, begin:]
                        for slot in range(n_here):
                            into[slot] += (
                                (q0 * k0[slot] + q1 * k1[slot] + q2 * k2[slot] + q3 * k3[slot])
                                + (q4 * k4[slot] + q5 * k5[slot] + q6 * k6[slot] + q7 * k7[slot])
                            ) * factor
            for g in range(group):
                head = kv_head * group + g
                of_head = scores[g]
                if softcap > 0:
                    for key in range(first, last):
                        of_head[key] = math.tanh(of_head[key] / softcap) * softcap
                top = of_head[first]
                for key in range(first, last):
                    top = max(top, of_head[key])
                total = NONE
                if len(sinks) > 0:
                    top = max(top, sinks[head])
                    total = np.float32(math.exp(sinks[head] - top))
                for key in range(first, last):  # 2^exponent and e^rest of each weight
                    below = max(of_head[key] - top, LOWEST)
                    exponent = np.int32(below * LOG2_E - HALF)
                    x = below - np.float32(exponent) * LN_2
                    exponents[key] = (exponent + np.int32(127)) << np.int32(23)
                    of_head[key] = ONE + x * (
                        ONE + x * (HALF + x * (C3 + x * (C4 + x * (C5 + x * C6))))
                    )
                on_bridge, on_current = NONE, NONE
                for key in range(first, last):
                    weight = of_head[key] * powers[key]
                    of_head[key] = weight
                    total += weight
                    on_bridge += weight * bridge[key]
                    on_current += weight * current[key]
                on_bridge, on_current = on_bridge / total, on_current / total
                sums[row, head, 0], sums[row, head, 1] = on_bridge, on_current
                pair = on_bridge + on_current
                target = floor if floor < pair else pair / 2
                moved = target - on_bridge
                is_moved[g] = on_bridge > 0 and on_current > 0 and moved > 0
                if is_moved[g]:
                    gains = np.float32(moved / on_bridge / total)
                    gives = np.float32(moved / on_current / total)
                    for key in range(first, last):
                        of_head[key] *= bridge[key] * gains - current[key] * gives
            for block in range(first_block, n_blocks):
                values = pages[blocks[row, block], kv_head, 1]
                begin = block * n_slots
                start, stop = max(0, first - begin), min(n_slots, last - begin)
                for g in range(group):
                    if not is_moved[g]:
                        continue
                    into = added[row, kv_head * group + g]
                    weights = scores[g, begin:]
                    whole = start + (stop - start) // 4 * 4
                    for slot in range(start, whole, 4):
                        w0, w1 = weights[slot], weights[slot + 1]
                        w2, w3 = weights[slot + 2], weights[slot + 3]
                        v0 = values[slot * d_head :]
                        v1, v2 = v0[d_head:], v0[2 * d_head :]
                        v3 = v0[3 * d_head :]
                        for i in range(d_head):
                            into[i] += w0 * v0[i] + w1 * v1[i] + w2 * v2[i] + w3 * v3[i]
                    for slot in range(whole, stop):
                        w0, v0 = weights[slot], values[slot * d_head :]
                        for i in range(d_head):
                            into[i] += w0 * v0[i]
