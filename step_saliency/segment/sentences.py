"""Where does a sentence begin? The splitter ``sentence``.

A step begins with the first character other than white space that follows

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

from step_saliency.segment.enclosures import Fence, Mathematics
from step_saliency.segment.gaps import MIN_CHARS, width
from step_saliency.segment.sentence_ends import (
    TAIL,
    WIDE_TERMINATORS,
    Need,
    fits,
    line_goes_on,
    need_after,
)

_CLOSERS = frozenset(")]}\"'*_`”’»›）】」』》〉")
_LIST_NUMBER = re.compile(r"(?:^|\s)\d{1,3}[.)]$")
_BULLETS = frozenset("-*•‣◦▪●#|`")


class SentenceSplitter:
    """Sentences, as the head of this module defines them.

    Args:
        min_chars: A step shorter than this (spaces inside it included) does not close.
    """

    def __init__(self, min_chars: int = MIN_CHARS) -> None:
        self.min_chars = min_chars
        self.reset()

    def reset(self) -> None:
        self._fence = Fence()
        self._math = Mathematics()
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
            self._need = need_after(self._tail, self._line)
            number = self._line <= 5 and _LIST_NUMBER.search(self._tail)
            self._numbered = self._numbered or bool(number)
        if char == "\n" and not self._newlines:
            self._goes_on = line_goes_on(self._tail, self._line)
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
        return not self._table and fits(self._need, char)

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
            self._tail = (self._tail + " ")[-TAIL:]
            self._line += self._line > 0
            self._chars += self._chars > 0
        self._spaced = False
        self._newlines = 0
        before = self._tail[-1:]
        self._tail = (self._tail + char)[-TAIL:]
        self._line += 1
        self._chars += width(char)
        self._wide_end = char in WIDE_TERMINATORS or (self._wide_end and char in _CLOSERS)
        was_open = self._fence.open
        if self._fence.listens or char == "`":
            self._fence.push(char)
        if (self._math.listens or char in "\\$`") and not (was_open or self._fence.open):
            self._math.push(char, before)
