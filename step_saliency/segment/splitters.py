r"""Where does a new step begin? Causal splitters: one character in, one decision out.

A splitter is fed the text of one region character by character. ``push(char)`` returns True where
``char`` is the first character of a new step. The decision uses the text up to and including
``char`` and nothing after it, so that an intervention can act on the first token of a step while
that token is processed, and so that any chunking of the text gives the same steps.

``sentence``: a step begins with the first character other than white space that follows

* a blank line, or
* a sentence end (``.``, ``!``, ``?`` or their like, with closing quotes and brackets) and white
  space (none is needed after the full stops of Chinese and Japanese), or
* one line break, where the line before ended a sentence, or where the new line is a list item, a
  heading, a table or a code fence or begins with a capital, unless the line before leads over to it
  (it ends with a colon or a comma or is a heading).

No sentence ends inside a decimal (``3.14``), after an abbreviation (``Dr.``, ``e.g.``), an initial,
a list number (``1.``) or a factorial that the text goes on from, in LaTeX mathematics, in a table
row or in code. Mathematics never reaches over a blank line and inline mathematics never over a line
break, so that a lone ``$`` (a price) cannot swallow the text. A fragment under ``min_chars``
characters cannot close: it joins the step after it (CJK characters count twice). Only the end of a
region closes a shorter step.

When it misleads: an abbreviation that it does not know ends a step; ``etc.`` and a single capital
(``point B.``) are read by the case of what follows and what precedes.
"""

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from step_saliency.options import SPLITTERS, SplitFunction, Splitter, SplitterLike

MIN_CHARS = 10


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_TERMINATORS = frozenset(".!?…।॥؟۔")
_WIDE_TERMINATORS = frozenset("。！？｡")
_CLOSERS = frozenset(")]}\"'*_`”’»›）】」』》〉")
# What cannot begin a sentence: the text goes on.
_CONTINUERS = frozenset(",;:)]}%=<>≤≥≈≠+/^×÷·|")
_ABBREVIATIONS = _words(
    """
    mr mrs ms dr prof st sr jr rev gen col lt capt sgt hon gov sen rep vs viz cf e.g i.e eg ie al
    fig figs eq eqs eqn eqns sec sect thm lem cor prop def ch chap vol pp ref refs ex approx resp
    w.r.t s.t a.k.a dept univ assn
    """
)
# These end a sentence too: only what follows tells.
_WEAK_ABBREVIATIONS = _words(
    """
    etc inc ltd co corp a.m p.m am pm u.s u.k u.n ph.d b.c a.d min max sq ft in oz lb lbs hr hrs
    """
)
_BEFORE_NUMBER = _words("no nos nr art p")
# A capitalised word and a single capital: "George W. Bush", but "point B. Then".
_NOT_NAMES = _words(
    """
    point points option choice case angle line side figure answer set event step part person train
    car box vertex variable player team column row class type graph node matrix function vitamin
    plan item and or but the a is so if then let
    """
)
_LIST_MARKER = re.compile(
    r"[\s>]*(?:[-*•]\s+|#{1,6}\s+)?(?:\*\*)?(?:step\s+|part\s+|case\s+)?"
    r"[(\[]?(?:\d{1,3}|[a-z]|[ivx]{1,4})",
    re.IGNORECASE,
)
_LIST_NUMBER = re.compile(r"(?:^|\s)\d{1,3}[.)]$")
_INLINE_NUMBER = re.compile(r"(?:^|[:.;]\s+)\d{1,2}$")
_LAST_WORDS = re.compile(r"(?:([^\s(\[{\"'“]+)\s+)?[(\[{\"'“*_]*([^\s(\[{\"'“*_]+)$")
_BULLETS = frozenset("-*•‣◦▪●#|`")
_CLOSING_RUN = re.compile(r"(?:\\[)\]]|[)\]}\"'*_`”’»›）】」』》〉$])*$")

_TAIL = 64
_WIDE = "\u2e80"
_INLINE_LIMIT = 300
_FENCE_LIMIT = 3000

