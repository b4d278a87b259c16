"""Accuracy, difference from the baseline, corrected and broken answers, as a table.

Results: `analyses.ablation`.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from figures.parts import table_figure, with_interval
from figures.results import read
from figures.style import PAGE, style

NAME = "ablation_table"
GROUPS = ("method", "bands")


def load(results: Path) -> pd.DataFrame:
    """Effects with the accuracy of each condition beside them."""
    effects = read(results, "ablation")
    accuracy = read(results, "ablation", "accuracy")[["condition", "estimate"]]
    joined = effects.merge(accuracy.rename(columns={"estimate": "accuracy"}), on="condition")
    return joined[joined["group"].isin(GROUPS)]


def draw(table: pd.DataFrame) -> Figure:
    """One line a condition."""
    columns: Mapping[str, str | Callable[[pd.Series], str]] = {
        "condition": "condition",
        "accuracy": lambda row: f"{row['accuracy']:.3f}",
        "difference [95%]": with_interval(),
        "corrected": lambda row: f"{row['corrected']:.0f}",
        "broken": lambda row: f"{row['broken']:.0f}",
        "p (Holm)": lambda row: f"{row['p_holm']:.2g}",
    }
    with style():
        return table_figure(
            table, title="StepFlow against the baseline", columns=columns, width=PAGE
        )


def make(results: Path) -> tuple[Figure, pd.DataFrame]:
    """The figure and the rows that it shows."""
    table = load(results)
    return draw(table), table
