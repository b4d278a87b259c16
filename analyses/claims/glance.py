"""All claims and models in one small table, for the first screen of a page."""

import pandas as pd

from analyses.claims.tally import one_each

BEGIN, END = "<!-- verdicts -->\n", "<!-- end of verdicts -->\n"


def at_a_glance(table: pd.DataFrame) -> str:
    """Estimates that support a claim, that refute it, and that leave it open, for each model.

    Args:
        table: From `analyses.claims.table.claims_table`.

    Returns:
        Markdown, one row a claim and one column a model: ``supported / refuted / open``. An
        estimate counts once, whatever the number of its controls; what was not run or could not be
        tested counts nowhere, a dash stands where nothing is left, and a model of which nothing was
        run has no column.
    """
    estimates = one_each(table[table["estimate"].notna()])
    models = list(dict.fromkeys(estimates["model"]))
    lines = [f"| claim | {' | '.join(models)} |", f"|---|{':---:|' * len(models)}"]
    for claim, rows in estimates.groupby("claim", sort=False):
        cells = [_cell(rows.loc[rows["model"] == model, "verdict"]) for model in models]
        if any(cell != "–" for cell in cells):
            lines.append(f"| {claim} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(verdicts: "pd.Series[str]") -> str:
    counts = [int((verdicts == name).sum()) for name in ("supported", "refuted", "not shown")]
    return " / ".join(map(str, counts)) if any(counts) else "–"
