"""How well maps rank true premises: the README's table, from ``results/gold_graph``."""

from pathlib import Path

import pandas as pd

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
READINGS = {
    "mean": "mean over layers and heads",
    "best_layer": "best layer, mean over heads",
    "best": "best head",
}
MAPS = (
    ("saliency", "log_odds", "Step-Saliency, `log_odds`"),
    ("attention", "", "attention"),
    ("gradient", "log_odds", "gradient alone, `log_odds`"),
    ("rollout", "", "attention rollout"),
    ("saliency", "next_token", "Step-Saliency, `next_token`"),
    ("saliency", "sequence", "Step-Saliency, `sequence`"),
    ("distance", "", "distance"),
    ("random", "", "random (chance)"),
)
"""Method, objective where it has one, and what the row is called."""


def chosen(results: Path) -> pd.DataFrame:
    """Average precision of premise edges, problems in symbols, pooled by mass where pooled."""
    table = pd.read_parquet(results / "gold_graph" / "summary.parquet")
    is_asked = (
        (table["edge"] == "premise")
        & (table["ranking"] == "problem")
        & (table["metric"] == "average_precision")
        & (table["family"] == "symbols")
        & table["layer"].isna()
        & table["head"].isin(READINGS)
        & (table["pool"].isna() | (table["pool"] == "mass"))
    )
    return table[is_asked].fillna({"objective": ""})


def table_text(results: Path = ROOT / "results") -> str:
    """One row a map, one column a reading."""
    rows = chosen(results)
    lines = [["map", *READINGS.values()], ["---"] * (1 + len(READINGS))]
    for method, objective, name in MAPS:
        of_map = rows[(rows["method"] == method) & (rows["objective"] == objective)]
        lines.append([name, *(_cell(of_map[of_map["head"] == head]) for head in READINGS)])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(rows: pd.DataFrame) -> str:
    """Estimate with its interval; a dash where a map has no such reading."""
    if rows.empty:
        return "-"
    (row,) = rows.to_dict("records")
    return "{estimate:.3f} [{lower:.3f}, {upper:.3f}]".format_map(row)


def parts() -> dict[tuple[Path, str], str]:
    """What is written into pages, by page and name of the mark."""
    return {(README, "maps"): table_text()}
