"""The table of claims, from the tables of the analyses."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from analyses.claims.readings import READINGS, Place, Reading
from analyses.claims.verdict import NOT_RUN, Effect, Judgement, judge
from analyses.findings.tables import NotRunError, Results

SUFFIXES = {"reasoner": "", "smollm2": "_smollm2"}
HEAD = """# Claims

Written by `python -m analyses.claims` from the tables beside it; the rule of the verdicts is in
`analyses/claims/verdict.py`, the rows that are read in `analyses/claims/readings.py`. Estimates
have 95% intervals over problems; *left* is what the control leaves of the effect.
"""
COLUMNS = (
    "claim",
    "statement",
    "reading",
    "estimate",
    "lower",
    "upper",
    "unit",
    "control",
    "control_estimate",
    "control_lower",
    "control_upper",
    "control_matched",
    "margin",
    "verdict",
    "reason",
    "model",
    "n",
    "table",
)


def claims_table(results: Path, readings: tuple[Reading, ...] = READINGS) -> pd.DataFrame:
    """One row per reading of a claim, `COLUMNS`, in the order of the paper's claims.

    Args:
        results: Folder of results folders.
        readings: What is to be read.
    """
    rows = [claim_row(reading, Results(results, SUFFIXES[reading.model])) for reading in readings]
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    return table.astype({"n": "Int64"})


def claim_row(reading: Reading, results: Results) -> dict[str, Any]:
    """One row of the table."""
    row: dict[str, Any] = {
        name: getattr(reading, name)
        for name in ("claim", "statement", "reading", "unit", "control", "margin", "model")
    }
    effect, found = _effect(reading.effect, results)
    left, _ = _effect(reading.left, results)
    for prefix, interval in (("", effect), ("control_", left)):
        for name in ("estimate", "lower", "upper"):
            row[f"{prefix}{name}"] = None if interval is None else getattr(interval, name)
    if left is not None:
        row["control_matched"] = reading.matched
    judgement = _judged(reading, effect, left)
    if judgement.reason == NOT_RUN:
        judgement = judgement._replace(reason=str(found))
    table = "" if reading.effect is None else results.table_name(reading.effect[0])
    n = found.get("n") if isinstance(found, dict) else None
    return {**row, **judgement._asdict(), "n": n, "table": table}


def _judged(reading: Reading, effect: Effect | None, left: Effect | None) -> Judgement:
    if reading.untestable:
        return Judgement("not testable here", reading.untestable)
    signed = [None if x is None else x.signed(reading.sign) for x in (effect, left)]
    return judge(*signed, margin=reading.margin, matched=reading.matched)


def _effect(place: Place | None, results: Results) -> tuple[Effect | None, dict[str, Any] | str]:
    """An effect and its row; or nothing, and why there is none."""
    if place is None:
        return None, "no analysis has it"
    source, where = place
    name = results.table_name(source)
    try:
        row = results.row(source, **where)
    except NotRunError:
        return None, f"{name} was not run"
    except ValueError as error:
        if not str(error).startswith("0 rows"):
            raise
        return None, f"{name} was not run with {', '.join(map(str, where.values()))}"
    return Effect(*(float(row[name]) for name in ("estimate", "lower", "upper"))), row


def page(table: pd.DataFrame) -> str:
    """The whole table as a page."""
    return f"{HEAD}\n{table_lines(table)}"


def table_lines(table: pd.DataFrame) -> str:
    """The table in Markdown."""
    lines = [
        "| claim | reading | estimate | control | left | verdict | model | n |",
        "|---|---|---:|---|---:|---|---|---:|",
    ]
    lines += [
        _line({str(name): value for name, value in row.items()}) for row in table.to_dict("records")
    ]
    return "\n".join(lines) + "\n"


def measured(table: pd.DataFrame) -> pd.DataFrame:
    """Rows that have an estimate."""
    return table[table["estimate"].notna()]


def _line(row: Mapping[str, Any]) -> str:
    cells = (
        row["claim"],
        f"{row['reading']}: {row['statement']}",
        _numbers(row, "", row["unit"]),
        row["control"],
        _numbers(row, "control_", ""),
        f"**{row['verdict']}**: {row['reason']}",
        row["model"],
        "" if pd.isna(row["n"]) else str(row["n"]),
    )
    return f"| {' | '.join(cells)} |"


def _numbers(row: Mapping[str, Any], prefix: str, unit: str) -> str:
    values = [row[f"{prefix}{name}"] for name in ("estimate", "lower", "upper")]
    if any(pd.isna(value) for value in values):
        return ""
    text = "{:+.3g} [{:+.3g}, {:+.3g}]".format(*(round(value, 4) + 0.0 for value in values))
    return f"{text} {unit}".strip()
