"""Recovery when the activations of a step are patched in, by layer and step, both ways.

Results: `analyses.patching`, of every model that it was run on.
"""

import pandas as pd
from matplotlib.figure import Figure

from figures.parts import colour_bar, layer_grid
from figures.results import AnyResults, MissingResultsError, read_all
from figures.style import PAGE, new_figure, style

NAME = "patching"
ROLES = {
    "before": "before",
    "source": "source",
    "between_question": "later premises",
    "between_thinking": "steps between",
    "read": "read",
}
DIRECTIONS = {
    "denoising": ("clean into corrupted", (-1, 1), "recovery (0 nothing, 1 all)"),
    "noising": ("corrupted into clean", (0, 2), "recovery (1 no harm, 0 all lost)"),
}
"""What is put where, the colour scale (white: no effect), and the words beside it."""


def load(results: AnyResults) -> pd.DataFrame:
    """Patches of the residual stream, by kind of pair, direction, layer and role of the step."""
    table = read_all(results, "patching", ("smollm2",))
    rows = table[(table["site"] == "resid_post") & table["direction"].isin(DIRECTIONS)]
    rows = rows[rows["role"].isin(ROLES) & rows["layer"].notna()]
    if rows.empty:
        raise MissingResultsError("results/patching has no patches of resid_post")
    return rows


def draw(table: pd.DataFrame) -> Figure:
    """A column per model and kind of pair, a row per direction; one colour scale per row."""
    panels = list(dict.fromkeys(zip(table["setting"], table["kind"], strict=True)))
    directions = [name for name in DIRECTIONS if (table["direction"] == name).any()]
    with style():
        figure = new_figure(PAGE, 0.9 + 1.75 * len(directions))
        axes = figure.subplots(len(directions), len(panels), squeeze=False)
        for number, (row, direction) in enumerate(zip(axes, directions, strict=True)):
            words, limits, unit = DIRECTIONS[direction]
            for ax, (setting, kind) in zip(row, panels, strict=True):
                is_panel = (table["setting"] == setting) & (table["kind"] == kind)
                of_panel = table[is_panel & (table["direction"] == direction)]
                shown = [role for role in ROLES if (of_panel["role"] == role).any()]
                places = of_panel.assign(step=[shown.index(role) for role in of_panel["role"]])
                image = layer_grid(ax, places, columns="step")
                image.set_clim(*limits)
                names = [ROLES[role] for role in shown] if number == len(axes) - 1 else []
                ax.set_xticks(range(len(names)), names, rotation=40, ha="right")
                n = of_panel["n"].max()
                ax.set_xlabel("" if number < len(axes) - 1 else "step that is patched")
                if number == 0:
                    ax.set_title(f"{setting.replace(', ', chr(10))}\n{kind} ({n:,} pairs)")
                ax.set_ylabel("")
            row[0].set_ylabel(f"{words}\nlayer")
            colour_bar(image, list(row), unit)
    return figure


def make(results: AnyResults) -> tuple[Figure, pd.DataFrame]:
    """The figure and the rows that it shows."""
    table = load(results)
    return draw(table), table
