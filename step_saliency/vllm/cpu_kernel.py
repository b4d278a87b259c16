"""The edits of single queries, made straight in the CPU backend's output and paged cache.

`bridged_rows` does what `edits.bridged` does with gathered keys and values, `injected_rows` what
`edits.momenta` does. The parts are small functions of neighbours in memory without calls, each of
which the compiler makes wide; hence an exponential of its own.

Of the values of a row, only those of bridge and current part count; but most keys are current, and
the kernel's own output o knows their sum: with what the bridge gains per weight (g) and the current
part gives (s),

    o + g sum_B p v - s sum_S p v  =  (1 - s) o + (g + s) sum_B p v + s sum_O p v

The side with fewer keys is summed. float32 only, and only where keys lie ``d_head slot`` and values
``slot d_head`` in a block, with a d_head that is a multiple of 8; all else takes the other way.
"""

import inspect
import math
from collections.abc import Callable
from functools import cache
from types import FunctionType

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Sums = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64] | npt.NDArray[np.int32]

LOWEST = np.float32(-87.0)
"""Scores below the largest one by more have this weight, e^-87, the least normal number."""
LOG2_E, LN_2, HALF = np.float32(math.log2(math.e)), np.float32(math.log(2)), np.float32(0.5)
C3, C4, C5, C6 = (np.float32(1 / math.factorial(n)) for n in range(3, 7))
ONE, NONE = np.float32(1.0), np.float32(0.0)
WIDE = 32
"""Keys whose scores are formed together; those behind the last one are not read again."""

COUNTED = (
    "rows_seen",
    "rows_shifted",
    "infeasible",
    "mass_before",
    "mass_after",
    "kl",
    "total_variation",
)
"""Counters of `Effects` that `bridged_rows` adds to, in their order."""


@cache
def compiled(whole: Callable[..., None]) -> Callable[..., None]:
    """`bridged_rows` or `injected_rows`, compiled by numba, which comes with vLLM."""
    import numba

    options = {"nogil": True, "fastmath": {"contract", "reassoc", "nsz", "arcp", "nnan"}}
    plain = inspect.unwrap(whole)  # without what run-time type checks put around it
    parts = (add_scores, bound_scores, weigh, count_row, add_values)
    made = {part.__name__: numba.njit(**options)(inspect.unwrap(part)) for part in parts}
    linked = FunctionType(plain.__code__, {**globals(), **made}, plain.__name__)
    compiled_whole: Callable[..., None] = numba.njit(cache=True, **options)(linked)
    return compiled_whole


