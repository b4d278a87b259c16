"""All claims and models in one small table, for the first screen of a page."""

import pandas as pd

BEGIN, END = "<!-- verdicts -->\n", "<!-- end of verdicts -->\n"


def at_a_glance(table: pd.DataFrame) -> str:
    """Readings that support a claim, that refute it, and that leave it open, for each model.

    Args:
        table: From `analyses.claims.table.claims_table`.

    Returns:
        Markdown, one row a claim and one column a model: ``supported / refuted / open``. Readings
        that could not be tested count nowhere; a dash stands where nothing is left.
    """
    models = list(dict.fromkeys(table["model"]))
    lines = [f"| claim | {' | '.join(models)} |", f"|---|{':---:|' * len(models)}"]
    for claim, rows in table.groupby("claim", sort=False):
        cells = [_cell(rows.loc[rows["model"] == model, "verdict"]) for model in models]
        if any(cell != "–" for cell in cells):
            lines.append(f"| {claim} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(verdicts: "pd.Series[str]") -> str:
    counts = [int((verdicts == name).sum()) for name in ("supported", "refuted", "not shown")]
    return " / ".join(map(str, counts)) if any(counts) else "–"
