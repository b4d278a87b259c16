"""Steps by line breaks: lines or paragraphs; and the length under which a fragment cannot close."""

from step_saliency.segment.enclosures import Fence

MIN_CHARS = 10
WIDE = "\u2e80"
"""First character of the scripts whose characters count twice (Chinese, Japanese, Korean)."""


def width(char: str) -> int:
    """How much a character adds to the length of a step."""
    return 2 if char >= WIDE else 1


class GapSplitter:
    """Steps that begin after ``newlines`` line breaks: 1 for lines, 2 for paragraphs.

    Code fences stay whole; a fragment under ``min_chars`` characters joins the step after it.
    """

    def __init__(self, newlines: int, min_chars: int = MIN_CHARS) -> None:
        self.newlines = newlines
        self.min_chars = min_chars
        self.reset()

    def reset(self) -> None:
        self._fence = Fence()
        self._chars = 0
        self._gap = 0

    @property
    def in_code(self) -> bool:
        """Whether the text is inside a code fence."""
        return self._fence.open

    def push(self, char: str) -> bool:
        self._fence.push(char)
        if char.isspace():
            self._gap += char == "\n"
            return False
        begins = (
            self._gap >= self.newlines
            and self._chars >= self.min_chars
            and not self._fence.holds(self._gap)
        )
        self._chars = width(char) + (0 if begins else self._chars)
        self._gap = 0
        return begins