Need = Literal["never", "always", "not_lower", "not_digit", "upper"]
MathMode = Literal["", "$", "$$", "(", "[", "env"]


class GapSplitter:
    """Steps that begin after ``newlines`` line breaks: 1 for lines, 2 for paragraphs.

    Code fences stay whole; a fragment under ``min_chars`` characters joins the step after it.
    """

    def __init__(self, newlines: int, min_chars: int = MIN_CHARS) -> None:
        self.newlines = newlines
        self.min_chars = min_chars
        self.reset()

    def reset(self) -> None:
        self._fence = _Fence()
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
        self._chars = (2 if char >= _WIDE else 1) + (0 if begins else self._chars)
        self._gap = 0
        return begins


class SentenceSplitter:
    """Sentences, as the head of this module defines them.

    Args:
        min_chars: A step shorter than this (spaces inside it included) does not close.
    """

    def __init__(self, min_chars: int = MIN_CHARS) -> None:
        self.min_chars = min_chars
        self.reset()

    def reset(self) -> None:
        self._fence = _Fence()
        self._math = _Math()
        self._chars = 0
        self._tail = ""
        self._line = 0
        self._newlines = 0
        self._spaced = False
        self._need: Need = "never"
        self._wide_end = False
        self._table = False
        self._numbered = False
        self._goes_on = False

    @property
    def in_code(self) -> bool:
        """Whether the text is inside a code fence."""
        return self._fence.open

    def push(self, char: str) -> bool:
        if char.isspace():
            self._push_space(char)
            return False
        begins = self._chars >= self.min_chars and self._begins(char)
        if begins:
            self._chars = 0
        self._take(char)
        return begins

    def _push_space(self, char: str) -> None:
        if not self._spaced:
            self._need = _need(self._tail, self._line)
            number = self._line <= 5 and _LIST_NUMBER.search(self._tail)
            self._numbered = self._numbered or bool(number)
        if char == "\n" and not self._newlines:
            self._goes_on = _line_goes_on(self._tail, self._line)
        self._spaced = True
        self._fence.push(char)
        if char == "\n":
            self._newlines += 1
            self._line = 0
            self._math.end_line(self._newlines)
        if self._math.listens:
            self._math.push(char, self._tail[-1:])

    def _begins(self, char: str) -> bool:
        if not self._spaced:
            return self._wide_end and char not in _CLOSERS and not self._inside()
        if self._fence.holds(self._newlines):
            return False
        if self._newlines >= 2:
            self._numbered = False
            return True
        if self._inside():
            return False
        if self._newlines == 1 and self._begins_line(char):
            return True
        return not self._table and _fits(self._need, char)

    def _begins_line(self, char: str) -> bool:
        if self._table:
            return char != "|"
        if self._goes_on:
            return False
        return char in _BULLETS or char.isupper() or (self._numbered and char.isdigit())

    def _inside(self) -> bool:
        return self._fence.open or bool(self._math.mode) or self._math.code

    def _take(self, char: str) -> None:
        if self._newlines or not self._tail:
            self._table = char == "|"
        if self._spaced:
            self._tail = (self._tail + " ")[-_TAIL:]
            self._line += self._line > 0
            self._chars += self._chars > 0
        self._spaced = False
        self._newlines = 0
        before = self._tail[-1:]
        self._tail = (self._tail + char)[-_TAIL:]
        self._line += 1
        self._chars += 2 if char >= _WIDE else 1
        self._wide_end = char in _WIDE_TERMINATORS or (self._wide_end and char in _CLOSERS)
        if self._fence.listens or char == "`":
            self._fence.push(char)
        if (self._math.listens or char in "\\$`") and not self._fence.open:
            self._math.push(char, before)


class _Fence:
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
        return self.open and not (newlines >= 2 and self._length > _FENCE_LIMIT)


class _Math:
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
        if self._length > _INLINE_LIMIT:
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


