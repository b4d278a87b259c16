"""Means over problems with intervals, and differences from attention."""

import pandas as pd

from analyses.gold_graph.picks import KEYS, with_picked
from analyses.gold_graph.scores import Edge
from analyses.instruments.edge_ranking import Ranking
from step_saliency.options import Draws
from step_saliency.stats.problems import mean_intervals

N_BOOTSTRAP = 2000


def summarise(
    values: pd.DataFrame, *, seed: int = 0, n_bootstrap: int = N_BOOTSTRAP
) -> pd.DataFrame:
    """Means over problems with intervals: columns of `KEYS`, then estimate, lower, upper, n."""
    return _intervals(with_picked(values), seed=seed, n_bootstrap=n_bootstrap)


def differences(
    values: pd.DataFrame, *, seed: int = 0, n_bootstrap: int = N_BOOTSTRAP
) -> pd.DataFrame:
    """Each method minus raw attention, same reading, paired by problem; no single heads."""
    both = with_picked(values)
    both = both[both["head"].isin(["mean", "best", "best_layer"])]
    keys = [key for key in KEYS if key not in ("method", "objective")]
    attention = both[both["method"] == "attention"]
    merged = both.merge(
        attention[["problem", *keys, "value"]], on=["problem", *keys], suffixes=("", "_attention")
    )
    merged = merged[merged["method"] != "attention"]
    merged["value"] -= merged["value_attention"]
    table = _intervals(merged, seed=seed, n_bootstrap=n_bootstrap)
    return table.assign(reference="attention")


def _intervals(values: pd.DataFrame, *, seed: int, n_bootstrap: int) -> pd.DataFrame:
    wide = _by_problem(values)
    draws = Draws(n_resamples=n_bootstrap, seed=seed)
    intervals = mean_intervals(wide.to_numpy(float), draws, levels="plain")
    return _restore(pd.concat([wide.columns.to_frame(index=False), intervals], axis=1))


MISSING_LAYER, MISSING_NAME = -1, ""


def _by_problem(values: pd.DataFrame) -> pd.DataFrame:
    """One row a problem, one column a reading; pandas drops missing keys, so they get stand-ins."""
    names = dict.fromkeys(["objective", "pool"], MISSING_NAME) | {"layer": MISSING_LAYER}
    filled = values.fillna(names).astype({"layer": int})
    return filled.pivot(index="problem", columns=KEYS, values="value")


def _restore(table: pd.DataFrame) -> pd.DataFrame:
    table["layer"] = table["layer"].astype("Int64").mask(table["layer"] == MISSING_LAYER)
    for name in ("objective", "pool"):
        table[name] = table[name].astype("string").mask(table[name] == MISSING_NAME)
    return table


def headline(
    summary: pd.DataFrame, *, edge: Edge = "all", ranking: Ranking = "problem"
) -> pd.DataFrame:
    """The readings to look at first: mean over layers and heads, best head, best layer's mean head.

    Where a layer is named it is picked on the same problems that it is reported for: an upper
    bound. ``head="best_layer"`` is not.
    """
    precision = summary[
        (summary["edge"] == edge)
        & (summary["ranking"] == ranking)
        & (summary["metric"] == "average_precision")
    ]
    whole = precision[precision["layer"].isna()]
    per_layer = precision[precision["layer"].notna() & (precision["head"] == "mean")]
    keys = ["family", "method", "objective", "pool"]
    best = per_layer.loc[per_layer.groupby(keys, dropna=False)["estimate"].idxmax()]
    table = pd.concat([whole, best]).sort_values([*keys, "head", "layer"])
    return table[[*keys, "layer", "head", "estimate", "lower", "upper", "n"]]
