"""Is the text inside code or mathematics, where no step begins? One character in, states out.

A fence is a block between lines that begin with three backticks, or end with them and the name of a
language (``The code: ```python``, ``- ```python``), see `Fence`. Mathematics is LaTeX between
``$``, ``$$``, ``\\(``, ``\\[`` or ``\\begin{...}`` and their closing marks; code is text between
single backticks. Nothing stays open for ever: inline mathematics ends with the line, all of it with
a blank line or after 300 characters, a fence that never closes yields to blank lines.

When it misleads: a price (``$5``) opens nothing, and neither does a ``$`` before white space; a
line of prose that ends with a lone ``` opens a block.
"""

import re
from typing import Literal

INLINE_LIMIT = 300
FENCE_LIMIT = 3000
INFO_LIMIT = 20
_INFO = re.compile(r"(?:\w[\w+#.-]*|\{[\w .=,]+\})?\s*")
"""What may follow the backticks that open a block: the name of a language, and nothing else."""

MathMode = Literal["", "$", "$$", "(", "[", "env"]


class Fence:
    """Whether the text is inside a ``` block.

    A run of backticks at the start of a line opens or closes one. Within a line it opens one where
    at most the name of a language follows, and closes one where nothing does; both are known at the
    end of the line. Two runs in one line are code in that line.

    Attributes:
        open: Whether it is.
        info: What followed the backticks of a block that opened within a line.
    """

    def __init__(self) -> None:
        self.open = False
        self.info = ""
        self._length = 0
        self._run = 0
        self._at_line_start = True
        self._headed = False
        self._odd = False
        self._after = ""
        self._within = False
        self._blank = False

    @property
    def listens(self) -> bool:
        """Whether a character that is no backtick can matter."""
        return self.open or self._at_line_start or self._odd or self._run > 0

    @property
    def hides(self) -> bool:
        """Whether marks are quoted here.

        What opened within a line may be no block, so it hides none after a blank line.
        """
        return self.open and not (self._within and self._blank)

    def push(self, char: str) -> None:
        self._length += self.open
        if char == "`":
            self._run += 1
            if self._run == 3:
                self._end_run()
        elif char == "\n":
            self._end_line()
        else:
            self._at_line_start = self._at_line_start and char.isspace() and not self._run
            self._run = 0
            if self._odd and len(self._after) <= INFO_LIMIT:
                self._after += char

    def _end_run(self) -> None:
        if self._at_line_start:
            self._enter(not self.open, within=False)
            self._headed, self._at_line_start = True, False
        elif self._headed:  # after the backticks that open a block stand none in its first line
            self.open = False
        else:
            self._odd, self._after = not self._odd, ""

    def _end_line(self) -> None:
        self._blank = self._blank or (self._at_line_start and not self._run)
        if self._odd and self.open and not self._after.strip():
            self._enter(False, within=False)
        elif self._odd and not self.open and _INFO.fullmatch(self._after):
            self._enter(True, within=True)
            self.info = self._after.strip()
        self._run, self._after = 0, ""
        self._at_line_start, self._headed, self._odd = True, False, False

    def _enter(self, is_open: bool, *, within: bool) -> None:
        self.open, self._within, self._blank = is_open, within, False
        self.info = ""
        self._length = 0

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
