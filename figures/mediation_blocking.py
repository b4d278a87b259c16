"""What is left of an effect when its path is blocked, and whether mediator and outcome move alike.

Results: `analyses.mediation`, part ``forced``.
"""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.mediation_paths import CONDITIONS, PANELS, in_unit
from figures.parts import RANDOM_KEYS, dots, legend_below
from figures.results import AnyResults, read
from figures.style import PAGE, new_figure, style

NAME = "mediation_blocking"
OUTCOMES = ("loss", "answer_loss", "margin")
MEDIATORS = {
    "bridge_mass": "mass on the bridge",
    "step_mass": "mass on the own step",
    "summary_mass": "mass of the summary on the thinking",
}
BLOCKS = {
    "bridge total": "OEB: total",
    "bridge with its gain diverted": "OEB: gain diverted",
    "bridge through the bridge": "OEB: through the bridge",
    "bridge against random keys": "OEB: − random keys",
    "momentum total": "SMI: total",
    "momentum with the summary cut": "SMI: summary cut",
    "momentum through the summary": "SMI: through the summary",
    "momentum against random directions": "SMI: − random directions",
}
CORRELATED = ("oeb", "oeb-strong", "oeb-strong-diverted", "oeb-strong-random", "smi", "smi-strong")


def load(results: AnyResults) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Contrasts; rank correlations over problems of a mediator's change with an outcome's."""
    blocks = read(results, "mediation")
    blocks = blocks.assign(name=blocks["contrast"].map(BLOCKS))
    correlations = read(results, "mediation", "correlations")
    correlations = correlations[correlations["condition"].isin(CORRELATED)]
    return blocks, correlations.assign(
        name=correlations["condition"].map(CONDITIONS),
        moved=correlations["mediator"].map(MEDIATORS),
    )


def draw(blocks: pd.DataFrame, correlations: pd.DataFrame) -> Figure:
    """Contrasts above, correlations below; a column per outcome."""
    order = [name for name in BLOCKS.values() if (blocks["name"] == name).any()]
    below = [c for c in CORRELATED if (correlations["condition"] == c).any()]
    names = [CONDITIONS[condition] for condition in below]
    with style():
        figure = new_figure(PAGE, 1.6 + 0.18 * len(order) + 0.26 * len(names))
        axes = figure.subplots(
            2, 3, sharey="row", height_ratios=(2 + len(order), 2 + 1.5 * len(names))
        )
        for column, outcome in enumerate(OUTCOMES):
            of_outcome = in_unit(blocks[blocks["outcome"] == outcome], outcome)
            dots(axes[0, column], of_outcome, names="name", order=order, reference=0.0)
            title, unit = PANELS[outcome]
            _titled(axes[0, column], title, unit.partition(" −")[0], of_outcome)
            of_outcome = correlations[correlations["outcome"] == outcome]
            dots(
                axes[1, column],
                of_outcome,
                names="name",
                hue="moved",
                order=names,
                hues=list(MEDIATORS.values()),
                reference=0.0,
            )
            _titled(
                axes[1, column],
                f"With {title.lower()}".replace(" the ", " "),
                "rank correlation",
                of_outcome,
            )
            axes[1, column].set_xlim(-1.02, 1.02)
        legend_below(figure, axes[1], ncols=3, note=RANDOM_KEYS)
    return figure


def _titled(ax: Axes, title: str, unit: str, table: pd.DataFrame) -> None:
    n = 0 if table.empty else table["n"].max()
    ax.set_title(title)
    ax.set_xlabel(f"{unit} (n = {n:,})")


def make(results: AnyResults) -> tuple[Figure, pd.DataFrame]:
    """The figure and the rows that it shows."""
    blocks, correlations = load(results)
    return draw(blocks, correlations), pd.concat([blocks, correlations], ignore_index=True)
