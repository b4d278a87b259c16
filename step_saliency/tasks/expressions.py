"""Expressions by their value, by `symbolic`, with what it would read wrongly kept away from it."""

import re

from step_saliency.tasks.numbers import read_number
from step_saliency.tasks.symbolic import equal_expressions
from step_saliency.tasks.units import factor, split_unit
from step_saliency.tasks.words import has_prose

_SHORT_WORD = re.compile(
    r"(?<![\\a-zA-Z])(?:of|in|to|or|at|by|as|is|it|if|on|so|an)(?=\s+[a-zA-Z\d])"
    r"|(?<=[\d%])\s+a(?=\s+[a-z]{2})"
)
_SUBSCRIPTED = re.compile(r"\d\s*_")


def equal_values(gold: str, given: str) -> bool | None:
    """Whether two expressions, with their units, have one value; None where it cannot be said."""
    (left, unit), (right, given_unit) = split_unit(gold), split_unit(given)
    if has_prose(left) or has_prose(right) or any(map(_SHORT_WORD.search, (gold, given))):
        return None
    if _SUBSCRIPTED.search(left) or _SUBSCRIPTED.search(right):
        return None  # math-verify drops the base of a number
    scale = factor(unit, given_unit)
    if scale is False:
        return False
    if scale is not None and scale != 1:
        right = rf"\frac{{{scale.numerator}}}{{{scale.denominator}}} \cdot ({right})"
    verdict = equal_expressions(_latex(left), _latex(right))
    if {unit, given_unit} == {"degree", ""} and "\\pi" in left + right:
        return verdict or None  # the other side may be in radians
    return None if verdict and scale is None else verdict


def _latex(text: str) -> str:
    """An expression in which numbers are written so that nothing in them is read as a product."""
    number = read_number(text)
    if number is not None and number.base is None:
        value = number.value
        if number.decimals is None and value.denominator != 1:
            return rf"\frac{{{value.numerator}}}{{{value.denominator}}}"
    return re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)
