"""Does a map predict what happens when an edge is cut?

Results: `analyses.faithfulness`, of every model that it was run on.
"""

import pandas as pd
from matplotlib.figure import Figure

from figures.parts import panels
from figures.results import AnyResults, read_all
from figures.style import COLUMN, PAGE, label, new_figure, style

NAME = "faithfulness"
MEASURE = "rho_kl"
POOLS = ("mean", "mass", "block_mean", "sum", "not pooled")


def load(results: AnyResults) -> pd.DataFrame:
    """Rank correlation with the effect of cutting an edge in all layers."""
    table = read_all(results, "faithfulness", ("smollm2", "qwen"))
    rows = table[(table["scope"] == "all") & (table["measure"] == MEASURE)]
    return rows.assign(
        map=[map_name(row) for _, row in rows.iterrows()],
        pooling=rows["pool"].astype("object").fillna("not pooled"),
    )


def map_name(row: pd.Series) -> str:
    """Method and objective of a map."""
    method = label(row["method"])
    return method if pd.isna(row["objective"]) else f"{method}, {label(row['objective'])}"


def draw(table: pd.DataFrame) -> Figure:
    """A panel per model, one row a map, best of the first model first; colours are poolings.

    Three panels have no room to say what the maps are correlated with: the KL of a cut.
    """
    settings = list(dict.fromkeys(table["setting"]))
    best = table.sort_values("estimate", ascending=False, kind="stable")
    first = best[best["setting"] == settings[0]]
    order = list(dict.fromkeys([*first["map"], *best["map"]]))
    hues = [pool for pool in POOLS if (table["pooling"] == pool).any()]
    with style():
        size = (COLUMN if len(settings) == 1 else PAGE, 0.9 + 0.27 * len(order))
        figure = new_figure(*size)
        axes = panels(
            figure,
            table,
            {setting: setting.replace(", ", ",\n") for setting in settings},
            by="setting",
            names="map",
            hue="pooling",
            order=order,
            hues=hues,
            xlabel="rank correlation" + (" with the KL of a cut" if len(settings) < 3 else ""),
            ncols=3 if len(settings) == 1 else 5,
            sharex=True,
        )
        axes[0].set_xlabel(axes[0].get_xlabel(), loc="right" if len(settings) == 1 else "center")
    return figure


def make(results: AnyResults) -> tuple[Figure, pd.DataFrame]:
    """The figure and the rows that it shows."""
    table = load(results)
    return draw(table), table
