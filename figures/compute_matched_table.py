"""Every way of spending compute with and without StepFlow, as a table.

Results: `analyses.compute_matched`.
"""

import pandas as pd
from matplotlib.figure import Figure

from figures.parts import number, p_value, table_figure, with_interval
from figures.results import AnyResults, read
from figures.style import PAGE, style

NAME = "compute_matched_table"
KEYS = ["condition", "method", "k", "limit"]
METHODS = {"greedy": "greedy, cut after", "sample": "one sample", "vote": "vote of"}


def load(results: AnyResults) -> pd.DataFrame:
    """Differences in accuracy the same way, with tokens, flops and their differences beside."""
    table = read(results, "compute_matched", "comparisons")
    table = table[table["question"] == "same way"]
    means = read(results, "compute_matched")
    costs = read(results, "compute_matched", "costs")
    for cost in ("tokens", "flops"):
        of_cost = costs[costs["outcome"] == cost].rename(
            columns={"mean_reference": f"{cost}_none", "mean": f"{cost}_both"}
        )
        table = table.merge(of_cost[[*KEYS, f"{cost}_none", f"{cost}_both"]], on=KEYS)
    seconds = means[means["outcome"] == "cpu_seconds"]
    for name in ("baseline", "both"):
        of_condition = seconds.loc[seconds["condition"] == name, [*KEYS[1:], "estimate"]]
        table = table.merge(
            of_condition.rename(columns={"estimate": f"seconds_{name}"}), on=KEYS[1:]
        )
    return table


def draw(table: pd.DataFrame) -> Figure:
    """One line a way; pairs are none / StepFlow."""
    note = (
        f"{table['n'].max():,} problems; 95% intervals over problems; p: sign flips of "
        "problems, Holm over the rows. Pairs are none / StepFlow.\n"
        "Seconds are processor time of decoding in batches: compare them within a method."
    )
    with style():
        return table_figure(
            table,
            title="StepFlow and other ways of spending compute",
            columns={
                "way": _way,
                "accuracy": lambda row: f"{row['mean_reference']:.3f} / {row['mean']:.3f}",
                "difference [95%]": with_interval(signed=True),
                "p (Holm)": lambda row: p_value(row["p_holm"]),
                "tokens": lambda row: f"{row['tokens_none']:.0f} / {row['tokens_both']:.0f}",
                "MFLOP": lambda row: (
                    f"{row['flops_none'] / 1e6:,.0f} / {row['flops_both'] / 1e6:,.0f}"
                ),
                "CPU (ms)": lambda row: (
                    f"{number(row['seconds_baseline'] * 1e3, 0)} / "
                    f"{number(row['seconds_both'] * 1e3, 0)}"
                ),
            },
            width=PAGE,
            note=note,
        )


def _way(row: pd.Series) -> str:
    method = METHODS[row["method"]]
    if row["method"] == "greedy":
        return f"{method} {int(row['limit'])} tokens"
    return f"{method} {int(row['k'])} samples" if row["method"] == "vote" else method


def make(results: AnyResults) -> tuple[Figure, pd.DataFrame]:
    """The figure and the rows that it shows."""
    table = load(results)
    return draw(table), table
