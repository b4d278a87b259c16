"""Which kinds of first error are corrected, which are caused, and what remains.

Results: `analyses.error_kinds`. Read ``corrected`` beside the placebos': some errors go away
under any change.
"""

import pandas as pd
from matplotlib.figure import Figure

from figures.parts import INTERVALS, dots, legend_below
from figures.results import AnyResults, read
from figures.style import PAGE, label, new_figure, style

NAME = "error_kinds"
CONDITIONS = ("oeb", "smi", "both", "oeb-bridge", "smi-boundaries")
KINDS = ("premise", "order", "recall", "arithmetic", "summary", "format")
ROWS = (*KINDS, "any", "correct")
SETTING = ["source", "level", "family", "temperature"]
PANELS = {
    "corrected": ("Corrected", "share of errors of the kind"),
    "caused": ("Caused", "share of right answers"),
    "change": ("Net change", "share of all answers − no edit"),
}


def load(results: AnyResults) -> pd.DataFrame:
    """Rates and changes of each kind; ``setting`` says which run they are of."""
    changes = read(results, "error_kinds", "changes").assign(rate="change")
    table = pd.concat([read(results, "error_kinds"), changes], ignore_index=True)
    table = table[table["condition"].isin(CONDITIONS) & table["state"].isin(ROWS)]
    settings = [
        f"{row['level']}, {row['family']}, temperature {row['temperature']:g} ({row['source']})"
        for _, row in table[SETTING].iterrows()
    ]
    return table.assign(setting=settings, rate=table["rate"].astype(str))


def draw(table: pd.DataFrame) -> Figure:
    """A row of panels per setting; kinds down, conditions by colour and marker."""
    settings = list(dict.fromkeys(table["setting"]))
    hues = [name for name in CONDITIONS if (table["condition"] == name).any()]
    with style():
        figure = new_figure(PAGE, 0.6 + 3.1 * len(settings))
        axes = figure.subplots(len(settings), len(PANELS), squeeze=False, sharey="row")
        for row, setting in zip(axes, settings, strict=True):
            of_setting = table[table["setting"] == setting]
            order = [kind for kind in ROWS if _occurs(of_setting, kind)]
            for ax, (rate, (title, xlabel)) in zip(row, PANELS.items(), strict=True):
                of_rate = of_setting[of_setting["rate"] == rate]
                dots(
                    ax,
                    of_rate,
                    names="state",
                    hue="condition",
                    order=order,
                    hues=hues,
                    reference=0.0,
                    xlabel=xlabel,
                )
                ax.set_title(title)
            row[0].set_yticks(range(len(order)), [_counted(of_setting, kind) for kind in order])
            if len(settings) > 1:
                row[0].set_title(f"{title}\n{setting}")
        note = f"random keys, moved boundaries: placebos, dose not matched; {INTERVALS}"
        legend_below(figure, axes[0], ncols=len(hues), note=note)
    return figure


def _occurs(table: pd.DataFrame, kind: str) -> bool:
    """Whether anything happened to errors of a kind."""
    of_kind = table[table["state"] == kind]
    return bool((of_kind["n_answers"][of_kind["rate"] == "corrected"] > 0).any()) or bool(
        (of_kind["estimate"] != 0).any()
    )


def _counted(table: pd.DataFrame, kind: str) -> str:
    """A kind with the number of the baseline's errors of it."""
    if kind == "correct":
        return "right answers"
    of_kind = table[(table["state"] == kind) & (table["rate"] == "corrected")]
    count = 0 if of_kind.empty else int(of_kind["n_answers"].max())
    return f"{'any error' if kind == 'any' else label(kind)} ({count:,})"


def make(results: AnyResults) -> tuple[Figure, pd.DataFrame]:
    """The figure and the rows that it shows."""
    table = load(results)
    return draw(table), table
