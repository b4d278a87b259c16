"""Sizes, colours, words and units that all figures share.

Sizes are in inches: figures are drawn at the width that they are printed at, so that a label of 7
points is 7 points on paper. Colours are Okabe and Ito's, which stay apart for colour-blind readers;
where two of them meet in one panel, markers or line styles differ as well. Nothing here changes
matplotlib's global settings: `style` applies while a figure is drawn, `save` while it is written.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from step_saliency.plotting.style import (
    BAND_COLOUR,
    BORDER_COLOUR,
    DECAY_COLOUR,
    EMPTY_COLOUR,
    LOCK_IN_COLOUR,
    MAP_COLOURS,
    REGION_COLOURS,
)
from step_saliency.storage.files import replacing
from step_saliency.storage.tables import write_csv

__all__ = [
    "BAND_COLOUR",
    "BORDER_COLOUR",
    "COLUMN",
    "CORRECT_COLOUR",
    "CYCLE",
    "DECAY_COLOUR",
    "EMPTY_COLOUR",
    "ERROR_COLOUR",
    "LABELS",
    "LOCK_IN_COLOUR",
    "MAP_COLOURS",
    "MARKERS",
    "NEUTRAL",
    "PAGE",
    "REGION_COLOURS",
    "label",
    "new_figure",
    "save",
    "style",
]

COLUMN, PAGE = 3.3, 6.9
"""Width of a text column and of a page, in inches."""

CORRECT_COLOUR, ERROR_COLOUR, NEUTRAL = "#0072b2", "#d55e00", "#666666"
CYCLE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#666666")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")

LABELS = {
    "saliency": "Step-Saliency",
    "attention": "attention",
    "gradient": "gradient alone",
    "rollout": "attention rollout",
    "distance": "distance",
    "random": "random",
    "next_token": "loss",
    "log_odds": "log-odds",
    "sequence": "sequence loss",
    "lock_in": "lock-in",
    "decay": "share of summary rows on thinking",
    "average_precision": "average precision",
    "gold": "known step graph",
    "logit_diff": "logit difference",
    "sum": "sum over pairs",
    "mean": "mean over pairs",
    "mass": "mass",
    "block_mean": "mean over block",
    "oeb": "OEB",
    "smi": "SMI",
    "both": "StepFlow",
    "baseline": "no edit",
    "oeb-bridge": "OEB, keys by lot",
    "oeb-smooth": "OEB, temperature instead",
    "smi-boundaries": "SMI, moved boundaries",
    "smi-direction": "SMI, random directions",
    "smi-other": "SMI, steps of other traces",
    "reasoner": "bundled reasoner",
    "smollm2-135m": "SmolLM2-135M",
    "smollm2-135m-instruct": "SmolLM2-135M",
    "task": "bundled task",
    "gsm8k_test": "GSM8K",
}

_STYLE: Any = {
    "font.size": 7.5,
    "axes.titlesize": 8,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 7.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "legend.handlelength": 1.4,
    "lines.linewidth": 1.3,
    "lines.markersize": 3.2,
    "figure.dpi": 150,
}
_SAVE: Any = {"savefig.dpi": 300, "pdf.fonttype": 42, "svg.fonttype": "none"}


@contextmanager
def style() -> Iterator[None]:
    """The look of the figures, for as long as the context lasts."""
    with mpl.rc_context(_STYLE):
        yield


def new_figure(width: float, height: float, *, compress: bool = False) -> Figure:
    """An empty figure, sizes in inches; ``compress`` packs axes of fixed aspect."""
    layout = ConstrainedLayoutEngine(
        w_pad=0.03, h_pad=0.03, wspace=0.04, hspace=0.05, compress=compress
    )
    return Figure(figsize=(width, height), layout=layout)


def label(name: str) -> str:
    """How a value of a table is written in a figure."""
    return LABELS.get(name, name.replace("_", " "))


def save(figure: Figure, data: pd.DataFrame, folder: Path, name: str) -> list[Path]:
    """Write a figure as PNG and PDF, with the data it shows as CSV beside it.

    Args:
        figure: What to write.
        data: The rows that are drawn.
        folder: Where to; made if it is not there.
        name: File name without ending.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{name}.{ending}" for ending in ("png", "pdf", "csv")]
    with style(), mpl.rc_context(_SAVE):
        for file, metadata in ((files[0], None), (files[1], {"CreationDate": None})):
            with replacing(file) as part:
                figure.savefig(part, format=file.suffix[1:], metadata=metadata)
    write_csv(files[2], data)
    return files
