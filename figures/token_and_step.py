"""Token map beside step map, of a correct and an error trace of one problem.

The paper's Figure 1. Results: `analyses.example_traces`.
"""

import pandas as pd
from matplotlib.figure import Figure

from figures.parts import colour_bar, log_norm, step_grid
from figures.results import AnyResults, read
from figures.style import PAGE, new_figure, style
from step_saliency.plotting.regions import region_legend

NAME = "token_and_step"


def load(results: AnyResults) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Steps, token maps and step maps, averaged over layers."""
    steps, tokens, maps = (
        read(results, "example_traces", name) for name in ("steps", "token_maps", "step_maps")
    )
    return steps, tokens, maps[maps["layer"].isna()]


def draw(steps: pd.DataFrame, tokens: pd.DataFrame, maps: pd.DataFrame) -> Figure:
    """Two rows (correct, error) of two maps, each column on one colour scale."""
    with style():
        figure = new_figure(PAGE, 5.6, compress=True)
        axes = figure.subplots(2, 2)
        for column, (table, unit) in enumerate(((tokens, "position"), (maps, "step"))):
            norm = log_norm(table["saliency"])
            for row, correct in enumerate((True, False)):
                ax = axes[row, column]
                of_trace = steps[steps["is_correct"] == correct]
                regions = _regions(of_trace, unit)
                image = step_grid(ax, table[table["is_correct"] == correct], regions, norm)
                name = "Correct" if correct else "Error"
                ax.set_title(f"{name}: {'tokens' if unit == 'position' else 'steps'}")
                ax.set(xlabel=f"key {unit}", ylabel=f"query {unit}")
            colour_bar(image, axes[:, column], f"saliency between {unit}s ({_unit(steps)})")
        region_legend(figure, set(steps["region"]), loc="outside lower center", ncols=4)
    return figure


def _regions(steps: pd.DataFrame, unit: str) -> list[str]:
    if unit == "step":
        return list(steps["region"])
    lengths = steps["stop"] - steps["start"]
    return [r for r, n in zip(steps["region"], lengths, strict=True) for _ in range(n)]


def _unit(steps: pd.DataFrame) -> str:
    return "nats of log-odds" if (steps["objective"] == "log_odds").all() else "nats"


def make(results: AnyResults) -> tuple[Figure, pd.DataFrame]:
    """The figure and the rows that it shows."""
    steps, tokens, maps = load(results)
    return draw(steps, tokens, maps), maps.drop(columns="layer")
