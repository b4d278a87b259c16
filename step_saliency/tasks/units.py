"""Units behind a value: percent, degrees, currencies, lengths, times; words that are counted."""

import re
from fractions import Fraction
from itertools import pairwise

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
    "mile": ("inch", 63360),
    "mg": ("g", Fraction(1, 1000)),
    "g": ("g", 1),
    "gram": ("g", 1),
    "kg": ("g", 1000),
    "kilogram": ("g", 1000),
    "pound": ("pound", 1),
    "lb": ("pound", 1),
    "ml": ("l", Fraction(1, 1000)),
    "l": ("l", 1),
    "liter": ("l", 1),
    "s": ("s", 1),
    "sec": ("s", 1),
    "second": ("s", 1),
    "min": ("s", 60),
    "minute": ("s", 60),
    "h": ("s", 3600),
    "hour": ("s", 3600),
    "day": ("s", 86400),
    "week": ("s", 604800),
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
_MEASURED = re.compile(r"(\d+(?:\.\d+)?)\s*([a-zA-Z]+)")
_SUM = re.compile(rf"{_MEASURED.pattern}(?:\s*,?\s*(?:and\s+)?{_MEASURED.pattern})+")


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
    if not _SUM.fullmatch(text):
        return []
    parts = [(Fraction(n), _singular(unit.lower())) for n, unit in _MEASURED.findall(text)]
    measures = [measure for _, unit in parts if (measure := _measure(unit))]
    kinds, sizes = {kind for kind, _ in measures}, [size for _, size in measures]
    if len(measures) < len(parts) or len(kinds) > 1 or any(a <= b for a, b in pairwise(sizes)):
        return []
    total = sum(n * size for (n, _), size in zip(parts, sizes, strict=True))
    return [f"{total / size} {unit}" for (_, unit), size in zip(parts, sizes, strict=True)]


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
