"""Is the text inside code or mathematics, where no step begins? One character in, states out.

A fence is a block between lines that begin with three backticks. Mathematics is LaTeX between
``$``, ``$$``, ``\\(``, ``\\[`` or ``\\begin{...}`` and their closing marks; code is text between
single backticks. Nothing stays open for ever: inline mathematics ends with the line, all of it with
a blank line or after 300 characters, a fence that never closes yields to blank lines.

When it misleads: a price (``$5``) opens nothing, and neither does a ``$`` before white space.
"""

from typing import Literal

INLINE_LIMIT = 300
FENCE_LIMIT = 3000

MathMode = Literal["", "$", "$$", "(", "[", "env"]


class Fence:
    """Whether the text is inside a ``` block."""

    def __init__(self) -> None:
        self.open = False
        self._length = 0
        self._ticks = 0
        self._at_line_start = True

    @property
    def listens(self) -> bool:
        """Whether a character that is no backtick can matter."""
        return self.open or self._at_line_start

    def push(self, char: str) -> None:
        self._length += self.open
        if char == "`" and self._at_line_start:
            self._ticks += 1
            if self._ticks == 3:
                self.open = not self.open
                self._length = 0
                self._at_line_start = False
        elif char == "\n":
            self._at_line_start, self._ticks = True, 0
        elif not char.isspace() or self._ticks:
            self._at_line_start = False

    def holds(self, newlines: int) -> bool:
        """Whether no step may begin here. A fence that never closes yields to blank lines."""
        return self.open and not (newlines >= 2 and self._length > FENCE_LIMIT)


class Mathematics:
    """Whether the text is inside LaTeX mathematics or inline code."""

    def __init__(self) -> None:
        self.mode: MathMode = ""
        self.code = False
        self._escaped = False
        self._dollar = False
        self._command = ""
        self._length = 0

    @property
    def listens(self) -> bool:
        """Whether a character that opens nothing can matter."""
        return bool(self.mode or self._command) or self._escaped or self._dollar or self.code

    def push(self, char: str, before: str) -> None:
        self._length += 1
        if self._length > INLINE_LIMIT:
            self.end_line(1)
        self._push(char, before)

    def end_line(self, newlines: int) -> None:
        """White space with this many line breaks so far ends inline or all mathematics."""
        self.code = False
        if newlines >= 2 or self.mode in ("$", "("):
            self.mode = ""

    def _push(self, char: str, before: str) -> None:
        dollar, self._dollar = self._dollar, False
        if self._escaped:
            self._escaped = False
            self._command = char
            self._push_delimiter(char)
        elif char == "\\":
            self._escaped = True
            self._open_inline(dollar, char)
        elif char == "$":
            self._push_dollar(dollar, before)
        elif char == "`":
            self.code = not self.code
            self._length = 0
        else:
            self._open_inline(dollar, char)
            self._push_environment(char)

    def _push_delimiter(self, char: str) -> None:
        if char in "([" and not self.mode:
            self._open("(" if char == "(" else "[")
        elif (char, self.mode) in ((")", "("), ("]", "[")):
            self.mode = ""

    def _push_dollar(self, dollar: bool, before: str) -> None:
        if self.mode == "$":
            self.mode = ""
        elif dollar:
            self.mode = "" if self.mode == "$$" else self.mode or "$$"
            self._length = 0
        elif self.mode in ("", "$$"):
            self._dollar = self.mode == "$$" or not before.isalnum()

    def _open_inline(self, dollar: bool, char: str) -> None:
        """A price (``$`` and a digit) opens nothing, nor does a ``$`` before white space."""
        if dollar and not self.mode and (char.isalpha() or char in "\\({[|-+"):
            self._open("$")

    def _push_environment(self, char: str) -> None:
        if not self._command:
            return
        self._command = (self._command + char) if char != "}" and len(self._command) < 6 else ""
        if self._command == "begin{" and not self.mode:
            self._open("env")
        elif self._command == "end{" and self.mode == "env":
            self.mode = ""

    def _open(self, mode: MathMode) -> None:
        self.mode = mode
        self._length = 0
