"""Units behind a value: percent, degrees, currencies, lengths, times; words that are counted."""

import re
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import pairwise
from typing import NamedTuple

_NAMES: dict[str, tuple[str, int | Fraction]] = {
    "%": ("%", 1),
    "percent": ("%", 1),
    "percentage": ("%", 1),
    "pct": ("%", 1),
    "degree": ("degree", 1),
    "deg": ("degree", 1),
    "radian": ("radian", 1),
    "rad": ("radian", 1),
    "dollar": ("dollar", 1),
    "usd": ("dollar", 1),
    "cent": ("dollar", Fraction(1, 100)),
    "euro": ("euro", 1),
    "mm": ("m", Fraction(1, 1000)),
    "millimeter": ("m", Fraction(1, 1000)),
    "cm": ("m", Fraction(1, 100)),
    "centimeter": ("m", Fraction(1, 100)),
    "m": ("m", 1),
    "meter": ("m", 1),
    "km": ("m", 1000),
    "kilometer": ("m", 1000),
    "inch": ("inch", 1),
    "in": ("inch", 1),
    "ft": ("inch", 12),
    "foot": ("inch", 12),
    "feet": ("inch", 12),
    "yard": ("inch", 36),
    "yd": ("inch", 36),
    "mile": ("inch", 63360),
    "mg": ("g", Fraction(1, 1000)),
    "g": ("g", 1),
    "gram": ("g", 1),
    "kg": ("g", 1000),
    "kilogram": ("g", 1000),
    "pound": ("pound", 1),
    "lb": ("pound", 1),
    "ounce": ("pound", Fraction(1, 16)),
    "oz": ("pound", Fraction(1, 16)),
    "ml": ("l", Fraction(1, 1000)),
    "l": ("l", 1),
    "liter": ("l", 1),
    "s": ("s", 1),
    "sec": ("s", 1),
    "second": ("s", 1),
    "min": ("s", 60),
    "minute": ("s", 60),
    "h": ("s", 3600),
    "hr": ("s", 3600),
    "hour": ("s", 3600),
    "day": ("s", 86400),
    "week": ("s", 604800),
    "month": ("month", 1),
    "yr": ("month", 12),
    "year": ("month", 12),
}
_SPEEDS = {"mph": "mile/hour", "kph": "km/hour"}
SIZES = {
    "dozen": 12,
    "hundred": 100,
    "thousand": 1000,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
}
"""Words of size behind a number."""
_NO_UNIT = frozenset(
    [
        "and",
        "or",
        "to",
        "pi",
        "sqrt",
        "sin",
        "cos",
        "tan",
        "cot",
        "sec",
        "log",
        "ln",
        "exp",
        "mod",
        "if",
        "for",
        "with",
        "is",
        "are",
        "was",
        "base",
        "in",
        "not",
    ]
)
_WORD = r"(?:[a-zA-Z]{2,}|[mgslh])"
_TRAILING = re.compile(
    rf"(?P<body>.*?[\d)}}\]a-z.])\s*(?P<unit>%|(?<=[^a-zA-Z\\])(?<=\s){_WORD}"
    rf"(?:(?:\s*/\s*|\s+)(?:per\s+)?{_WORD})*\.?(?:\s*\^\s*\{{?[-\d]\}}?)?)",
    re.DOTALL,
)
_ATTACHED = re.compile(r"(?P<body>[-\d.,/ ]*\d)(?P<unit>(?:mm|cm|km|kg|mg|ml|ft|mph|in|deg)\b.*)")
_PERCENT = "%"
_MEASURED = re.compile(r"(\d{1,3}(?:,\d{3})+|\d+(?:\.\d+)?)\s*([a-zA-Z]+)\.?")
_SUM = re.compile(rf"{_MEASURED.pattern}(?:\s*,?\s*(?:and\s+)?{_MEASURED.pattern})+")
_PRIMES = re.compile(r"(\d+)\s*['’′]\s*(\d+(?:\.\d+)?)\s*(?:[\"”″]|''|’’|′′)")
"""Feet and inches, as heights are written."""
_QUANTITIES = ("s", "month", "m", "inch", "g", "pound")
"""Times, lengths and weights."""
_NO_QUANTITY = re.compile(r"\s*(?:[\^²³/]|-[a-zA-Z]|per\b|(?:an?|each|every|squared|cubed)\b)")
"""What makes something else of a unit before it: a power or a rate."""
_BETWEEN = re.compile(r"\s*,?\s*(?:and\s+)?")
"""What may stand between the parts of a sum."""


def split_unit(text: str) -> tuple[str, str]:
    """A tidy answer as value and unit; the unit is empty where there is none."""
    match = _TRAILING.fullmatch(text) or _ATTACHED.fullmatch(text)
    if match is None or not re.search(r"[\d\\]", match["body"]):
        return text, ""
    words = re.findall(r"[a-zA-Z]+", match["unit"])
    if words and words[0].lower() in _NO_UNIT and words[0].lower() not in ("in", "sec"):
        return text, ""
    body = match["body"].strip()
    if match["unit"] == "degrees" and body.endswith("%"):
        return text, ""
    return body, _one_spelling(match["unit"])


