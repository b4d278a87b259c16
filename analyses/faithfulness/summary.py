"""Means over problems, and differences between maps paired by problem."""

import pandas as pd

from analyses.faithfulness.agreement import KEYS
from step_saliency.stats.paired import paired_table
from step_saliency.stats.problems import mean_table

REFERENCES = (
    "attention mean",
    "attention mass",
    "attention_norm mean",
    "attention_norm mass",
    "distance",
    "key_length",
)
"""What a map has to beat: attention, plain and by the length of what it writes, nearness, size."""


def summarise(values: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """Means over problems with intervals: `KEYS`, ``estimate, lower, upper, n``."""
    return mean_table(values, "value", by=KEYS, seed=seed).drop(columns="p")


def differences(values: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """Each map minus each of `REFERENCES`, paired by problem.

    Columns ``scope, measure, map, reference, estimate, lower, upper, n, p, p_holm, ...``; Holm's
    correction is made within a measure, scope and reference.
    """
    whole = values[values["fraction"].isna() & (values["measure"] != "auroc_gold")]
    labels = whole[["method", "objective", "pool"]].fillna("").agg(" ".join, axis=1)
    whole = whole.assign(map=labels.str.split().str.join(" "))
    tables = []
    for reference in REFERENCES:
        if (whole["map"] == reference).any():
            table = paired_table(
                whole,
                "value",
                condition="map",
                reference=reference,
                by=["scope", "measure"],
                family=["scope", "measure"],
                n_permutations=2000,
                seed=seed,
            )
            tables.append(table)
    return pd.concat(tables, ignore_index=True)
