"""What interventions do to their mediators and to outcomes, teacher-forced.

Results: `analyses.mediation`, part ``forced``. The paper states the path and does not measure it.
"""

import pandas as pd
from matplotlib.figure import Figure

from figures.parts import RANDOM_KEYS, dots, note_below
from figures.results import AnyResults, read
from figures.style import PAGE, new_figure, style

NAME = "mediation_paths"
CONDITIONS = {
    "oeb": "OEB, τ 0.15",
    "oeb-strong": "OEB, τ 0.3",
    "oeb-strong-thinking": "OEB, τ 0.3, thinking only",
    "oeb-strong-summary": "OEB, τ 0.3, summary only",
    "oeb-strong-diverted": "OEB, τ 0.3, gain diverted",
    "oeb-strong-random": "OEB, τ 0.3, random keys",
    "smi": "SMI, α 0.06",
    "smi-strong": "SMI, α 0.5",
    "smi-strong-direction": "SMI, α 0.5, random directions",
    "cut": "summary cut from thinking",
    "smi-strong-cut": "SMI, α 0.5, summary cut",
}
PANELS = {
    "bridge_mass": ("Mass on the bridge, shallow", "share − no edit"),
    "step_mass": ("Mass on own step, shallow", "share − no edit"),
    "summary_mass": ("Summary → thinking", "share − no edit"),
    "loss": ("Loss, gold solution", "mnat/token − no edit"),
    "answer_loss": ("Loss, gold summary", "mnat/token − no edit"),
    "margin": ("Margin at the error", "nats − no edit"),
}
IN_MILLINATS = ("loss", "answer_loss")


def load(results: AnyResults) -> pd.DataFrame:
    """Changes of mediators and outcomes from no edit."""
    table = read(results, "mediation", "paths")
    table = table[table["condition"].isin(CONDITIONS) & table["variable"].isin(PANELS)]
    return table.assign(name=table["condition"].map(CONDITIONS))


def draw(table: pd.DataFrame) -> Figure:
    """Mediators above, outcomes below; the line is no change."""
    order = [name for name in CONDITIONS.values() if (table["name"] == name).any()]
    with style():
        figure = new_figure(PAGE, 1.3 + 0.32 * len(order))
        axes = figure.subplots(2, 3, sharey=True)
        for ax, (variable, (title, unit)) in zip(axes.flat, PANELS.items(), strict=True):
            of_variable = in_unit(table[table["variable"] == variable], variable)
            dots(ax, of_variable, names="name", order=order, reference=0.0)
            n = 0 if of_variable.empty else of_variable["n"].max()
            ax.set_title(title)
            ax.set_xlabel(f"{unit} (n = {n:,})")
        note_below(figure, RANDOM_KEYS)
    return figure


def in_unit(table: pd.DataFrame, variable: str) -> pd.DataFrame:
    """Losses in millinats, the rest as it is."""
    if variable not in IN_MILLINATS:
        return table
    ends = ["estimate", "lower", "upper"]
    return table.assign(**{name: 1000 * table[name] for name in ends})


def make(results: AnyResults) -> tuple[Figure, pd.DataFrame]:
    """The figure and the rows that it shows."""
    table = load(results)
    return draw(table), table
