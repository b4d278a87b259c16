r"""Numbers as they are written, exactly: 1,234 · 3/5 · 2 2/3 · 1.5e3 · 6.17% · 2516_7 · 5 cm.

Two numbers are the same answer if their values are equal as fractions, or if one of them is the
other rounded (or cut) to six or more digits. Bases and units are part of a number; a percent sign,
a currency or a unit that only one of the two has may be left out.

What cannot be decided is None: a base that one side leaves out, the same value in another base, two
unit words of which neither is known.
"""

import re
from dataclasses import dataclass
from fractions import Fraction

_DIGITS = r"(?:\d{1,3}(?:,\d{3})+|\d{1,3}(?: \d{3})+|\d+)"
_DECIMAL = rf"(?:{_DIGITS}(?:\.\d+)?|\.\d+)\.?"
_GROUP = rf"\s*(?:\{{\s*(-?\s*{_DECIMAL})\s*\}}|(\d))"
_FRACTION = re.compile(rf"(-?)\s*({_DIGITS})?\s*\\frac{_GROUP}{_GROUP}")
_MIXED = re.compile(rf"(-?)\s*({_DIGITS})(?:\s+|\s*-\s*|\s+and\s+)(\d+)\s*/\s*(\d+)")
_RATIO = re.compile(rf"(-?)\s*({_DECIMAL})\s*/\s*(-?\s*{_DECIMAL})")
_POWER = re.compile(
    rf"([-+]?)\s*(?:({_DECIMAL})\s*(?:\\times|\\cdot|\*|x)\s*)?10\s*\^\s*\{{?\s*([-+]?\d+)\s*\}}?"
)
_SCIENTIFIC = re.compile(rf"([-+]?)\s*({_DECIMAL})\s*[eE]\s*\^?\{{?([-+]?\d+)\}}?")
_SIMPLE = re.compile(rf"([-+]?)\s*({_DECIMAL})")
_REPEATING = re.compile(
    r"([-+]?)\s*(\d*)\.(\d*)\s*\\(?:overline|bar|dot)\s*(?:\{\s*(\d+)\s*\}|(\d))"
)
_BASED = re.compile(
    r"([-+]?)\s*([0-9A-Fa-f]+)\s*(?:_\s*\{?\s*(?:base\s*)?|\(?\s*(?:in\s+)?base\s*)(\w+)\s*[})]*"
)
_WORDS = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
    "twenty",
]
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_SIZES = {"thousand": 1000, "million": 10**6, "billion": 10**9}
_PARTS = {
    "half": 2,
    "third": 3,
    "quarter": 4,
    "fourth": 4,
    "fifth": 5,
    "sixth": 6,
    "seventh": 7,
    "eighth": 8,
    "ninth": 9,
    "tenth": 10,
}
MAX_DIGITS = 1000
MAX_EXPONENT = 4000
ROUNDED_DIGITS = 6
"""Digits from which on a rounded number stands for the exact one."""


@dataclass(frozen=True)
class Number:
    """A number as it is written.

    Attributes:
        value: Its value (read in base ten).
        decimals: Digits behind the point; None for what is written exactly.
        digits: Significant digits that are written.
        base: Base that is written with it.
        figures: The digits as written, where there is a base.
    """

    value: Fraction
    decimals: int | None = None
    digits: int = 0
    base: int | None = None
    figures: str = ""


def read_number(text: str) -> Number | None:
    """The number that a tidy text is, without unit; None if it is something else."""
    text = text.strip()
    if not text or len(text) > MAX_DIGITS:
        return None
    in_words = _number_in_words(text.lower())
    if in_words is not None:
        return Number(Fraction(in_words))
    while text.startswith("(") and text.endswith(")") and text.count("(") == 1:
        if "," in text:
            return None  # (1,234) is a pair
        text = text[1:-1].strip()
    for pattern, reader in _READERS:
        match = pattern.fullmatch(text)
        if match:
            try:
                return reader(match)
            except (ValueError, ZeroDivisionError):
                return None
    return None


def _number_in_words(text: str) -> Fraction | None:
    """A number such as ``one hundred and nine`` or ``two thirds``; None for anything else."""
    words = text.replace("-", " ").split()
    part = words[-1].removesuffix("s") if words else ""
    if len(words) == 2 and words[0] in _WORDS[1:10] and part in _PARTS:
        return Fraction(_WORDS.index(words[0]), _PARTS[part])
    words = [word for word in words if word != "and"]
    value = _sum_of_words(words)
    return Fraction(value) if value is not None and words == _spelled(value).split() else None


