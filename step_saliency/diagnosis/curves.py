"""Means of diagnoses over many traces, with intervals: one curve per metric and group of traces.

For each metric (and layer, head, band, pair of regions), with v its value of a trace:

    estimate = mean over problems of (mean of v over the problem's traces of the group)

Groups are all traces, the correct and the error ones. Traces of one problem are not independent;
problems are, so the bootstrap draws whole problems (intervals as in
`step_saliency.stats.resampling`).

When it misleads: the correct and the error curve are over different problems where some problems
are always or never solved. Whether they differ is for `compare` to say, which looks within
problems.
"""

from collections.abc import Iterable
from typing import Literal

import numpy as np
import pandas as pd

from step_saliency.diagnosis.comparison import KEYS
from step_saliency.diagnosis.diagnosis import Diagnosis
from step_saliency.stats.resampling import Bootstrap

Group = Literal["all", "correct", "error"]


def mean_curves(
    data: Iterable[Diagnosis] | pd.DataFrame,
    *,
    confidence: float = 0.95,
    n_resamples: int = 5000,
    seed: int = 0,
) -> pd.DataFrame:
    """Mean over problems of every metric, for all, the correct and the error traces.

    Args:
        data: Diagnoses, or a table as `Diagnosis.to_frame` writes it. A trace without a problem
            counts as a problem of its own; missing values are left out.
        confidence: Level of the intervals.
        n_resamples: Bootstrap samples.
        seed: Of the bootstrap.

    Returns:
        One row per group and metric (with its regions, layer, head, band): ``group, estimate,
        lower, upper, n, n_traces``; ``n`` counts problems. Intervals are missing where there is
        one problem only. A group without traces has no rows.

    Raises:
        ValueError: there is nothing to average.
    """
    table = data if isinstance(data, pd.DataFrame) else _stack(data)
    if table.empty:
        raise ValueError("there are no diagnoses to average")
    groups: dict[Group, pd.DataFrame] = {
        "all": table,
        "correct": table[table["is_correct"].fillna(False).astype(bool)],
        "error": table[~table["is_correct"].fillna(True).astype(bool)],
    }
    parts = [
        _means(rows, confidence=confidence, n_resamples=n_resamples, seed=seed).assign(group=group)
        for group, rows in groups.items()
        if not rows.empty
    ]
    result = pd.concat(parts, ignore_index=True)
    return result[["group", *KEYS, "estimate", "lower", "upper", "n", "n_traces"]]


def _stack(diagnoses: Iterable[Diagnosis]) -> pd.DataFrame:
    frames = [
        diagnosis.to_frame().assign(trace=diagnosis.trace_id or f"#{number}")
        for number, diagnosis in enumerate(diagnoses)
    ]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def _means(table: pd.DataFrame, *, confidence: float, n_resamples: int, seed: int) -> pd.DataFrame:
    present = table.dropna(subset=["value"])
    key = present.groupby(list(KEYS), dropna=False, sort=False).ngroup()
    values = present.assign(problem=present["problem"].fillna(present["trace"]), key=key)
    means = values.groupby(["problem", "key"])["value"].mean().unstack("key").sort_index(axis=1)
    of_problem = means.to_numpy(dtype=float)
    bootstrap = Bootstrap(
        len(of_problem), confidence=confidence, n_resamples=n_resamples, seed=seed
    )
    result = values.drop_duplicates("key").sort_values("key")[list(KEYS)].reset_index(drop=True)
    result["estimate"] = np.nanmean(of_problem, axis=0)
    result["lower"], result["upper"] = bootstrap.interval(of_problem)
    result["n"] = (~np.isnan(of_problem)).sum(0)
    result["n_traces"] = values.groupby("key")["trace"].nunique().to_numpy()
    return result
