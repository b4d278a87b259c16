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
from dataclasses import replace
from typing import Literal, Unpack

import pandas as pd

from step_saliency.diagnosis.diagnosis import Diagnosis, stacked
from step_saliency.diagnosis.frame import KEYS
from step_saliency.options import Draws, DrawsOptions, shows_keywords
from step_saliency.stats.problems import mean_intervals

Group = Literal["all", "correct", "error"]


@shows_keywords(DrawsOptions, vars(Draws()), documented_by=Draws)
def mean_curves(
    data: Iterable[Diagnosis] | pd.DataFrame,
    *,
    draws: Draws | None = None,
    **options: Unpack[DrawsOptions],
) -> pd.DataFrame:
    """Mean over problems of every metric, for all, the correct and the error traces.

    Args:
        data: Diagnoses, or a table as `Diagnosis.to_frame` writes it. A trace without a problem
            counts as a problem of its own; missing values are left out.
        draws: How intervals are drawn; nothing is tested.
        options: Fields of `step_saliency.options.Draws`, which change it.

    Returns:
        One row per group and metric (with its regions, layer, head, band): ``group, estimate,
        lower, upper, n, n_traces``; ``n`` counts problems. Intervals are missing where there is
        one problem only. A group without traces has no rows.

    Raises:
        ValueError: there is nothing to average.
    """
    draws = replace(draws or Draws(), **options)
    table = stacked(data, "average")
    if table.empty:
        raise ValueError("there are no diagnoses to average")
    groups: dict[Group, pd.DataFrame] = {
        "all": table,
        "correct": table[table["is_correct"].fillna(False).astype(bool)],
        "error": table[~table["is_correct"].fillna(True).astype(bool)],
    }
    parts = [
        _means(rows, draws).assign(group=group) for group, rows in groups.items() if not rows.empty
    ]
    result = pd.concat(parts, ignore_index=True)
    return result[["group", *KEYS, "estimate", "lower", "upper", "n", "n_traces"]]


def _means(table: pd.DataFrame, draws: Draws) -> pd.DataFrame:
    present = table.dropna(subset=["value"])
    key = present.groupby(list(KEYS), dropna=False, sort=False).ngroup()
    values = present.assign(problem=present["problem"].fillna(present["trace"]), key=key)
    means = values.groupby(["problem", "key"])["value"].mean().unstack("key").sort_index(axis=1)
    keys = values.drop_duplicates("key").sort_values("key")[list(KEYS)].reset_index(drop=True)
    intervals = mean_intervals(means.to_numpy(dtype=float), draws)
    traces = values.drop_duplicates(["problem", "trace", "key"])
    n_traces = traces.groupby("key").size().to_numpy()
    return pd.concat([keys, intervals], axis=1).assign(n_traces=n_traces)
