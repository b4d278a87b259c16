r"""Does a place stand in a quotation, so that a mark there is spoken of and does nothing?

Quoted is what stands in a code fence, between backticks, or in a string that opened on the same
line. A quotation mark opens a string where no word or sentence ends before it, so an apostrophe and
inches (``5"``) open nothing. Nothing stays open for ever: code and strings end with the line,
strings after 200 characters, a fence after 3,000, one that opened within a line with a blank line.

When it misleads: a quotation mark or a backtick that is never closed hides a mark further on in
its line; in a string a mark that follows the end of a sentence counts, since the string may never
have closed.
"""

from step_saliency.segment.enclosures import FENCE_LIMIT, Fence
from step_saliency.segment.gaps import WIDE

STRING_LIMIT = 200
_PAIRS = {"“": "”", "‘": "’", "«": "»", "„": "“", "「": "」", "『": "』", "《": "》"}
_ENDS_BEFORE = frozenset(".!?;)]}%…\"'`$\\")


class Quotes:
    """Code and strings, one character at a time."""

    def __init__(self) -> None:
        self._fence = Fence()
        self._fenced = 0
        self._code = 0
        self._run = 0
        self._run_at_line_start = True
        self._string = ""
        self._length = 0
        self._before = ""

    @property
    def in_code(self) -> bool:
        """Whether the text is code, in a fence or between backticks."""
        fenced = self._fence.hides and self._fenced <= FENCE_LIMIT
        return fenced or bool(self._code)

    @property
    def hold(self) -> bool:
        """Whether the text is quoted."""
        return self.in_code or bool(self._string)

    def push(self, char: str) -> None:
        if self._fence.listens or char in "`\n":
            self._push_fence(char)
        if char == "`":
            self._run += 1
        elif self._run:
            self._end_run()
        if char == "\n":
            self._code, self._string, self._run_at_line_start = 0, "", True
        elif char != "`":
            self._run_at_line_start = self._run_at_line_start and char.isspace()
            self._push_string(char)
        self._before = char

    def _push_fence(self, char: str) -> None:
        self._fence.push(char)
        self._fenced = self._fenced + 1 if self._fence.open else 0

    def _end_run(self) -> None:
        """A run of backticks opens code that a run of the same length closes."""
        run, self._run = self._run, 0
        if run >= 3 and self._run_at_line_start:
            return
        if not self._code:
            self._code = run
        elif self._code == run:
            self._code = 0

    def _push_string(self, char: str) -> None:
        if self._string:
            self._length += 1
            closed = char == self._string and self._before != "\\"
            if closed or self._length > STRING_LIMIT:
                self._string = ""
        elif char in _PAIRS or (char in "\"'" and self._may_open()):
            self._string, self._length = _PAIRS.get(char, char), 0

    def _may_open(self) -> bool:
        before = self._before
        return before >= WIDE or not (before.isalnum() or before in _ENDS_BEFORE)
