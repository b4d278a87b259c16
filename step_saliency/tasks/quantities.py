"""Numbers with their units: 5 cm against 50 mm, 50% against 0.5, 3 million against 3000000.

What cannot be decided is None, as of `numbers`.
"""

import re
from dataclasses import replace
from itertools import product, starmap

from step_saliency.tasks.numbers import Number, equal_numbers, is_misspelled, read_number
from step_saliency.tasks.units import SIZES, factor, in_one_unit, is_percent, split_unit

_DECIMAL_COMMA = re.compile(r"([-+]?)(\d{1,3}(?:\.\d{3})+|\d+),(\d+)(?![\d,])(.*)", re.DOTALL)


def same_quantities(gold: str, given: str) -> tuple[bool | None, bool]:
    """Verdict on two numbers with their units, and whether they are numbers."""
    sums = in_one_unit(gold), in_one_unit(given)
    if any(sums):
        pairs = product(sums[0] or [gold], sums[1] or [given])
        found = [verdict for verdict, applies in starmap(same_quantities, pairs) if applies]
        return True if True in found else None if None in found else False, bool(found)
    sides = [(read_number(text), *split_unit(text)) for text in (gold, given)]
    numbers = [number or read_number(body) for number, body, _ in sides]
    if numbers[0] is not None and numbers[0].base is not None and is_misspelled(given):
        return False, True
    units = ["" if number else unit for number, _, unit in sides]
    if numbers[0] is None or numbers[1] is None:
        return None, False
    verdict = _measured(*_in_full(numbers[0], units[0]), *_in_full(numbers[1], units[1]))
    if not verdict and _measured(numbers[0], units[0], numbers[1], units[1]):
        return None, True  # 3 against 3 million: the question may ask for millions
    return verdict, True


def _in_full(number: Number, unit: str) -> tuple[Number, str]:
    """A number with the word of size that stands before its unit: 3 million is 3000000."""
    word, _, rest = unit.partition(" ")
    if word not in SIZES:
        return number, unit
    return _in_full(replace(number, value=number.value * SIZES[word], decimals=None), rest)


def _measured(gold: Number, gold_unit: str, given: Number, given_unit: str) -> bool | None:
    if is_percent(gold_unit) != is_percent(given_unit) and not (gold_unit and given_unit):
        return _percents(gold, gold_unit, given)
    if {gold_unit, given_unit} == {"cent", ""} and not equal_numbers(gold, given):
        cents, dollars = (gold, given) if gold_unit else (given, gold)
        return cents.value == 100 * dollars.value
    scale = factor(gold_unit, given_unit)
    if scale is False:
        return False
    if scale is None:
        return None if equal_numbers(gold, given) else False
    if scale == 1:
        return equal_numbers(gold, given)
    return gold.value == given.value * scale


def _percents(gold: Number, gold_unit: str, given: Number) -> bool | None:
    """One side has a percent sign: 50% is 0.5, and is written 50 where the sign is left out."""
    hundredth = gold.value / 100 if is_percent(gold_unit) else gold.value
    other = given.value if is_percent(gold_unit) else given.value / 100
    if hundredth == other:
        return True
    if equal_numbers(gold, given):
        return True if abs(gold.value) >= 1 else None
    return False


def with_point(text: str) -> str:
    """A number with a decimal comma (3,5 or 1.234,5) with a point; 1,234 has none."""
    match = _DECIMAL_COMMA.fullmatch(text)
    if match is None or re.match(r"\s*,", match[4]):
        return text
    sign, whole, decimals, rest = match.groups()
    groups = len(decimals) == 3 and "." not in whole and len(whole) <= 3 and whole[0] != "0"
    return text if groups else f"{sign}{whole.replace('.', '')}.{decimals}{rest}"
