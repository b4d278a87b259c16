"""Does a response that was read without a format carry marks of one? Then a warning names them.

Looked for are pairs such as ``<plan>`` and ``</plan>`` or ``[PLAN]`` and ``[/PLAN]``, a lone
closing one, and words between ``<|`` and ``|>`` or ``◁`` and ``▷``, outside code. Names of HTML are
none.
"""

import re
import warnings

from step_saliency.segment.marks import END_MARKS, row_of
from step_saliency.segment.segmentation import Segmentation

_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`", re.DOTALL)
_TAG = re.compile(r"<(/?)([A-Za-z_][\w:.-]{1,40})>")
_BRACKET = re.compile(r"\[(/?)([A-Z_]{3,40})\]")
_SPECIAL = re.compile(r"<\|/?[A-Za-z_][\w ]{1,40}\|?>|◁/?\w{1,40}▷")
_PHRASE = re.compile(r"^Here is my (?:thought process|response):", re.MULTILINE)
"""Marks of Granite 3.2, which are words."""
_HTML_NAMES = """
    a abbr article aside b big blockquote body br button caption center cite code col dd del
    details dfn div dl dt em figure font footer form h1 h2 h3 h4 h5 h6 head header hr html i
    iframe img input ins kbd label li link main mark math meta nav ol option p pre q s samp
    script section select small span strike strong style sub summary sup svg table tbody td
    textarea tfoot th thead title tr tt u ul var video
"""
_HTML = frozenset(_HTML_NAMES.split())
_MOST = 6


def warn_of_unread_marks(cut: Segmentation, name: str) -> None:
    """Warn of marks in a response whose format was not recognised by marks of its own.

    Args:
        cut: The response in steps.
        name: The format that it was read in.
    """
    row = row_of(name)
    response = cut.response
    own = row.marks if row is not None else ()
    if (row is None and name != "plain") or any(mark in response for mark in own):
        return
    marks = [mark for mark in tag_like_marks(response) if mark not in END_MARKS]
    if marks:
        shown = ", ".join(marks[:_MOST]) + (", ..." if len(marks) > _MOST else "")
        warnings.warn(
            f"the response was read as {name!r}; what looks like marks of another format was taken "
            f"as text: {shown}. Name the format with format=..., or teach it with "
            "step_saliency.segment.register_format(open, close)",
            stacklevel=2,
        )


def tag_like_marks(text: str) -> list[str]:
    """Marks in a text that look like those of a format, each once, as they come."""
    prose = _CODE.sub(" ", text)
    marks = {
        match.start(): match[0]
        for pattern in (_SPECIAL, _PHRASE)
        for match in pattern.finditer(prose)
    }
    for pattern in (_TAG, _BRACKET):
        tags = [match for match in pattern.finditer(prose) if match[2].lower() not in _HTML]
        closed = {match[2] for match in tags if match[1]}
        marks |= {match.start(): match[0] for match in tags if match[2] in closed}
    return list(dict.fromkeys(marks[place] for place in sorted(marks)))
