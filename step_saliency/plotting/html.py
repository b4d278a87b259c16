"""How results show themselves in a notebook: a few facts and a small picture, as one piece of
HTML."""

import base64
from collections.abc import Mapping
from html import escape

from matplotlib.figure import Figure

from step_saliency.plotting.style import png
from step_saliency.segment.regions import NO_MATH


def card(title: str, facts: Mapping[str, str], figure: Figure, *, name: str) -> str:
    """Facts as a table, with a picture below.

    Args:
        title: Heading.
        facts: What is said, by what it is about; empty texts are left out.
        figure: The picture.
        name: What the picture shows, for those who do not see it.
    """
    rows = "".join(
        f'<tr><th style="text-align:left;padding:1px 12px 1px 0">{escape(key)}</th>'
        f'<td style="text-align:left">{escape(value)}</td></tr>'
        for key, value in facts.items()
        if value
    )
    data = base64.b64encode(png(figure, dpi=90)).decode()
    return (
        f'<div class="{NO_MATH}"><b>{escape(title)}</b><table>{rows}</table>'
        f'<img alt="{escape(name)}" src="data:image/png;base64,{data}"></div>'
    )


def shortened(text: str, length: int) -> str:
    """Text on one line, cut to a length."""
    text = " ".join(text.split())
    return text if len(text) <= length else f"{text[: length - 1]}…"
