"""How well single effects agree with maps, and with the known step graph."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analyses.faithfulness.effects import EFFECTS, Scope
from analyses.faithfulness.readings import readings
from analyses.instruments.edge_ranking import rank_edges
from analyses.instruments.maps import Maps
from step_saliency.options import Pool
from step_saliency.saliency.pooling import StepLayout
from step_saliency.stats.ranks import rank_correlation
from step_saliency.tasks import EdgeMatrices

KEYS = ["method", "objective", "pool", "scope", "measure", "fraction"]


def named(label: tuple[str, str | None, str | None]) -> dict[str, str | None]:
    return dict(zip(KEYS[:3], label, strict=True))


def correlations(
    effects: pd.DataFrame,
    maps: Sequence[Maps],
    layout: StepLayout,
    where: Sequence[Scope],
    pools: Sequence[Pool],
) -> Iterator[dict[str, Any]]:
    """Mean over rows of Spearman's rho between each map and the size of each effect."""
    for scope in where:
        read = [
            ((source.method, source.objective, pool), matrix.double().numpy())
            for source in maps
            for pool, matrix in readings(source, layout, scope, pools)
        ]
        table = effects[effects["scope"] == scope.name]
        rhos: dict[str, list[np.ndarray]] = {effect: [] for effect in EFFECTS}
        for query_step in table["query_step"].unique():
            row = table[table["query_step"] == query_step]
            keys = row["key_step"].to_numpy()
            scores = np.stack([matrix[int(query_step), keys] for _, matrix in read])
            for effect in EFFECTS:
                size = row[effect].abs().to_numpy(float)
                if not np.isnan(size).any():
                    rhos[effect].append(rank_correlation(scores, size))
        for effect, of_rows in rhos.items():
            stacked = np.stack(of_rows) if of_rows else np.empty((0, len(read)))
            counts = (~np.isnan(stacked)).sum(0)
            sums = np.nansum(stacked, 0)
            for number, (label, _) in enumerate(read):
                if counts[number]:
                    yield {
                        **named(label),
                        "scope": scope.name,
                        "measure": f"rho_{effect}",
                        "value": sums[number] / counts[number],
                        "n_rows": int(counts[number]),
                    }


def gold_agreement(effects: pd.DataFrame, edges: EdgeMatrices) -> Iterator[dict[str, Any]]:
    """How well the measured effects, all layers cut, rank the edges of the gold graph in rows."""
    table = effects[effects["scope"] == "all"]
    truth = (edges.premise | edges.step).numpy()
    candidate = np.zeros_like(truth)
    candidate[table["query_step"], table["key_step"]] = True
    candidate &= edges.candidate.numpy()
    for effect in EFFECTS:
        if table[effect].isna().any():
            continue
        matrix = np.zeros(truth.shape)
        matrix[table["query_step"], table["key_step"]] = table[effect].abs()
        area = rank_edges(matrix[None], truth, candidate, ranking="row")["auroc"][0]
        yield {
            **named(("knockout", effect, None)),
            "scope": "all",
            "measure": "auroc_gold",
            "value": area,
            "n_rows": int(candidate.any(1).sum()),
        }
