"""Deletion and insertion: what happens when the edges that a map ranks highest are cut together."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from analyses.faithfulness.agreement import named
from analyses.faithfulness.effects import Scope, step_positions
from analyses.faithfulness.readings import readings
from analyses.instruments.knockout import Cut, cut_logits, divergence, logits_at
from analyses.instruments.maps import Maps
from step_saliency.models.facts import n_layers
from step_saliency.options import Pool
from step_saliency.saliency.pooling import StepLayout
from step_saliency.trace import Trace

FRACTIONS = (0.1, 0.25, 0.5, 0.75)
MIN_KL = 1e-3
"""Below it, in nats, there is nothing that a curve could share out."""


@dataclass(frozen=True)
class Rankings:
    """One row's edges as a map ranks them.

    Attributes:
        label: (method, objective, pool).
        scores: Score of each key step.
    """

    label: tuple[str, str | None, str | None]
    scores: Float[np.ndarray, "key_step"]


def curves(
    model: Any,
    trace: Trace,
    effects: pd.DataFrame,
    maps: Sequence[Maps],
    layout: StepLayout,
    pools: Sequence[Pool],
    *,
    fractions: Sequence[float] = FRACTIONS,
    batch_size: int = 16,
) -> Iterator[dict[str, Any]]:
    """Deletion and insertion curves of each map, all layers: sums over rows, as shares."""
    scope = Scope("all", tuple(range(n_layers(model))))
    read = [
        ((source.method, source.objective, pool), matrix.double().numpy())
        for source in maps
        for pool, matrix in readings(source, layout, scope, pools)
    ]
    curves_of: dict[Any, list[np.ndarray]] = {}
    table = effects[effects["scope"] == "all"]
    for query_step in map(int, table["query_step"].unique()):
        row = table[table["query_step"] == query_step]
        keys = row["key_step"].to_numpy()
        measured = row["kl"].to_numpy(float)
        rankings = [Rankings(label, matrix[query_step, keys]) for label, matrix in read]
        rankings += [
            Rankings(("oracle", None, None), measured),
            Rankings(("worst", None, None), -measured),
        ]
        row_curves = _row_curves(
            model, trace, layout, query_step, keys, rankings, fractions, batch_size
        )
        for key, curve in row_curves:
            curves_of.setdefault(key, []).append(curve)
    grid = np.array([0.0, *fractions, 1.0])
    for (label, kind), of_rows in curves_of.items():
        total = np.sum(of_rows, axis=0)
        full = total[-1] if kind == "deletion" else total[0]
        if full < MIN_KL:
            continue
        curve = total / full
        base = {**named(label), "scope": "all", "n_rows": len(of_rows)}
        for fraction, value in zip(grid, curve, strict=True):
            yield {**base, "measure": kind, "fraction": fraction, "value": value}
        yield {**base, "measure": f"{kind}_auc", "value": float(np.trapezoid(curve, grid))}


def _row_curves(
    model: Any,
    trace: Trace,
    layout: StepLayout,
    query_step: int,
    keys: Int[np.ndarray, "key_step"],
    rankings: Sequence[Rankings],
    fractions: Sequence[float],
    batch_size: int,
) -> Iterator[tuple[Any, Float[np.ndarray, "point"]]]:
    """Effect along each curve, in nats; each set of edges is cut once."""
    every = frozenset(keys.tolist())
    cut_sets: dict[Any, list[frozenset[int]]] = {}
    for ranking in rankings:
        # Equal scores are cut in the order of the steps, latest first.
        order = keys[np.lexsort((-keys, -ranking.scores))].tolist()
        tops = [frozenset(order[: math.ceil(part * len(keys))]) for part in fractions]
        cut_sets[ranking.label, "deletion"] = tops
        cut_sets[ranking.label, "insertion"] = [every - top for top in tops]
    sets = list(dict.fromkeys([every, *(s for some in cut_sets.values() for s in some)]))
    effect = _joint_effects(model, trace, layout, query_step, sets, batch_size)
    for (label, kind), some in cut_sets.items():
        inner = [effect[one] for one in some]
        ends = (0.0, effect[every])
        first, last = ends if kind == "deletion" else reversed(ends)
        yield (label, kind), np.array([first, *inner, last])


def _joint_effects(
    model: Any,
    trace: Trace,
    layout: StepLayout,
    query_step: int,
    sets: Sequence[frozenset[int]],
    batch_size: int,
) -> dict[frozenset[int], float]:
    """KL of the step's predictions when the edges to several steps are cut together."""
    queries = step_positions(layout.row_steps, query_step)
    positions = {j: step_positions(layout.key_steps, j) for some in sets for j in some}
    cuts = [Cut(tuple(queries), tuple(p for j in some for p in positions[j])) for some in sets]
    tokens = trace.tokens[: queries[-1] + 1]
    clean = logits_at(model, tokens[None], queries)[0]
    logits = cut_logits(model, tokens, cuts, queries, batch_size=batch_size)
    return {
        some: float(divergence(clean, after).mean())
        for some, after in zip(sets, logits, strict=True)
    }