def bridged_rows(
    query: Floats,
    output: Floats,
    pages: Floats,
    block_table: Ints,
    rows: Ints,
    members: Floats,
    tau_max: Floats,
    window: int,
    scale: float,
    softcap: float,
    sinks: Floats,
    counters: Sums,
) -> None:
    """Edit the output of rows, and count what was done.

    Args:
        query: ``token head d_head``.
        output: ``token head d_head``; edited in place.
        pages: ``block kv_head 2 slot*d_head``.
        block_table: ``request n_blocks``.
        rows: ``row 5``: token, row of the block table, number of keys, place, 1 if it counts.
        members: ``place 2 key``, 1 in the bridge and in the current part.
        tau_max: ``row``.
        window: Keys that a query sees; 0 for all.
        scale: Factor of the scores.
        softcap: Bound of the scores, 0 without.
        sinks: ``head``, or empty.
        counters: ``place head counter``, `COUNTED`; added to.
    """
    d_head, n_kv_heads = query.shape[2], pages.shape[1]
    n_slots, group = pages.shape[3] // d_head, query.shape[1] // n_kv_heads
    longest = (rows[:, 2].max() + n_slots - 1) // n_slots * n_slots
    scores = np.empty((group, longest), dtype=np.float32)
    exponents = np.empty(longest, dtype=np.int32)
    of_group = np.empty((group, d_head), dtype=np.float32)
    added = np.empty((group, d_head), dtype=np.float32)
    kept = np.empty(group, dtype=np.float32)
    is_moved = np.empty(group, dtype=np.bool_)
    for row in range(len(rows)):
        token, table_row, last, place = rows[row, 0], rows[row, 1], rows[row, 2], rows[row, 3]
        first = max(0, last - window) if window > 0 else 0
        bridge, current = members[place, 0, first:last], members[place, 1, first:last]
        n_bridge, n_current = bridge.sum(), current.sum()
        if n_bridge == 0 or n_current == 0:
            continue
        by_rest = last - first - n_bridge < 2 * n_current
        floor = min(math.sqrt(n_bridge / (n_bridge + n_current)), float(tau_max[row]))
        first_block, n_blocks = first // n_slots, (last + n_slots - 1) // n_slots
        for kv_head in range(n_kv_heads):
            head = kv_head * group
            for g in range(group):
                for i in range(d_head):
                    of_group[g, i] = query[token, head + g, i] * np.float32(scale)
            scores[:, first_block * n_slots : n_blocks * n_slots] = NONE
            for block in range(first_block, n_blocks):
                begin = block * n_slots
                keys = pages[block_table[table_row, block], kv_head, 0]
                end = min(begin + n_slots, (last + WIDE - 1) // WIDE * WIDE)
                add_scores(of_group, keys, scores, begin, end, n_slots)
            for g in range(group):
                seen = scores[g, first:last]
                if softcap > 0:
                    bound_scores(seen, np.float32(softcap))
                sink = sinks[head + g] if len(sinks) > 0 else np.float32(-np.inf)
                on_bridge, on_current, total = weigh(seen, bridge, current, sink, exponents)
                counted = counters[place, head + g]
                moved = count_row(on_bridge, on_current, floor, counted, bool(rows[row, 4]))
                is_moved[g] = moved > 0
                if is_moved[g]:
                    gains = np.float32(moved / on_bridge / total)
                    gives = np.float32(moved / on_current / total)
                    kept[g] = ONE - np.float32(moved / on_current) if by_rest else ONE
                    added[g] = NONE
                    if by_rest:
                        for key in range(last - first):
                            seen[key] *= bridge[key] * gains + gives * (ONE - current[key])
                    else:
                        for key in range(last - first):
                            seen[key] *= bridge[key] * gains - gives * current[key]
            for block in range(first_block, n_blocks):
                begin = block * n_slots
                start, stop = max(0, first - begin), min(n_slots, last - begin)
                values = pages[block_table[table_row, block], kv_head, 1, start * d_head :]
                for g in range(group):
                    if is_moved[g]:
                        add_values(scores[g, begin + start : begin + stop], values, added[g])
            for g in range(group):
                if is_moved[g]:
                    for i in range(d_head):
                        output[token, head + g, i] = (
                            kept[g] * output[token, head + g, i] + added[g, i]
                        )


def add_scores(
    query: Floats, keys: Floats, scores: Floats, begin: int, end: int, n_slots: int
) -> None:
    """Scores of a block's keys for the heads that share them.

    Args:
        query: ``head d_head``.
        keys: ``d_head*slot``.
        scores: ``head key``; added to.
        begin: The block's first key.
        end: The key after its last.
        n_slots: Slots of a block.
    """
    for i in range(0, query.shape[1], 8):
        k0, k1 = keys[i * n_slots :], keys[(i + 1) * n_slots :]
        k2, k3 = keys[(i + 2) * n_slots :], keys[(i + 3) * n_slots :]
        k4, k5 = keys[(i + 4) * n_slots :], keys[(i + 5) * n_slots :]
        k6, k7 = keys[(i + 6) * n_slots :], keys[(i + 7) * n_slots :]
        for g in range(len(query)):
            q0, q1, q2, q3 = query[g, i], query[g, i + 1], query[g, i + 2], query[g, i + 3]
            q4, q5, q6, q7 = query[g, i + 4], query[g, i + 5], query[g, i + 6], query[g, i + 7]
            into = scores[g, begin:end]
            for slot in range(end - begin):
                into[slot] += (q0 * k0[slot] + q1 * k1[slot] + q2 * k2[slot] + q3 * k3[slot]) + (
                    q4 * k4[slot] + q5 * k5[slot] + q6 * k6[slot] + q7 * k7[slot]
                )


def bound_scores(scores: Floats, softcap: np.float32) -> None:
    """Bound scores, in place."""
    for key in range(len(scores)):
        scores[key] = math.tanh(scores[key] / softcap) * softcap


def weigh(
    scores: Floats,
    bridge: Floats,
    current: Floats,
    sink: np.float32,
    exponents: npt.NDArray[np.int32],
) -> tuple[np.float32, np.float32, np.float32]:
    """Turn scores into weights that are not divided by their sum yet, in place.

    Args:
        scores: ``key``.
        bridge: ``key``.
        current: ``key``.
        sink: Of the head; -inf without.
        exponents: Room for a number for each key.

    Returns:
        Mass of the bridge, mass of the current part, and the sum of all weights.
    """
    top = scores.max()
    total = NONE
    if sink > -np.inf:
        top = max(top, sink)
        total = np.float32(math.exp(sink - top))
    powers = exponents.view(np.float32)
    for key in range(len(scores)):  # 2^exponent and e^rest of each weight
        below = max(scores[key] - top, LOWEST)
        exponent = np.int32(below * LOG2_E - HALF)
        x = below - np.float32(exponent) * LN_2
        exponents[key] = (exponent + np.int32(127)) << np.int32(23)
        scores[key] = ONE + x * (ONE + x * (HALF + x * (C3 + x * (C4 + x * (C5 + x * C6)))))
    on_bridge, on_current = NONE, NONE
    for key in range(len(scores)):
        weight = scores[key] * powers[key]
        scores[key] = weight
        total += weight
        on_bridge += weight * bridge[key]
        on_current += weight * current[key]
    return on_bridge / total, on_current / total, total


def count_row(
    on_bridge: np.float32, on_current: np.float32, floor: float, counters: Sums, is_counted: bool
) -> float:
    """How much mass a head moves to the bridge (see `oeb.projection`), counted.

    Args:
        on_bridge: Mass of the bridge.
        on_current: Mass of the current part.
        floor: tau_B.
        counters: ``counter``, `COUNTED`; added to.
        is_counted: Whether it counts.
    """
    bridge, current = float(on_bridge), float(on_current)
    if not (bridge > 0 and current > 0):
        return 0.0
    pair = bridge + current
    is_feasible = floor < pair
    target = floor if is_feasible else pair / 2
    moved = max(target - bridge, 0.0)
    if not is_counted:
        return moved
    counters[0] += 1
    counters[2] += not is_feasible and bridge < floor
    counters[3] += bridge
    counters[4] += bridge + moved
    if moved > 0:
        counters[1] += 1
        counters[5] += target * math.log(target / bridge) + (pair - target) * math.log(
            (pair - target) / current
        )
        counters[6] += moved
    return moved


def add_values(weights: Floats, values: Floats, into: Floats) -> None:
    """Add values by their weights, fours without any left out.

    Args:
        weights: ``slot``.
        values: ``slot*d_value``.
        into: ``d_value``.
    """
    width, whole = len(into), len(weights) // 4 * 4
    for slot in range(0, whole, 4):
        w0, w1 = weights[slot], weights[slot + 1]
        w2, w3 = weights[slot + 2], weights[slot + 3]
        if w0 == 0 and w1 == 0 and w2 == 0 and w3 == 0:
            continue
        v0 = values[slot * width :]
        v1, v2, v3 = v0[width:], v0[2 * width :], v0[3 * width :]
        for i in range(width):
            into[i] += w0 * v0[i] + w1 * v1[i] + w2 * v2[i] + w3 * v3[i]
    for slot in range(whole, len(weights)):
        w0, v0 = weights[slot], values[slot * width :]
        for i in range(width):
            into[i] += w0 * v0[i]


def injected_rows(
    output: Floats,
    pages: Floats,
    block_table: Ints,
    injections: Ints,
    factors: Floats,
    added: Floats,
) -> None:
    """Add the mean values of steps to the output of the tokens that begin the next ones.

    Args:
        output: ``token head d_head``; edited in place.
        pages: ``block kv_head 2 slot*d_head``.
        block_table: ``request n_blocks``.
        injections: ``injection 4``: token, row of the block table, first and last position + 1.
        factors: ``injection``, alpha over the number of positions.
        added: ``injection head d_head``, zeros; what was added.
    """
    n_kv_heads, d_head = pages.shape[1], output.shape[2]
    n_slots, group = pages.shape[3] // d_head, output.shape[1] // n_kv_heads
    for number in range(len(injections)):
        token, table_row = injections[number, 0], injections[number, 1]
        for kv_head in range(n_kv_heads):
            mean = added[number, kv_head * group]
            for position in range(injections[number, 2], injections[number, 3]):
                block = block_table[table_row, position // n_slots]
                value = pages[block, kv_head, 1, position % n_slots * d_head :]
                for i in range(d_head):
                    mean[i] += value[i]
            for i in range(d_head):
                mean[i] *= factors[number]
            for g in range(group):
                for i in range(d_head):
                    added[number, kv_head * group + g, i] = mean[i]
                    output[token, kv_head * group + g, i] += mean[i]
