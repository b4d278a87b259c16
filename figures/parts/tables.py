"""Tables as figures."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.parts.numbers import number, p_value, with_interval
from figures.style import BORDER_COLOUR, COLUMN, NEUTRAL, PAGE, new_figure

Columns = Mapping[str, str | Callable[[pd.Series], str]]

_EFFECTS: Columns = {
    "− no edit [95%]": with_interval(signed=True),
    "corrected": lambda row: number(row["corrected"], 0),
    "broken": lambda row: number(row["broken"], 0),
    "p (Holm)": lambda row: p_value(row["p_holm"]),
}


def table_figure(
    table: pd.DataFrame,
    *,
    title: str,
    columns: Columns,
    width: float = COLUMN,
    rules: Sequence[int] = (),
    note: str = "",
) -> Figure:
    """A table as a figure: one line a row, rules above, below the head and at the end.

    Args:
        table: Rows.
        title: Heading.
        columns: Text of each column, by heading: a column's name, or a function of the row. The
            first is set left, the others right.
        width: In inches.
        rules: Rows before which a thin rule stands.
        note: Written under the table.
    """
    lines = [list(columns), *_cells(table, columns)]
    widths = np.array([max(len(line[i]) for line in lines) + 1.5 for i in range(len(columns))])
    n_notes = note.count("\n") + 1 if note else 0
    figure = new_figure(width, 0.16 * (len(lines) + 2.2 + n_notes))
    ax = figure.subplots()
    ax.set(xlim=(0, 1), ylim=(len(lines) + 0.2 + n_notes, -0.2), title=title)
    ax.set_axis_off()
    _write_lines(ax, lines, widths, size=min(7.0, 7.0 * width * 17.5 / max(widths.sum(), 1)))
    heavy = {0: 0.9, 1: 0.5, len(lines): 0.9}
    for y, thickness in ({row + 1: 0.3 for row in rules} | heavy).items():
        ax.axhline(y, color=BORDER_COLOUR, linewidth=thickness)
    if note:
        text = ax.text(0, len(lines) + 0.3, note, va="top", fontsize=6.5, color=NEUTRAL)
        text.set_in_layout(False)
    return figure


def effects_figure(table: pd.DataFrame, *, title: str, columns: Columns, note: str) -> Figure:
    """A table of what edits did to the answers, beside the same problems without an edit.

    Args:
        table: Columns ``estimate, lower, upper, corrected, broken, p_holm`` and ``group``, before
            whose changes a rule stands.
        title: Heading.
        columns: What stands before the effects, as for `table_figure`.
        note: Written under the table.
    """
    groups = list(table["group"])
    rules = [i for i in range(1, len(groups)) if groups[i] != groups[i - 1]]
    columns = {**columns, **_EFFECTS}
    return table_figure(table, title=title, columns=columns, width=PAGE, rules=rules, note=note)


def _cells(table: pd.DataFrame, columns: Columns) -> list[list[str]]:
    return [
        [str(row[cell]) if isinstance(cell, str) else cell(row) for cell in columns.values()]
        for _, row in table.iterrows()
    ]


def _write_lines(
    ax: Axes, lines: Sequence[Sequence[str]], widths: Float[np.ndarray, "column"], *, size: float
) -> None:
    ends = np.cumsum(widths) / widths.sum()
    for y, line in enumerate(lines):
        for column, (end, text) in enumerate(zip(ends, line, strict=True)):
            ax.text(
                0 if column == 0 else end,
                y + 0.5,
                text,
                va="center",
                ha="left" if column == 0 else "right",
                fontsize=size,
                fontweight="bold" if y == 0 else "normal",
            )
