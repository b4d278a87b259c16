"""Does a sentence end here? What the text before says, and what must follow.

A stop ends a sentence unless it is part of a list number, an initial or an abbreviation. Where the
text before leaves it open (``etc.``, a closing quote, an ellipsis), the case of the next character
decides.

When it misleads: an abbreviation that is not in the lists below ends a sentence.
"""

import re
from typing import Literal

Need = Literal["never", "always", "not_lower", "not_digit", "upper"]
TAIL = 64
"""How many characters before a place are read."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


TERMINATORS = frozenset(".!?…।॥؟۔")
WIDE_TERMINATORS = frozenset("。！？｡")
# What cannot begin a sentence: the text goes on.
CONTINUERS = frozenset(",;:)]}%=<>≤≥≈≠+/^×÷·|")
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
_INLINE_NUMBER = re.compile(r"(?:^|[:.;]\s+)\d{1,2}$")
_LAST_WORDS = re.compile(r"(?:([^\s(\[{\"'“]+)\s+)?[(\[{\"'“*_]*([^\s(\[{\"'“*_]+)$")
_CLOSING_RUN = re.compile(r"(?:\\[)\]]|[)\]}\"'*_`”’»›）】」』》〉$])*$")


def line_goes_on(tail: str, line_chars: int) -> bool:
    """Whether the line that ends leads over to the next one: a colon, a comma, a heading."""
    if tail.endswith((":", ",", ";")):
        return True
    line = tail[-line_chars:] if line_chars < TAIL else ""
    return line.startswith("#") or (line.startswith("**") and line.rstrip(":").endswith("**"))


def need_after(tail: str, line_chars: int) -> Need:
    """What must follow ``tail`` and white space for a new sentence to begin."""
    body = tail[: _CLOSING_RUN.search(tail).start()]  # type: ignore[union-attr]
    if not body or body[-1] not in TERMINATORS | WIDE_TERMINATORS:
        return "never"
    if body.endswith(("..", "…")):
        return "not_lower"
    if body[-1] == "!":
        return _need_after_factorial(body[:-1])
    closed = len(body) < len(tail)
    if body[-1] != ".":
        return "not_lower" if closed else "always"
    line = body[-line_chars:-1] if line_chars < len(body) else body[:-1]
    need = _need_after_stop(body[:-1], line if line_chars <= TAIL else "")
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


def fits(need: Need, char: str) -> bool:
    """Whether a new sentence may begin with this character."""
    if need == "never" or char in CONTINUERS:
        return False
    if need == "not_lower":
        return not char.islower()
    if need == "not_digit":
        return not char.isdigit()
    return char.isupper() if need == "upper" else True
