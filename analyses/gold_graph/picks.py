"""Heads and layers picked on the other half of the problems, so that picking gains nothing."""

from collections.abc import Sequence

import pandas as pd

KEYS = ["family", "method", "objective", "pool", "layer", "head", "edge", "ranking", "metric"]


def pick_best_heads(values: pd.DataFrame) -> pd.DataFrame:
    """Rows ``head="best"``: the head that was best on the other half of the problems.

    Per layer, and over the whole model (layer missing). Halves are even and odd problems.
    """
    heads = values[values["head"].str.isdigit().astype(bool)]
    keys = [key for key in KEYS if key not in ("layer", "head")]
    in_layer = _best_on_other_half(heads, [*keys, "layer"], values)
    in_model = _best_on_other_half(heads, keys, values)
    in_model["layer"] = pd.NA
    picked = pd.concat([in_layer, in_model], ignore_index=True).assign(head="best")
    return picked.astype({"layer": "Int64", "head": "string"})


def pick_best_layers(values: pd.DataFrame) -> pd.DataFrame:
    """Rows ``head="best_layer"``: the mean over heads of the layer best on the other half."""
    layers = values[(values["head"] == "mean") & values["layer"].notna()]
    keys = [key for key in KEYS if key not in ("layer", "head")]
    picked = _best_on_other_half(layers, keys, values).assign(head="best_layer")
    picked["layer"] = pd.NA
    return picked.astype({"layer": "Int64", "head": "string"})


def _best_on_other_half(
    rows: pd.DataFrame, scope: Sequence[str], values: pd.DataFrame
) -> pd.DataFrame:
    """Of each scope, the rows of the reading whose mean is highest on the other half."""
    if rows.empty:
        return rows
    order = {problem: i for i, problem in enumerate(values["problem"].unique())}
    half = rows["problem"].map(order) % 2
    picked = []
    for mine in (0, 1):
        other = rows[half != mine].groupby([*KEYS], dropna=False)["value"].mean().reset_index()
        best = other.loc[other.groupby([*scope], dropna=False)["value"].idxmax()]
        picked.append(rows[half == mine].merge(best[KEYS], on=KEYS))
    return pd.concat(picked, ignore_index=True)


def with_picked(values: pd.DataFrame) -> pd.DataFrame:
    """Values with the rows of picked heads and layers."""
    picked = [pick_best_heads(values), pick_best_layers(values)]
    return pd.concat([values, *picked], ignore_index=True)
