r"""Terms in prose: numbers with what belongs to them, as in "it is 2x + 3" or "about 3 × 10⁸ m/s".

A term is a run of numbers, single letters, signs and brackets that no word interrupts: operands
stand in it side by side or with an operator between them. A letter that stands apart ("a 5") and
a power behind a word ("cm^2") begin none.

When it misleads: two numbers with a dash between them ("pages 10-20") are read as a difference.
"""

import re
from collections.abc import Iterator

CJK = "[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]"
"""A character of Chinese, Japanese or Korean, which are written without spaces."""
NUMBER = (
    r"\d+(?:,\d{3})*(?:\.\d+(?:…|\.{2,3}|\\[lc]?dots)?|,\d+)?"
    r"(?:\s+\d+\s*/\s*\d+|\s*/\s*\d+(?:\.\d+)?|e[+-]?\d+|\s*(?:×|\*)\s*10\^\{?-?\d+\}?)?"
    r"(?:\s*\\?%)?"
)
"""A number without its sign."""
_LETTER = r"(?<![^\W\d_])[a-zA-Zα-ω](?![^\W\d_])"
_GROUP = r"(?:[^()\[\]{}\n\\a-zA-Z]|" + _LETTER + r"|\\[a-zA-Z]+|\\[,!; %]){0,80}"
_OPERAND = re.compile(
    r"\d{1,3}(?:,\\!\s?\d{3})+|\\begin\{(\w*matrix)\}.{0,200}?\\end\{\1\}"
    r"|\s?\\[dtc]?frac\s*\d+|\s?\\(?!text|mbox|math|quad|begin|end|[)\]])[a-zA-Z]+"
    rf"|{NUMBER}(?:(?<=\d):\d+)*(?:[ap]\.?m\b|[a-zA-Z]+)?|{_LETTER}"
    rf"|[(\[{{]{_GROUP}[)\]}}]|[()\[\]{{}}√∛π∞°!|^_½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺]",
    re.IGNORECASE,
)
_OPERATOR = re.compile(r"\s*[-+−–*/×·÷±=≈<>≤≥]\s*|(?<=\d)\s+:\s+(?=\d)")
_UNIT = re.compile(r"(?:[a-zA-Z]/[a-zA-Z]|[cdkm]?m|s)\^?\{?-?[\d²³]\}?")
_MEASURE = re.compile(
    r"\s*(?:\\(?:text|mbox|mathrm)\s*\{\s*)?[a-zA-Z]+(?:/[a-zA-Z]+)?\s*\}?\s*(?:\^\{?-?\d\}?|[²³])"
)
"""A unit with a power: 35 cm^2 is not 35 cm^3."""
_CLOCK = re.compile(r"\s+[ap]\.?m\b", re.IGNORECASE)
_VALUE = re.compile(r"(?<![a-zA-Z])\d|[π∞½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞]")
_SIGNS = " \t+*/×·÷=≈<>≤≥–"


def terms(text: str) -> Iterator[tuple[int, int]]:
    """Start and stop of each term of a text that holds a digit or a constant, in order."""
    position = 0
    while position < len(text):
        stop = _run_end(text, position)
        if stop > position:
            yield from _trimmed(text, position, stop)
        position = max(stop, position + 1)


def _run_end(text: str, position: int) -> int:
    """Where the operands and operators end that begin here."""
    while match := _OPERAND.match(text, position) or _OPERATOR.match(text, position):
        position = match.end()
    return position


def _trimmed(text: str, start: int, stop: int) -> Iterator[tuple[int, int]]:
    """The run without what only leads to it; nothing, if it is part of a word or a unit."""
    before = "" if text[start].isspace() or not start else text[start - 1]
    if text[start] in "^_²³" or before == "." or (before.isalpha() and not re.match(CJK, before)):
        return
    bare = re.sub(r"^(?:[-−]\s+|->\s*)", "", text[start:stop].lstrip(_SIGNS))
    start = stop - len(bare)
    bare = bare.rstrip(_SIGNS + "-−([{^_!")
    for opening, closing in ("()", "[]", "{}"):
        if bare.endswith(closing) and bare.count(opening) < bare.count(closing):
            bare = bare[:-1].rstrip()
        if bare.startswith(opening) and bare.count(opening) > bare.count(closing):
            start, bare = start + 1, bare[1:]
    if not _VALUE.search(bare) or _UNIT.fullmatch(bare):
        return
    behind = (_CLOCK if ":" in bare else _MEASURE).match(text, start + len(bare))
    yield start, behind.end() if behind else start + len(bare)
