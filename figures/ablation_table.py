"""Accuracy, difference from no edit, corrected and broken answers of each half and placebo.

Results: `analyses.ablation`. The paper's ablation table has the halves alone and together, without
intervals and without placebos.
"""

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from figures.conditions import named
from figures.parts import number, p_value, table_figure, with_interval
from figures.results import read
from figures.style import PAGE, style

NAME = "ablation_table"
GROUPS = ("method", "placebo")


def load(results: Path) -> pd.DataFrame:
    """Accuracy of each condition with its effect beside it; the baseline first, without one."""
    accuracy = read(results, "ablation", "accuracy")
    kept = accuracy[accuracy["group"].isin(GROUPS)].drop(columns="p")
    kept = kept.rename(
        columns={name: f"accuracy_{name}" for name in ("estimate", "lower", "upper")}
    )
    effects = read(results, "ablation")
    told = ["condition", "estimate", "lower", "upper", "corrected", "broken", "p", "p_holm"]
    return named(kept.merge(effects[told], on="condition", how="left"))


def draw(table: pd.DataFrame) -> Figure:
    """One line a condition; placebos under a rule."""
    groups = list(table["group"])
    note = (
        f"{table['n'].max():,} problems; 95% bootstrap intervals over problems. "
        "p: sign flips of problems against no edit, Holm within each block."
    )
    with style():
        return table_figure(
            table,
            title="Halves of StepFlow and their placebos",
            columns={
                "condition": "name",
                "accuracy [95%]": with_interval(prefix="accuracy_"),
                "− no edit [95%]": with_interval(signed=True),
                "corrected": lambda row: number(row["corrected"], 0),
                "broken": lambda row: number(row["broken"], 0),
                "p (Holm)": lambda row: p_value(row["p_holm"]),
            },
            width=PAGE,
            rules=[i for i in range(1, len(groups)) if groups[i] != groups[i - 1]],
            note=note,
        )


def make(results: Path) -> tuple[Figure, pd.DataFrame]:
    """The figure and the rows that it shows."""
    table = load(results)
    return draw(table), table
