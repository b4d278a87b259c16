"""Table of the two indices: this trace, groups of its run, error minus correct."""

from typing import Any

import pandas as pd

from step_saliency.diagnosis.diagnosis import Diagnosis
from step_saliency.report.numbers import decimal

_INDICES = {"lock_in_index": "lock-in index", "decay_index": "decay index"}


def index_table(
    diagnosis: Diagnosis, curves: pd.DataFrame | None, comparison: pd.DataFrame | None
) -> dict[str, Any]:
    """Table of the two indices: this trace, groups of the run, error minus correct."""
    own = {"lock_in_index": diagnosis.lock_in_index, "decay_index": diagnosis.decay_index}
    columns = ["this trace"]
    rows = {name: [decimal(own[name])] for name in _INDICES}
    for heading, table in _index_columns(curves, comparison):
        columns.append(heading)
        for name in _INDICES:
            of_index = table[table["metric"] == name]
            rows[name].append("–" if of_index.empty else _with_interval(of_index.iloc[0]))
    return {
        "columns": columns,
        "rows": [{"name": _INDICES[name], "cells": cells} for name, cells in rows.items()],
    }


def _index_columns(
    curves: pd.DataFrame | None, comparison: pd.DataFrame | None
) -> list[tuple[str, pd.DataFrame]]:
    columns = []
    if curves is not None:
        for group, rows in curves.groupby("group", sort=False):
            columns.append((f"{group_name(str(group))}, mean", rows))
    if comparison is not None:
        plain = comparison[comparison["control"] == "none"]
        columns.append(("error − correct, same problem", plain))
    return columns


def _with_interval(row: pd.Series) -> str:
    """``0.512 [0.498, 0.530], n = 24`` (problems)."""
    ends = [row["lower"], row["upper"]]
    interval = "" if pd.isna(ends).any() else f" [{decimal(ends[0])}, {decimal(ends[1])}]"
    text = f"{decimal(row['estimate'])}{interval}, n = {int(row['n'])}"
    p_value = row.get("p_value")
    return text if p_value is None or pd.isna(p_value) else f"{text}, p = {p_value:.2g}"


def group_name(group: str) -> str:
    """Traces of a group, in words."""
    return "all traces" if group == "all" else f"{group} traces"
