"""The palette, labels and sizes that all pictures share, and the figure they are drawn in.

Pictures in notebooks, the figures and the HTML report take their colours from here (regions' own
are beside `Region`); they are Okabe and Ito's, which stay apart for colour-blind readers. Nothing
here touches matplotlib's global settings: `style` applies while a figure is drawn, and figures
belong to no pyplot state, so none is left open. A theme of the notebook (a dark one, one with a
grid) changes the fonts of our figures and no more; a figure of its own keeps its colours.
"""

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from step_saliency.segment.regions import REGION_COLOURS as REGION_COLOURS

CORRECT_COLOUR, ERROR_COLOUR = "#0072b2", "#d55e00"
CYCLE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#666666")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LOCK_IN_COLOUR, DECAY_COLOUR = "#b2316b", "#3d4fa1"
NEUTRAL = "#666666"
BAND_COLOUR = "#eef1f6"
EMPTY_COLOUR = "#f3f3f3"
GRID_COLOUR = "#e5e5e5"
BORDER_COLOUR = "#404040"
MAP_COLOURS = "magma_r"

OBJECTIVE_UNITS = {
    "next_token": "nats",
    "sequence": "nats",
    "answer": "nats",
    "log_odds": "nats of log-odds",
    "logit_diff": "logits",
}
POOL_LABELS = {
    "mean": "mean per token pair",
    "block_mean": "mean per token pair, forbidden ones included",
    "mass": "per query token, summed over keys",
    "sum": "sum over token pairs",
}

LAYOUT: Mapping[str, Any] = {"hspace": 0.06, "wspace": 0.04}
"""Distances between axes, of a figure on a screen."""

_THEMED = ("axes.", "grid.", "legend.", "lines.", "patch.", "text.color", "xtick.", "ytick.")
_LEFT = ("axes.formatter.", "axes.unicode_minus")

_ACCENTS: Any = {
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}

BASE_STYLE: Any = {
    **{
        name: value
        for name, value in mpl.rcParamsDefault.items()
        if name.startswith((*_THEMED, "figure.facecolor")) and not name.startswith(_LEFT)
    },
    **_ACCENTS,
}
"""What pictures of every size have in common, whatever theme is on."""

_SIZES: Any = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "axes.linewidth": 0.7,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "legend.fontsize": 8,
    "lines.linewidth": 1.6,
    "lines.markersize": 3.5,
    "figure.dpi": 110,
    "savefig.dpi": 200,
}


class NotebookFigure(Figure):
    """A figure that notebooks show even where nothing has imported pyplot."""

    def savefig(self, fname: Any, *, transparent: bool | None = None, **options: Any) -> None:
        """As matplotlib's, but on the figure's own ground, not on that of a theme."""
        is_clear = mpl.rcParams["savefig.transparent"] if transparent is None else transparent
        ground = {} if is_clear else {"facecolor": self.get_facecolor()}
        super().savefig(fname, transparent=transparent, **(ground | options))

    def _repr_png_(self) -> bytes:
        return png(self)


@contextmanager
def style(*, own: bool = True) -> Iterator[None]:
    """The look of the pictures, for as long as the context lasts.

    Args:
        own: The figure is ours; one that was given keeps the colours that it was made with.
    """
    with mpl.rc_context((BASE_STYLE if own else _ACCENTS) | _SIZES):
        yield


def new_figure(
    width: float, height: float, *, compress: bool = False, layout: Mapping[str, Any] = LAYOUT
) -> NotebookFigure:
    """An empty figure.

    Args:
        width: In inches.
        height: In inches.
        compress: Pack axes of fixed aspect.
        layout: Distances between axes, as matplotlib's constrained layout takes them.
    """
    engine = ConstrainedLayoutEngine(compress=compress, **layout)
    return NotebookFigure(figsize=(width, height), layout=engine)


def png(figure: Figure, *, dpi: int | float | None = None) -> bytes:
    """The figure as a PNG file.

    Args:
        figure: What to draw.
        dpi: Dots per inch; the figure's own by default.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi or figure.dpi)
    return buffer.getvalue()


def saliency_label(objective: str, pool: str | None = None) -> str:
    """Axis label of saliency values: what they are and their unit.

    Args:
        objective: Whose gradient was taken.
        pool: How token pairs became step pairs; None for a token map.
    """
    target = "log-odds" if objective == "log_odds" else "logits"
    target = target if objective in ("log_odds", "logit_diff") else "loss"
    unit = OBJECTIVE_UNITS.get(objective, "units of the objective")
    target = target if objective in OBJECTIVE_UNITS else "objective"
    reading = f"\n{POOL_LABELS[pool]}" if pool else ""
    return f"saliency |A · ∂({target})/∂A| ({unit}){reading}"
