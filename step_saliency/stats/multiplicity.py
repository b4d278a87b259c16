"""Correction for many tests.

Holm: p of rank r among m, times m - r + 1, made monotone, at most 1. The chance of any false
finding within a family of tests stays at the level, whatever their dependence. What a family is
decides what may be claimed: say it beside the table.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float


def holm(p_values: Float[np.ndarray, "test"]) -> Float[np.ndarray, "test"]:
    """Holm's correction; missing p-values stay missing and count in no family."""
    # statsmodels' `multipletests` collects garbage in every call: 0.1 s for each of many families.
    corrected = np.full(len(p_values), np.nan)
    order = np.argsort(p_values, kind="stable")[: int((~np.isnan(p_values)).sum())]
    factors = np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(1, np.maximum.accumulate(p_values[order] * factors))
    return corrected


def with_holm(
    table: pd.DataFrame, *, p: str = "p", family: Sequence[str] = (), name: str = "p_holm"
) -> pd.DataFrame:
    """Add Holm's correction of a column of p-values, after it.

    Args:
        table: Table with one test a row.
        p: Column of the p-values.
        family: Columns within whose values the tests are corrected together.
        name: Column that is added.
    """
    groups = table.groupby(list(family), dropna=False) if family else [(None, table)]
    corrected = pd.Series(np.nan, table.index)
    for _, rows in groups:
        corrected[rows.index] = holm(rows[p].to_numpy(float))
    table = table.copy()
    table.insert(list(table.columns).index(p) + 1, name, corrected)
    return table