def _sum_of_words(words: list[str]) -> int | None:
    total, group = 0, 0
    for word in words:
        if word in _WORDS:
            group += _WORDS.index(word)
        elif word in _TENS:
            group += 10 * (_TENS.index(word) + 2)
        elif word == "hundred":
            group *= 100
        elif word in _SIZES:
            total, group = total + group * _SIZES[word], 0
        else:
            return None
    return total + group if words else None


def _spelled(value: int) -> str:
    """A whole number in words, which is how a sum of words is checked."""
    for word, size in reversed(_SIZES.items()):
        if value >= size:
            rest = _spelled(value % size) if value % size else ""
            return f"{_spelled(value // size)} {word} {rest}".strip()
    if value >= 100:
        rest = _spelled(value % 100) if value % 100 else ""
        return f"{_WORDS[value // 100]} hundred {rest}".strip()
    if value <= 20:
        return _WORDS[value]
    tens = _TENS[value // 10 - 2]
    return f"{tens} {_WORDS[value % 10]}" if value % 10 else tens


def _signed(sign: str, value: Fraction) -> Fraction:
    return -value if sign == "-" else value


def _value(digits: str) -> Fraction:
    return Fraction(re.sub(r"[,\s]", "", digits).rstrip(".") or "0")


def _fraction(match: re.Match[str]) -> Number:
    sign, whole, *parts = match.groups()
    above, below = (_value(braced or bare) for braced, bare in (parts[:2], parts[2:]))
    return Number(_signed(sign, (_value(whole) if whole else 0) + above / below))


def _mixed(match: re.Match[str]) -> Number:
    sign, whole, above, below = match.groups()
    return Number(_signed(sign, _value(whole) + Fraction(int(above), int(below))))


def _ratio(match: re.Match[str]) -> Number:
    return Number(_signed(match[1], _value(match[2]) / _value(match[3])))


def _scaled(match: re.Match[str]) -> Number:
    exponent = int(match[3])
    if abs(exponent) > MAX_EXPONENT:
        raise ValueError(exponent)
    power = Fraction(10) ** exponent
    return Number(_signed(match[1], (_value(match[2]) if match[2] else 1) * power))


def _simple(match: re.Match[str]) -> Number:
    _, point, behind = match[2].rstrip(".").partition(".")
    figures = re.sub(r"\D", "", match[2]).lstrip("0")
    value = _signed(match[1], _value(match[2]))
    return Number(value, len(behind) if point else None, len(figures))


def _repeating(match: re.Match[str]) -> Number:
    sign, whole, once, *again = match.groups()
    digits = again[0] or again[1]
    period = Fraction(int(digits), 10 ** len(once) * (10 ** len(digits) - 1))
    return Number(_signed(sign, Fraction(f"{whole or 0}.{once or 0}") + period))


def _based(match: re.Match[str]) -> Number:
    name = match[3].lower()
    base = _WORDS.index(name) if name in _WORDS else int(name)
    if base < 2:
        raise ValueError(base)  # 1_000 is no number in base 0, which Python takes for any
    value = Fraction(int(match[2], base))
    return Number(_signed(match[1], value), base=base, figures=match[2].lower())


def is_misspelled(text: str) -> bool:
    """Whether a text has digits that the base written with them lacks, such as 205_5."""
    match = _BASED.fullmatch(text.strip())
    if match is None or not match[3].isdecimal() or not 2 <= int(match[3]) <= 36:
        return False
    return any(int(digit, 36) >= int(match[3]) for digit in match[2])


_READERS = (
    (_SIMPLE, _simple),
    (_SCIENTIFIC, _scaled),
    (_POWER, _scaled),
    (_MIXED, _mixed),
    (_RATIO, _ratio),
    (_FRACTION, _fraction),
    (_REPEATING, _repeating),
    (_BASED, _based),
)


def equal_numbers(gold: Number, given: Number) -> bool | None:
    """Whether two numbers are the same answer; None where a base is left out or another one."""
    if gold.base != given.base:
        if None not in (gold.base, given.base):
            return None if gold.value == given.value else False
        based, plain = (gold, given) if given.base is None else (given, gold)
        same_figures = plain.value.denominator == 1 and based.figures == str(abs(plain.value))
        return None if same_figures or based.value == plain.value else False
    if gold.value == given.value:
        return True
    return _is_rounding(gold, given) or _is_rounding(given, gold)


def _is_rounding(short: Number, long: Number) -> bool:
    """Whether one number is the other, rounded or cut behind its last digit."""
    if short.decimals is None or short.digits < ROUNDED_DIGITS or short.base is not None:
        return False
    if long.decimals is not None and long.decimals <= short.decimals:
        return False
    if long.decimals is None and long.value.denominator == 1:
        return False
    return abs(short.value - long.value) < Fraction(1, 10**short.decimals)
