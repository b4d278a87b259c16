"""Which format does a response have? The first mark that decides.

The response's own marks win over what the prompt opened. Where the prompt says nothing, any closing
mark decides and an opening mark that begins a line or follows a sentence. Where the prompt opened
(or closed) the thinking, a mark of another format decides only at the very start of the response,
or closing where a line or a sentence ends: the thinking may speak of marks.

When it misleads: with the response unknown, while decoding, what comes before the first mark has
been read as the prompt says, or as plain.
"""

from step_saliency.options import FormatName
from step_saliency.segment.harmony import (
    FIRST_WORDS,
    HARMONY_MARKS,
    HEADER_WORDS,
    begins_with_header,
)
from step_saliency.segment.marks import END_MARKS, FormatMarks, rows
from step_saliency.segment.reading import Reading

_CHANNELS = frozenset({"<|channel|>", "<|start|>", "<|message|>"})


def format_of_prompt(prompt: str) -> str | None:
    """Format that the end of a prompt opens or closes the thinking of."""
    end = prompt.rstrip()
    for row in rows():
        if row.open and end.endswith((row.open, row.close)):
            return row.name
    return "harmony" if "<|start|>" in end else None


def deciding_format(mark: str, reading: Reading, *, prompted: str | None) -> str | None:
    """Format that this mark, just completed, decides for, where the prompt opened a format."""
    if mark in HEADER_WORDS:
        return "harmony_text"
    if mark in _CHANNELS:
        free = prompted in (None, "harmony") or reading.is_first(mark)
        return "harmony" if free else None
    for row in rows():
        is_own = row.name == prompted and mark in (row.open, row.close)
        if is_own or _decides(row, mark, reading, prompted is not None):
            return row.name
    return None


def _decides(row: FormatMarks, mark: str, reading: Reading, prompted: bool) -> bool:
    if mark not in (row.open, row.close):
        return row.early and mark == row.answer[0] != "<answer>" and not prompted
    if prompted:
        if mark == row.open or not row.open:
            return bool(row.open) and reading.is_first(mark)
        return reading.at_break(mark)
    anywhere = row.name == "think" or (mark == row.close and row.open != "")
    return anywhere or reading.at_break(mark)


def detect_format(*, prompt: str = "", response: str | None = None) -> FormatName:
    """Format by the end of the prompt and, where it is known, the whole response.

    With the response unknown (while decoding) and a prompt that does not tell: ``"auto"``.
    """
    prompted = format_of_prompt(prompt)
    if response is None:
        return prompted or "auto"  # type: ignore[return-value]
    own = own_format(response, prompted=prompted)
    return own or prompted or "plain"  # type: ignore[return-value]


def own_format(response: str, *, prompted: str | None) -> str | None:
    """Format by the marks of the response alone."""
    if begins_with_header(response):
        return "harmony_text"
    marks = {mark for row in rows() for mark in row.marks} | HARMONY_MARKS | set(HEADER_WORDS)
    if "<|channel|>" not in response and prompted is None:
        marks -= HARMONY_MARKS
    if not any(mark in response for mark in marks):
        return None
    reading = Reading(marks | END_MARKS | set(FIRST_WORDS))
    for char in response:
        mark = reading.push(char)
        name = deciding_format(mark, reading, prompted=prompted) if mark in marks else None
        if name is not None:
            return name
    return None
