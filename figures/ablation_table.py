"""Accuracy, difference from no edit, corrected and broken answers of each half and placebo.

Results: `analyses.ablation`. The paper's ablation table has the halves alone and together, without
intervals and without placebos.
"""

import pandas as pd
from matplotlib.figure import Figure

from figures.conditions import named, placebo_note
from figures.parts import effects_figure, with_interval
from figures.results import AnyResults, read
from figures.style import style

NAME = "ablation_table"
GROUPS = ("method", "placebo")


def load(results: AnyResults) -> pd.DataFrame:
    """Accuracy of each condition with its effect beside it; the baseline first, without one."""
    accuracy = read(results, "ablation", "accuracy")
    rows = accuracy[accuracy["group"].isin(GROUPS)].drop(columns="p")
    rows = rows.rename(
        columns={name: f"accuracy_{name}" for name in ("estimate", "lower", "upper")}
    )
    effects = read(results, "ablation")
    columns = ["condition", "estimate", "lower", "upper", "corrected", "broken", "p", "p_holm"]
    return named(rows.merge(effects[columns], on="condition", how="left"))


def draw(table: pd.DataFrame) -> Figure:
    """One line a condition; placebos under a rule."""
    note = (
        f"{table['n'].max():,} problems; 95% intervals over problems. "
        "p: sign flips of problems against no edit, Holm within each block."
    )
    if doses := placebo_note(table):
        note += f"\n{doses.capitalize()}."
    with style():
        return effects_figure(
            table,
            title="Halves of StepFlow and their placebos",
            columns={
                "condition": "name",
                "accuracy [95%]": with_interval(prefix="accuracy_"),
            },
            note=note,
        )


def make(results: AnyResults) -> tuple[Figure, pd.DataFrame]:
    """The figure and the rows that it shows."""
    table = load(results)
    return draw(table), table
