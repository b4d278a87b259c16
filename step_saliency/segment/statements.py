"""Where does a statement of a code block begin? One character in, states out.

A statement begins with a line that is indented no more than the first line of the block, outside
brackets and strings. It goes on over its indented lines, over lines that begin with a closing
bracket or an opening brace, over ``else``, ``except`` and their like, and from a decorator or a
comment to what that belongs to.

When it misleads: the first letter of a line has to do, so after ``if`` a line that begins with
``e`` counts as ``else``, and ``finally`` after ``except`` begins a statement. Brackets inside a
regular expression of JavaScript count as brackets.
"""

import re

_HASH = frozenset({"python", "py", "python3", "bash", "sh", "r", "ruby", "julia", "yaml", "toml"})
_OPENING, _CLOSING = "([{", ")]}"
_BRANCHES = {
    "if": "e",
    "elif": "e",
    "elsif": "e",
    "try": "efc",
    "except": "e",
}
_JOINS = frozenset(")]}{`")


class Statements:
    """Statements of one code block after another.

    ``begins`` is asked before a character other than white space is pushed.
    """

    def __init__(self) -> None:
        self.enter()

    def enter(self) -> None:
        """A block opens: its first line names the language."""
        self._info: str | None = ""
        self._base: int | None = None
        self._indent = 0
        self._at_line_start = False
        self._depth = 0
        self._string = ""
        self._line = ""
        self._first_word = ""
        self._comment = False
        self._recent = ""
        self._hash = True

    @property
    def is_first(self) -> bool:
        """Whether no statement of the block has begun."""
        return self._base is None

    def begins(self, char: str) -> bool:
        """Whether a statement begins with this character."""
        top = self._info is None and self._at_line_start and not self._depth and not self._string
        if not top or char in _JOINS:
            return False
        if self._base is None:
            return True
        if self._indent > self._base or self._line.endswith("\\"):
            return False
        if self._line.startswith(("@", "#", "//", "/*", "#[")):
            return False
        return char not in _BRANCHES.get(self._first_word, "")

    def push(self, char: str) -> None:
        if char == "\n":
            self._end_line()
        elif self._info is not None:
            self._info += char
        elif self._at_line_start and char.isspace():
            self._indent += 4 if char == "\t" else 1
        else:
            self._push_code(char)
        self._recent = (self._recent + char)[-3:]

    def _end_line(self) -> None:
        if self._info is not None:
            self._hash = self._info.strip().lower() in _HASH or not self._info.strip()
            self._info = None
        if len(self._string) == 1 and self._string != "`":
            self._string = ""
        self._comment = False
        self._at_line_start, self._indent = True, 0

    def _push_code(self, char: str) -> None:
        if self._at_line_start:
            self._begin_line()
        self._line = (self._line + char)[-200:] if len(self._line) < 200 else self._line[1:] + char
        if self._comment:
            return
        if self._string:
            self._close_string(char)
        elif not self._open_string(char):
            self._count(char)

    def _begin_line(self) -> None:
        if self._base is None:
            self._base = self._indent
        if not self._depth and not self._string and self._indent <= self._base:
            self._first_word = ""
            self._line = ""
        elif not self._string:
            self._line = " "
        self._at_line_start = False

    def _open_string(self, char: str) -> bool:
        if self._recent[-2:] + char in ('"""', "'''"):
            self._string = char * 3
        elif char in "\"'`":
            self._string = char
        elif self._opens_comment(char):
            self._comment = True
        else:
            return False
        return True

    def _opens_comment(self, char: str) -> bool:
        if self._hash:
            return char == "#"
        return self._recent[-1:] + char == "//" or self._line == "#"

    def _close_string(self, char: str) -> None:
        closed = (self._recent + char).endswith(self._string)
        if closed and not self._recent.endswith("\\"):
            self._string = ""

    def _count(self, char: str) -> None:
        if char in _OPENING:
            self._depth += 1
        elif char in _CLOSING:
            self._depth = max(0, self._depth - 1)
        word = re.fullmatch(r"\W*(\w+)", self._line)
        if word and self._line[0] != " ":
            self._first_word = word[1]
