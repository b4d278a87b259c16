"""What stands before a place in a response: the last characters, and the mark that ends there."""

from collections.abc import Collection

from step_saliency.segment.quotes import Quotes

_BEFORE = 24
_STOPS = frozenset(".!?…。！？")
_SENTENCE_ENDS = _STOPS | frozenset(":：")


class Reading:
    """Characters of one response, as they come.

    Args:
        marks: Marks to look for.
    """

    def __init__(self, marks: Collection[str]) -> None:
        self._by_end: dict[str, list[str]] = {}
        for mark in sorted(marks, key=len, reverse=True):
            self._by_end.setdefault(mark[-1], []).append(mark)
        self._keep = max(map(len, marks), default=0) + _BEFORE
        self._solid = 0
        self.begin()

    def begin(self) -> None:
        """Text begins here, after a mark: nothing before it matters."""
        self.tail = ""
        self._quotes = Quotes()

    @property
    def last(self) -> str:
        """The last character."""
        return self.tail[-1:]

    def push(self, char: str) -> str:
        """Take a character; the mark that it completes, unless that is quoted."""
        self.tail = (self.tail + char)[-self._keep :]
        self._solid += not char.isspace()
        self._quotes.push(char)
        for mark in self._by_end.get(char, ()):
            if self.tail.endswith(mark):
                return "" if self._is_quoted(mark) else mark
        return ""

    def _is_quoted(self, mark: str) -> bool:
        """A string may never have closed: it hides no mark that follows the end of a sentence."""
        before = self.tail.removesuffix(mark).rstrip()[-1:]
        return self._quotes.in_code or (self._quotes.hold and before not in _STOPS)

    def is_first(self, mark: str) -> bool:
        """Whether this mark, just completed, is all that the response says so far."""
        return self._solid == len("".join(mark.split()))

    def at_line_start(self, mark: str) -> bool:
        """Whether this mark, just completed, begins a line."""
        before = self.tail.removesuffix(mark).rstrip(" \t\r")
        return not before or before.endswith("\n")

    def at_break(self, mark: str) -> bool:
        """Whether this mark, just completed, begins a line or follows the end of a sentence."""
        before = self.tail.removesuffix(mark).rstrip(" \t\r")
        return self.at_line_start(mark) or ends_sentence(before)


def ends_sentence(before: str) -> bool:
    """Whether a text ends as a sentence does, closing quotes and stars aside."""
    body = before.rstrip("\"'”’»」』*_`~")
    return body[-1:] in _SENTENCE_ENDS if body else bool(before)