def _one_spelling(unit: str) -> str:
    square = re.sub(r"[\s{}.]", "", unit) if "^" in unit else unit.strip(" .")
    square = re.sub(r"^sq(?:uare)?\s+(\w+)", r"\1^2", square)
    square = re.sub(r"^cu(?:bic)?\s+(\w+)", r"\1^3", square)
    return re.sub(r"[a-zA-Z]+", lambda m: _singular(m[0].lower()), square)


def _singular(word: str) -> str:
    word = {"inches": "inch", "metre": "meter", "litre": "liter"}.get(word, word)
    word = re.sub(r"metre(s?)$", r"meter\1", re.sub(r"litre(s?)$", r"liter\1", word))
    return word[:-1] if word.endswith("s") and len(word) > 2 and word[-2] != "s" else word


def factor(gold: str, given: str) -> Fraction | bool | None:
    """By what the given value has to be multiplied to be in the gold answer's unit.

    Returns:
        A factor; False if the two measure different things; None if they are words of which that
        cannot be said.
    """
    if gold == given or not gold or not given:
        return Fraction(1)
    left, right = _measure(gold), _measure(given)
    if left is None or right is None:
        return None
    if left[0] != right[0]:
        return False
    return right[1] / left[1]


def in_one_unit(text: str) -> list[str]:
    """A sum such as ``2 hours and 30 minutes`` in each of its units; none for anything else."""
    heights = _PRIMES.fullmatch(text)
    if heights:
        return in_one_unit(f"{heights[1]} ft {heights[2]} inch")
    if not _SUM.fullmatch(text):
        return []
    return [f"{number} {unit}" for number, unit in _in_units(_MEASURED.findall(text))]


def _in_units(parts: Sequence[tuple[str, str]]) -> list[tuple[Fraction, str]]:
    """The sum of measured numbers in each of their units; none where they make no sum."""
    names = [_singular(unit.lower()) for _, unit in parts]
    if "m" in names[1:] and (measure := _measure(names[0])) and measure[0] == "s^1":
        names = ["min" if name == "m" else name for name in names]  # 3h 20m
    measures = [measure for name in names if (measure := _measure(name))]
    kinds, sizes = {kind for kind, _ in measures}, [size for _, size in measures]
    if len(measures) < len(parts) or len(kinds) > 1 or any(a <= b for a, b in pairwise(sizes)):
        return []
    numbers = [Fraction(number.replace(",", "")) for number, _ in parts]
    total = sum(number * size for number, size in zip(numbers, sizes, strict=True))
    return [(total / size, name) for name, size in zip(names, sizes, strict=True)]


class Quantity(NamedTuple):
    """A time, length or weight in a sentence.

    Attributes:
        start: Where it begins.
        stop: Where it ends, behind its unit.
        is_sum: Whether it is a sum of units: 3 hours and 20 minutes.
    """

    start: int
    stop: int
    is_sum: bool


def quantities(text: str) -> Iterator[Quantity]:
    """The times, lengths and weights of a sentence.

    What a unit with a power measures, or a rate, is none of them.
    """
    yield from (Quantity(*match.span(), True) for match in _PRIMES.finditer(text))
    run: list[re.Match[str]] = []
    for match in _MEASURED.finditer(text):
        if not _is_quantity(match):
            continue
        goes_on = bool(run) and _goes_on(run, match)
        if not goes_on and (_is_word(match) or _is_part(match)):
            continue
        if not goes_on:
            yield from _whole(run)
            run = []
        run.append(match)
    yield from _whole(run)


def _is_quantity(match: re.Match[str]) -> bool:
    known = _NAMES.get(_singular(match[2].lower()))
    return known is not None and known[0] in _QUANTITIES


def _goes_on(run: Sequence[re.Match[str]], match: re.Match[str]) -> bool:
    between = match.string[run[-1].end() : match.start()]
    parts = [(one[1], one[2]) for one in (*run, match)]
    return _BETWEEN.fullmatch(between) is not None and bool(_in_units(parts))


def _is_word(match: re.Match[str]) -> bool:
    """Whether ``in`` is no unit but a word that others follow: 5 in the box."""
    return match[2].lower() == "in" and re.match(r"\s+\w", match.string[match.end() :]) is not None


def _is_part(match: re.Match[str]) -> bool:
    """Whether the number is the end of a longer one, of a fraction or a name."""
    before = match.string[: match.start()][-1:]
    return re.match(r"[\w.,^_{/]", before) is not None


def _whole(run: Sequence[re.Match[str]]) -> Iterator[Quantity]:
    if run and not _NO_QUANTITY.match(run[-1].string, run[-1].end(2)):
        yield Quantity(run[0].start(), run[-1].end(2), len(run) > 1)


def _measure(unit: str) -> tuple[str, Fraction] | None:
    per = re.split(r"\s*/\s*|\s+per\s+", _SPEEDS.get(unit, unit))
    if len(per) == 2:
        above, below = _measure(per[0]), _measure(per[1])
        return (f"{above[0]}/{below[0]}", above[1] / below[1]) if above and below else None
    name, _, power = unit.partition("^")
    if name not in _NAMES:
        return None
    kind, size = _NAMES[name]
    exponent = int(power) if re.fullmatch(r"-?\d", power) else 1
    return f"{kind}^{exponent}", Fraction(size) ** exponent


def is_percent(unit: str) -> bool:
    """Whether a unit is the percent sign, which gold answers tend to leave out."""
    return unit in (_PERCENT, "percent", "percentage", "pct")
