"""What edits did to texts: KL of the bridge, norm of momentum, and a placebo's beside them.

When it misleads: a dose is a mean over the rows that were edited, on these texts; on others it
differs. It does not say how many rows those are: a placebo in other layers can have the dose and
move a third of the rows less (``moved_ratio``).
"""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from analyses.material.answers import AnswerSettings
from analyses.material.conditions import Condition
from analyses.material.flows import flow_layers, model_flow
from analyses.material.problems import Item, solution_traces
from step_saliency.intervene.matching import effects_on

ATTRIBUTES = ("group", "edit", "bands", "tau_max", "alpha", "placebo", "lot")
"""Columns that say what a condition is."""


def doses(
    model: Any, items: Sequence[Item], some: Sequence[Condition], settings: AnswerSettings
) -> pd.DataFrame:
    """What edits did to solutions, one row per condition and half (``half, n_traces``).

    Solutions are gold, or the model's own (`solution_traces`); none are written where there is no
    edit.
    """
    flows = [(condition, model_flow(model, condition, settings)) for condition in some]
    edits = [(condition, flow) for condition, flow in flows if flow is not None]
    if not edits:
        return pd.DataFrame()
    traces = solution_traces(model, items, settings)
    tables = []
    for condition, flow in edits:
        frame = effects_on(model, flow, traces).doses().rename(columns={"edit": "half"})
        about = {"n_traces": len(traces), **condition.columns(), **flow_layers(flow)}
        tables.append(frame.assign(**about))
    return pd.concat(tables, ignore_index=True)


def dose_table(values: pd.DataFrame) -> pd.DataFrame:
    """Mean doses over all chunks: one row per condition and half.

    ``dose_ratio`` is the dose of a placebo (KL of a bridge, norm of momentum) over that of what it
    stands for, ``moved_ratio`` the same of the rows that were shifted, or of the injections.
    """
    over = {"kl": "rows_shifted", "total_variation": "rows_shifted", "injected_norm": "injections"}
    counts = ["n_traces", "rows_seen", "rows_shifted", "infeasible", "injections"]
    sums = values.astype(dict.fromkeys((*counts, *over), float))
    for dose, count in over.items():
        sums[dose] *= sums[count]
    keys = ["condition", "half", *(name for name in (*ATTRIBUTES, "match") if name in values)]
    table = sums.groupby(keys, sort=False, dropna=False)[[*counts, *over]].sum().reset_index()
    for dose, count in over.items():
        table[dose] /= table[count].where(table[count] > 0)
    is_bridge = table["half"].str.contains("Bridge")
    doses = table["kl"].where(is_bridge, table["injected_norm"])
    moved = table["rows_shifted"].where(is_bridge, table["injections"])
    return table.assign(dose_ratio=_over_own(doses, table), moved_ratio=_over_own(moved, table))


def _over_own(values: pd.Series, table: pd.DataFrame) -> pd.Series:
    """Value of each placebo over that of what it stands for; missing for the real thing."""
    real = table["placebo"].isna() & (table["group"] == "method")
    keys = pd.MultiIndex.from_frame(table[["edit", "half"]])
    own = values[real].set_axis(keys[real])
    return (values / own.reindex(keys).to_numpy()).where(table["placebo"].notna())
