"""StepFlow in other layers than the outer quarters, and each half in one window, as a table.

Results: `analyses.ablation`. The paper uses the outer quarters for every model and compares no
others.
"""

import pandas as pd
from matplotlib.figure import Figure

from figures.conditions import band_name, layer_range, named
from figures.parts import effects_figure, number
from figures.results import AnyResults, MissingResultsError, read
from figures.style import label, style

NAME = "layer_bands_table"
GROUPS = ("bands", "sliding")


def load(results: AnyResults) -> pd.DataFrame:
    """Effects of StepFlow by layers, the outer quarters first."""
    table = read(results, "ablation")
    quarters = table[table["condition"] == "both"]
    parts = [quarters.assign(group="bands"), *(table[table["group"] == name] for name in GROUPS)]
    joined = pd.concat(parts, ignore_index=True)
    if len(joined) == len(quarters):
        raise MissingResultsError("results/ablation has no other layers than the outer quarters")
    return named(joined).assign(layers=lambda rows: [band_name(row) for _, row in rows.iterrows()])


def draw(table: pd.DataFrame) -> Figure:
    """One line a condition; windows under a rule."""
    note = (
        f"{table['n'].max():,} problems; accuracy without an edit "
        f"{number(table['mean_reference'].iloc[0])}; 95% intervals over problems.\n"
        "p: sign flips of problems against no edit; Holm within the group that a condition was run "
        "in (quarters: the parts).\nOther layers: at random, dose not matched."
    )
    with style():
        return effects_figure(
            table,
            title="StepFlow in other layers",
            columns={
                "layers": "layers",
                "edit": lambda row: label(row["edit"]),
                "OEB in": lambda row: layer_range(row["oeb_layers"]),
                "SMI in": lambda row: layer_range(row["smi_layers"]),
                "accuracy": lambda row: number(row["mean"]),
            },
            note=note,
        )


def make(results: AnyResults) -> tuple[Figure, pd.DataFrame]:
    """The figure and the rows that it shows."""
    table = load(results)
    return draw(table), table
