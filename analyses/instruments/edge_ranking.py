"""How well the scores of a map rank true pairs of steps above false ones.

    average precision = sum over thresholds of (recall_n - recall_{n-1}) * precision_n
    AUROC             = P(score_true > score_false) + P(score_true = score_false) / 2

Assumption: which pairs are candidates, and which of these are true, is known (`EdgeMatrices`).
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float
from scipy.stats import rankdata

Ranking = Literal["problem", "row"]


def average_precision(
    scores: Float[np.ndarray, "map pair"], truth: Bool[np.ndarray, "pair"]
) -> Float[np.ndarray, "map"]:
    """Average precision of several scores of the same pairs; equal scores enter together."""
    order = np.argsort(-scores, axis=1, kind="stable")
    ranked = np.take_along_axis(scores, order, axis=1)
    hits = truth[order]
    n_pairs = scores.shape[1]
    ends_tie = np.ones_like(hits)
    ends_tie[:, :-1] = ranked[:, :-1] != ranked[:, 1:]
    last = np.where(ends_tie, np.arange(n_pairs), n_pairs)
    last = np.minimum.accumulate(last[:, ::-1], axis=1)[:, ::-1]
    precision = np.cumsum(hits, axis=1) / np.arange(1, n_pairs + 1)
    return (np.take_along_axis(precision, last, axis=1) * hits).sum(1) / truth.sum()


def auroc(
    scores: Float[np.ndarray, "map pair"], truth: Bool[np.ndarray, "pair"]
) -> Float[np.ndarray, "map"]:
    """Chance that a true pair scores above a false one, ties counting half, for several scores."""
    n_true = truth.sum()
    ranks = rankdata(scores, axis=1)[:, truth].sum(1)
    return (ranks - n_true * (n_true + 1) / 2) / (n_true * (truth.size - n_true))


METRICS: Mapping[str, Callable[..., Any]] = {
    "average_precision": average_precision,
    "auroc": auroc,
}


def rank_edges(
    maps: Float[np.ndarray, "map step step"],
    truth: Bool[np.ndarray, "step step"],
    candidate: Bool[np.ndarray, "step step"],
    *,
    ranking: Ranking,
) -> dict[str, Float[np.ndarray, "map"]]:
    """Each metric of several maps; rows without both a true and a false candidate are left out."""
    rows = (
        [candidate]
        if ranking == "problem"
        else [_only_row(candidate, i) for i in range(len(truth))]
    )
    rows = [row for row in rows if 0 < truth[row].sum() < row.sum()]
    if not rows:
        return {name: np.full(len(maps), np.nan) for name in METRICS}
    return {
        name: np.mean([metric(maps[:, row], truth[row]) for row in rows], axis=0)
        for name, metric in METRICS.items()
    }


def _only_row(candidate: Bool[np.ndarray, "step step"], row: int) -> Bool[np.ndarray, "step step"]:
    return candidate & (np.arange(len(candidate)) == row)[:, None]
