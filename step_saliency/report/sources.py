"""Markup, style and script of the page, from the parts in ``assets``.

The script's parts are joined into one function, so that the page has no names of its own in the
browser's global scope. Colours of light pages come from `step_saliency.plotting.style`; the style
sheet has lighter ones of the same hues for dark pages.
"""

from importlib.resources import files

import matplotlib as mpl
import numpy as np
from matplotlib.colors import to_hex

from step_saliency.plotting.style import (
    BAND_COLOUR,
    BORDER_COLOUR,
    CORRECT_COLOUR,
    DECAY_COLOUR,
    EMPTY_COLOUR,
    ERROR_COLOUR,
    LOCK_IN_COLOUR,
    MAP_COLOURS,
    NEUTRAL,
    REGION_COLOURS,
)

SCRIPT = (
    "elements",
    "maps",
    "colours",
    "numbers",
    "map_view",
    "selection",
    "text",
    "moving",
    "charts",
    "effects",
    "wiring",
)
"""Parts of the script, in the order in which they are joined."""

_COLOURS = {region.value: colour for region, colour in REGION_COLOURS.items()} | {
    "lock-in": LOCK_IN_COLOUR,
    "decay": DECAY_COLOUR,
    "correct": CORRECT_COLOUR,
    "error": ERROR_COLOUR,
    "all": NEUTRAL,
    "band": BAND_COLOUR,
    "border": BORDER_COLOUR,
    "empty": EMPTY_COLOUR,
}
_DARKEST = 0.92  # of the colour map; beyond it, cells would vanish on a dark page


def markup() -> str:
    """The page, with names of what varies between pairs of ``@@``."""
    return _asset("page.html")


def style_sheet() -> str:
    """The style, with the colours of light pages."""
    colours = " ".join(f"--{name}: {colour};" for name, colour in _COLOURS.items())
    return _asset("page.css").replace("/* colours */", colours)


def script() -> str:
    """The script, its parts joined."""
    parts = "\n".join(_asset(f"{name}.js") for name in SCRIPT)
    return f'"use strict";\n(() => {{\n{parts}}})();\n'


def map_colours(n: int = 11) -> list[str]:
    """Stops of the colour scale of maps on a light page, from low to high."""
    return [to_hex(mpl.colormaps[MAP_COLOURS](x)) for x in np.linspace(0, _DARKEST, n)]


def _asset(name: str) -> str:
    return files("step_saliency.report").joinpath("assets", name).read_text(encoding="utf-8")
