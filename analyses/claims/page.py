"""The table of claims as a page, and what the README quotes of it."""

from collections.abc import Mapping
from typing import Any, get_args

import pandas as pd

from analyses.claims import glance
from analyses.claims.tally import has_matched_control, judged, one_each
from analyses.claims.verdict import Verdict

HEAD = """# Claims

Written by `python -m analyses.claims` from the tables beside it; the rule of the verdicts is in
`analyses/claims/verdict.py`, the rows that are read in `analyses/claims/readings.py`. Estimates
have 95% intervals over problems; *left* is what the control leaves of the effect, *dose* the dose
of the control over that of the edit, on traces that took no part in matching, where it was
measured.
"""
BEGIN, END = "<!-- claims -->\n", "<!-- end of claims -->\n"


def page(table: pd.DataFrame) -> str:
    """The whole table as a page."""
    return f"{HEAD}\n{table_lines(table)}"


def table_lines(table: pd.DataFrame) -> str:
    """The table in Markdown."""
    lines = [
        "| claim | reading | estimate | control | left | dose | verdict | model | n |",
        "|---|---|---:|---|---:|---:|---|---|---:|",
    ]
    lines += [
        _line({str(name): value for name, value in row.items()}) for row in table.to_dict("records")
    ]
    return "\n".join(lines) + "\n"


def quoted(table: pd.DataFrame) -> str:
    """What the README quotes: one row for each claim and model, and what its other readings say.

    The reading is the first that was tested and has a matched control, else the first that was
    tested, else the first that is not testable here. An estimate counts once, with all of its
    controls beside it.
    """
    lines = [
        "| claim | model | one reading | estimate | under its controls | verdict | all readings |",
        "|---|---|---|---:|---|---|---|",
    ]
    for _, rows in judged(one_each(table)).groupby(["claim", "model"], sort=False):
        tested = rows["verdict"] != "not testable here"
        for some in (tested & has_matched_control(rows), tested, ~tested):
            if some.any():
                row = {str(name): value for name, value in rows[some].iloc[0].items()}
                lines.append(_quoted_line(row, rows["verdict"]))
                break
    return "\n".join(lines) + "\n"


def _quoted_line(row: Mapping[str, Any], verdicts: "pd.Series[str]") -> str:
    counts = {verdict: int((verdicts == verdict).sum()) for verdict in get_args(Verdict)}
    controls = [f"{one['control']} {_numbers(one, 'control_', '')}" for one in row["controls"]]
    cells = (
        row["claim"],
        row["model"],
        f"{row['reading']}: {row['statement']}",
        _numbers(row, "", row["unit"]),
        "; ".join(controls),
        f"**{row['verdict']}**",
        ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count),
    )
    return f"| {' | '.join(cells)} |"


def with_quote(page_text: str, table: pd.DataFrame) -> str:
    """A page with the quote between its marks renewed, and its table at a glance if it has one.

    Raises:
        ValueError: the page has no marks.
    """
    if glance.BEGIN in page_text:
        marks = glance.BEGIN, glance.END
        page_text = _between(page_text, *marks, glance.at_a_glance(table))
    return _between(page_text, BEGIN, END, quoted(table))


def _between(page_text: str, first: str, last: str, text: str) -> str:
    before, begin, rest = page_text.partition(first)
    _, end, after = rest.partition(last)
    if not (begin and end):
        raise ValueError(f"the page has no lines {first.strip()!r} and {last.strip()!r}")
    return f"{before}{begin}{text}{end}{after}"


def _line(row: Mapping[str, Any]) -> str:
    cells = (
        row["claim"],
        f"{row['reading']}: {row['statement']}",
        _numbers(row, "", row["unit"]),
        row["control"],
        _numbers(row, "control_", ""),
        "" if pd.isna(row["dose_ratio"]) else f"{row['dose_ratio']:.3f}",
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
