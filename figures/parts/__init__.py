"""Parts that figures are made of: dots with intervals, curves with bands, maps, arcs, tables.

Every part draws into axes that it is given, from a table with the columns it names; lines, maps and
arcs themselves are drawn by `step_saliency.plotting`. Where a table has ``estimate, lower, upper``,
the interval is drawn as it stands; where they are missing, none is. No statistic is computed here.
"""

from figures.parts.curves import curve, shade_bands
from figures.parts.dots import dots
from figures.parts.grids import layer_grid, mark_cells
from figures.parts.legends import INTERVALS, RANDOM_KEYS, colour_bar, legend_below, note_below
from figures.parts.maps import arcs, log_norm, step_grid
from figures.parts.numbers import counted, number, p_value, with_interval
from figures.parts.panels import panels
from figures.parts.tables import effects_figure, table_figure

__all__ = [
    "INTERVALS",
    "RANDOM_KEYS",
    "arcs",
    "colour_bar",
    "counted",
    "curve",
    "dots",
    "effects_figure",
    "layer_grid",
    "legend_below",
    "log_norm",
    "mark_cells",
    "note_below",
    "number",
    "p_value",
    "panels",
    "shade_bands",
    "step_grid",
    "table_figure",
    "with_interval",
]
