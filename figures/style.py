"""Sizes, colours, words and units that all figures share.

Sizes are in inches: figures are drawn at the width that they are printed at, so that a label of 7
points is 7 points on paper. Colours are those of `step_saliency.plotting.style`; where two of them
meet in one panel, markers or line styles differ as well. Nothing here changes matplotlib's global
settings: `style` applies while a figure is drawn, `save` while it is written.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from step_saliency.plotting import style as plotting
from step_saliency.plotting.step_maps import MapLook
from step_saliency.plotting.style import BAND_COLOUR as BAND_COLOUR
from step_saliency.plotting.style import BORDER_COLOUR as BORDER_COLOUR
from step_saliency.plotting.style import CORRECT_COLOUR as CORRECT_COLOUR
from step_saliency.plotting.style import CYCLE as CYCLE
from step_saliency.plotting.style import DECAY_COLOUR as DECAY_COLOUR
from step_saliency.plotting.style import EMPTY_COLOUR as EMPTY_COLOUR
from step_saliency.plotting.style import ERROR_COLOUR as ERROR_COLOUR
from step_saliency.plotting.style import GRID_COLOUR as GRID_COLOUR
from step_saliency.plotting.style import LOCK_IN_COLOUR as LOCK_IN_COLOUR
from step_saliency.plotting.style import MAP_COLOURS as MAP_COLOURS
from step_saliency.plotting.style import MARKERS as MARKERS
from step_saliency.plotting.style import NEUTRAL as NEUTRAL
from step_saliency.plotting.style import REGION_COLOURS as REGION_COLOURS
from step_saliency.storage.files import make_folder, replacing
from step_saliency.storage.tables import write_csv

COLUMN, PAGE = 3.3, 6.9
"""Width of a text column and of a page, in inches."""

PRINT = MapLook(
    strip=3.0,
    gap=2.5,
    border=1.0,
    most_bordered=0,
    most_ticks=6,
    legend=False,
    bar={"fraction": 0.05, "pad": 0.02, "aspect": 28},
)
"""Sizes of what stands around a map in print."""

LABELS = {
    "saliency": "Step-Saliency",
    "attention": "attention",
    "attention_norm": "attention × value norm",
    "gradient": "gradient alone",
    "score_gradient": "gradient at scores",
    "rollout": "attention rollout",
    "distance": "distance",
    "key_length": "tokens of key step",
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
    "oeb-bridge": "OEB, random keys",
    "oeb-smooth": "OEB, temperature instead",
    "smi-boundaries": "SMI, moved boundaries",
    "smi-direction": "SMI, random directions",
    "smi-other": "SMI, steps of other traces",
    "oeb-bridge-kl": "OEB, random keys, same KL",
    "oeb-block-kl": "OEB, block of keys, same KL",
    "oeb-layers-kl": "OEB, random layers, same KL",
    "oeb-permuted-kl": "OEB, permuted mass, same KL",
    "smi-direction-kl": "SMI, random directions, same norm",
    "smi-boundaries-kl": "SMI, moved boundaries, same norm",
    "smi-other-kl": "SMI, other traces, same norm",
    "smi-layers-kl": "SMI, random layers, same norm",
    "both-layers-kl": "StepFlow, random layers, same dose",
    "both-bridge-direction-kl": "StepFlow, random keys and directions, same dose",
    "reasoner": "bundled reasoner",
    "reporter": "bundled reporter",
    "smollm2-135m": "SmolLM2-135M",
    "smollm2-135m-instruct": "SmolLM2-135M",
    "qwen2.5-coder-0.5b-instruct.gguf": "Qwen2.5-Coder-0.5B",
    "Qwen/Qwen2.5-Coder-0.5B-Instruct": "Qwen2.5-Coder-0.5B",
    "task": "bundled task",
    "gsm8k_test": "GSM8K",
    "gsm8k_main": "GSM8K",
    "gsm8k_mixed": "GSM8K",
    "gsm8k_more": "GSM8K",
}

_STYLE: Any = plotting.BASE_STYLE | {
    "font.size": 7.5,
    "axes.titlesize": 8,
    "axes.labelsize": 7.5,
    "axes.linewidth": 0.6,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "legend.fontsize": 7,
    "legend.handlelength": 1.4,
    "lines.linewidth": 1.3,
    "lines.markersize": 3.2,
    "figure.dpi": 150,
}
_LAYOUT = {"w_pad": 0.03, "h_pad": 0.03, "wspace": 0.04, "hspace": 0.05}
_SAVE: Any = {"savefig.dpi": 300, "pdf.fonttype": 42, "svg.fonttype": "none"}


@contextmanager
def style() -> Iterator[None]:
    """The look of the figures, for as long as the context lasts."""
    with mpl.rc_context(_STYLE):
        yield


def new_figure(width: float, height: float, *, compress: bool = False) -> Figure:
    """An empty figure, sizes in inches; ``compress`` packs axes of fixed aspect."""
    return plotting.new_figure(width, height, compress=compress, layout=_LAYOUT)


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
    make_folder(folder)
    files = [folder / f"{name}.{ending}" for ending in ("png", "pdf", "csv")]
    with style(), mpl.rc_context(_SAVE):
        for file, metadata in ((files[0], None), (files[1], {"CreationDate": None})):
            with replacing(file) as part:
                figure.savefig(part, format=file.suffix[1:], metadata=metadata)
    write_csv(files[2], data)
    return files
