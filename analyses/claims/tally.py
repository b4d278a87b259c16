"""One verdict for each estimate, however many controls it was held against.

The table of claims has a row for each control. Of one estimate (claim, model, statement, reading)
that is one result, read several times:

    refuted              a row says so: the effect is ruled out, or a matched control does as much
    supported            a row says so, and so do all whose control is matched and was run
    not testable here    all rows say so
    not shown            anything else
"""

from typing import Any

import pandas as pd

from analyses.claims.verdict import Verdict

ESTIMATE = ["claim", "model", "statement", "reading"]


def one_verdict(rows: pd.DataFrame) -> Verdict:
    """The verdict of one estimate.

    Args:
        rows: Its rows of `analyses.claims.table.claims_table`, one for each control.
    """
    told = rows[rows["verdict"] != "not testable here"]
    if told.empty:
        return "not testable here"
    if (told["verdict"] == "refuted").any():
        return "refuted"
    supported = told["verdict"] == "supported"
    if supported.any() and supported[has_matched_control(told)].all():
        return "supported"
    return "not shown"


def has_matched_control(rows: pd.DataFrame) -> "pd.Series[bool]":
    """Whether a row has a matched control that was run."""
    return rows["control_matched"].eq(True) & rows["control_estimate"].notna()


def one_each(table: pd.DataFrame) -> pd.DataFrame:
    """One row for each estimate.

    Args:
        table: From `analyses.claims.table.claims_table`.

    Returns:
        The columns of the table, of the row that decides (of several, the first with a matched
        control), and ``controls``: all rows whose control was run.
    """
    rows = [_decided(of_one) for _, of_one in table.groupby(ESTIMATE, sort=False)]
    return pd.DataFrame(rows, columns=[*table.columns, "controls"])


def _decided(rows: pd.DataFrame) -> dict[str, Any]:
    deciding = rows[rows["verdict"] == one_verdict(rows)]
    with_control = deciding[has_matched_control(deciding)]
    row = (deciding if with_control.empty else with_control).iloc[0]
    controls = rows[rows["control_estimate"].notna()].to_dict("records")
    return {**{str(name): value for name, value in row.items()}, "controls": controls}


def judged(estimates: pd.DataFrame) -> pd.DataFrame:
    """Those that were measured, and those that cannot be: what was not run is no result."""
    return estimates[estimates["estimate"].notna() | (estimates["verdict"] == "not testable here")]
