"""Expressions by their value, by `symbolic`, with what it would read wrongly kept away from it."""

import re
from math import gcd

from step_saliency.tasks.numbers import read_number
from step_saliency.tasks.symbolic import equal_expressions
from step_saliency.tasks.units import factor, split_unit
from step_saliency.tasks.words import has_prose

_SHORT_WORD = re.compile(
    r"(?<![\\a-zA-Z])(?:of|in|to|or|at|by|as|is|it|if|on|so|an)(?=\s+[a-zA-Z\d])"
    r"|(?<=[\d%])\s+a(?=\s+[a-z]{2})"
)
_SUBSCRIPTED = re.compile(r"\d\s*_")
_CLOCK = re.compile(r"\d{1,2}:[0-5]\d")
_BRACES = r"\{(?:[^{}]|\{[^{}]*\})*\}"
_FACTOR = re.compile(
    rf"(?:(?<![\w.\\^}}])(?:\d+(?:,\d{{3}})*(?:\.\d*)?|\.\d+)|\)|\]"
    rf"|\\(?:frac|binom)\s*(?:{_BRACES}|\d)\s*(?:{_BRACES}|\d)"
    rf"|\\sqrt\s*(?:\[[^\[\]]*\])?\s*(?:{_BRACES}|\d)|\\pi)"
    rf"(?:\s*\^\s*(?:{_BRACES}|\d))?!?\s*(?=[(\[])"
)
"""A number, bracket, fraction or root with another bracket directly behind it: a factor of it."""
_BEHIND_BRACKET = re.compile(r"(?<=\))\s*(?=\d|\\frac|\\sqrt|\\pi)")
_PAIR = re.compile(r"[(\[][^()\[\]]*,[^()\[\]]*[)\]]")


def equal_values(gold: str, given: str) -> bool | None:
    """Whether two expressions, with their units, have one value; None where it cannot be said."""
    (left, unit), (right, given_unit) = split_unit(gold), split_unit(given)
    if has_prose(left) or has_prose(right) or any(map(_SHORT_WORD.search, (gold, given))):
        return None
    if _SUBSCRIPTED.search(left) or _SUBSCRIPTED.search(right):
        return None  # math-verify drops the base of a number
    if left != right and _CLOCK.fullmatch(left) and _CLOCK.fullmatch(right):
        return False if _quotient(left) != _quotient(right) else None  # a ratio, or the time
    scale = factor(unit, given_unit)
    if scale is False:
        return False
    if scale is not None and scale != 1:
        right = rf"\frac{{{scale.numerator}}}{{{scale.denominator}}} \cdot ({right})"
    verdict = equal_expressions(_latex(left), _latex(right))
    if {unit, given_unit} == {"degree", ""} and "\\pi" in left + right:
        return verdict or None  # the other side may be in radians
    return None if verdict and scale is None else verdict


def _quotient(text: str) -> tuple[int, int]:
    """A ratio in its lowest terms."""
    above, below = map(int, text.split(":"))
    divisor = gcd(above, below) or 1
    return above // divisor, below // divisor


def _with_dots(text: str) -> str:
    """Products by juxtaposition with their sign: math-verify reads 2(3) as a mixed number.

    What holds a pair (points, intervals) and the arguments of functions are left as they are.
    """
    if _PAIR.search(text):
        return text
    dotted = _FACTOR.sub(lambda match: f"{match[0].rstrip()} \\cdot ", text)
    return _BEHIND_BRACKET.sub(r" \\cdot ", dotted)


def _latex(text: str) -> str:
    """An expression in which numbers are written so that nothing in them is read as a product."""
    number = read_number(text)
    if number is not None and number.base is None:
        value = number.value
        if number.decimals is None and value.denominator != 1:
            return rf"\frac{{{value.numerator}}}{{{value.denominator}}}"
    return _with_dots(re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text))