def make_splitter(splitter: SplitterLike) -> Splitter | SplitFunction:
    """Splitter of a name; splitters and functions pass through.

    Raises:
        ValueError: An unknown name, or neither a name, a splitter nor a function.
    """
    if splitter == "sentence":
        return SentenceSplitter()
    if splitter == "paragraph":
        return GapSplitter(2)
    if splitter == "line":
        return GapSplitter(1)
    if isinstance(splitter, Splitter) or callable(splitter):
        return splitter
    known = ", ".join(map(repr, SPLITTERS))
    raise ValueError(f"unknown splitter {splitter!r}; take {known}, or a function of the text")


def split_text(text: str, splitter: SplitterLike = "sentence") -> list[int]:
    """Offset of the first character of each step; the first is 0 unless the text is empty.

    White space between two steps belongs to the first of them.

    Raises:
        ValueError: An unknown splitter, or starts from a function that are out of order or range.
    """
    split = make_splitter(splitter)
    if not text:
        return []
    if not isinstance(split, Splitter):
        return _checked_starts(split(text), len(text))
    split.reset()
    return [0, *(i for i, char in enumerate(text) if split.push(char) and i)]


def _checked_starts(cuts: Sequence[int] | Sequence[tuple[int, int]], n_chars: int) -> list[int]:
    starts = [int(cut[0]) if isinstance(cut, (tuple, list)) else int(cut) for cut in cuts]
    if not starts or starts[0] != 0:
        starts = [0, *starts]
    for before, after in pairwise(starts):
        if not before < after < n_chars:
            raise ValueError(
                f"the splitter returned start {after} after {before} in a text of {n_chars} "
                "characters; starts must strictly increase and lie inside the text"
            )
    return starts


def _line_goes_on(tail: str, line_chars: int) -> bool:
    """Whether the line that ends leads over to the next one: a colon, a comma, a heading."""
    if tail.endswith((":", ",", ";")):
        return True
    line = tail[-line_chars:] if line_chars < _TAIL else ""
    return line.startswith("#") or (line.startswith("**") and line.rstrip(":").endswith("**"))


def _need(tail: str, line_chars: int) -> Need:
    """What must follow ``tail`` and white space for a new sentence to begin."""
    body = tail[: _CLOSING_RUN.search(tail).start()]  # type: ignore[union-attr]
    if not body or body[-1] not in _TERMINATORS | _WIDE_TERMINATORS:
        return "never"
    if body.endswith(("..", "…")):
        return "not_lower"
    if body[-1] == "!":
        return _need_after_factorial(body[:-1])
    closed = len(body) < len(tail)
    if body[-1] != ".":
        return "not_lower" if closed else "always"
    line = body[-line_chars:-1] if line_chars < len(body) else body[:-1]
    need = _need_after_stop(body[:-1], line if line_chars <= _TAIL else "")
    return "not_lower" if closed and need == "always" else need


def _need_after_factorial(before: str) -> Need:
    is_word = len(before) > 1 and before[-2:].isalpha()
    return "always" if is_word or not (before[-1:].isalnum() or before[-1:] == ")") else "upper"


def _need_after_stop(before: str, line: str) -> Need:
    if (line and _LIST_MARKER.fullmatch(line)) or _INLINE_NUMBER.search(before):
        return "never"
    words = _LAST_WORDS.search(before)
    if words is None:
        return "always"
    previous, word = words[1] or "", words[2]
    if word.lower() in _ABBREVIATIONS:
        return "never"
    if word.lower() in _WEAK_ABBREVIATIONS:
        return "not_lower"
    if word.lower() in _BEFORE_NUMBER:
        return "not_digit"
    return "never" if _is_initial(previous, word) else "always"


def _is_initial(previous: str, word: str) -> bool:
    if len(word) != 1 or not word.isupper():
        return False
    if len(previous) == 2 and previous[0].isupper() and previous[1] == ".":
        return True
    return previous.istitle() and previous.isalpha() and previous.lower() not in _NOT_NAMES


def _fits(need: Need, char: str) -> bool:
    if need == "never" or char in _CONTINUERS:
        return False
    if need == "not_lower":
        return not char.islower()
    if need == "not_digit":
        return not char.isdigit()
    return char.isupper() if need == "upper" else True
