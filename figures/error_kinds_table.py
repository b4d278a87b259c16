"""Errors of the baseline by kind, how many each half corrects, and errors of the flow as a whole.

Results: `analyses.error_kinds`. The paper tells errors of propagation from conceptual ones, by hand
on other models; the kinds here are assigned by a grader that knows the step graph.
"""

import math
from functools import partial

import pandas as pd
from matplotlib.figure import Figure

from figures.error_kinds import CONDITIONS, KINDS, SETTING
from figures.parts import number, table_figure, with_interval
from figures.results import AnyResults, read
from figures.style import PAGE, label, style

NAME = "error_kinds_table"
COLUMNS = {
    "oeb": "OEB",
    "oeb-bridge": "random keys",
    "smi": "SMI",
    "smi-boundaries": "moved",
    "both": "StepFlow",
}
FLOW = {"flow": "flow between steps", "local": "local"}


def load(results: AnyResults) -> pd.DataFrame:
    """One row a kind: rates of the baseline, and hits of errors per condition.

    The last rows join kinds: premise, order, recall and summary are errors of the flow between
    steps, arithmetic and format local ones.
    """
    rates = read(results, "error_kinds", "rates")
    base = rates[(rates["condition"] == "baseline") & rates["state"].isin(KINDS)]
    keys = [*SETTING, "state"]
    per_step = base.loc[base["per"] == "step", [*keys, "estimate"]]
    table = base[base["per"] == "answer"].merge(
        per_step.rename(columns={"estimate": "per_step"}), on=keys
    )
    fates = read(results, "error_kinds")
    for condition in COLUMNS:
        for rate in ("corrected", "caused"):
            fate = fates[(fates["condition"] == condition) & (fates["rate"] == rate)]
            names = {"n_hits": f"{rate} {condition}", "n_answers": f"of {rate} {condition}"}
            table = table.merge(fate[[*keys, *names]].rename(columns=names), on=keys, how="left")
        if (fates["condition"] == condition).any():
            table = table.fillna({f"of corrected {condition}": 0, f"corrected {condition}": 0})
    return pd.concat([table, _flow(results)], ignore_index=True)


def _flow(results: AnyResults) -> pd.DataFrame:
    """Errors of the flow and local ones, with the counts of each condition."""
    flow = read(results, "error_kinds", "flow")
    flow = flow[flow["condition"].isin(CONDITIONS)]
    rows = []
    for names, frame in flow.groupby(SETTING, dropna=False, sort=False):
        for part, name in FLOW.items():
            row = dict(zip(SETTING, names, strict=True)) | {"state": name}
            for _, edit in frame.iterrows():
                condition, total = edit["condition"], edit[f"n_{part}"]
                row[f"corrected {condition}"] = round(edit[part] * total)
                row[f"of corrected {condition}"] = total
            rows.append(row)
    return pd.DataFrame(rows)


def draw(table: pd.DataFrame) -> Figure:
    """One line a kind and setting; hits are corrected / caused answers."""
    states = list(table["state"])
    note = (
        f"{table['n'].max():,.0f} problems; 95% intervals over problems. "
        "Pairs: errors of the kind corrected / right answers that get such an error.\n"
        "Flow between steps: premise, order, recall, summary. "
        "Random keys, moved: placebos of OEB and SMI, dose not matched."
    )
    columns = {
        "first error": lambda row: label(row["state"]),
        "share of answers [95%]": with_interval(),
        "per step": lambda row: number(row["per_step"], 4),
        "errors": lambda row: number(row["of corrected both"], 0),
    }
    columns |= {
        title: partial(_pair, name)
        for name, title in COLUMNS.items()
        if f"corrected {name}" in table
    }
    with style():
        return table_figure(
            table,
            title="First errors by kind, and what becomes of them",
            columns=columns,
            width=PAGE,
            rules=[i for i, state in enumerate(states) if i and state == FLOW["flow"]],
            note=note,
        )


def _pair(condition: str, row: pd.Series) -> str:
    corrected, caused = (
        row.get(f"{rate} {condition}", math.nan) for rate in ("corrected", "caused")
    )
    return f"{number(corrected, 0)} / {number(caused, 0)}"


def make(results: AnyResults) -> tuple[Figure, pd.DataFrame]:
    """The figure and the rows that it shows."""
    table = load(results)
    return draw(table), table
