"""How numbers stand on the page: filters of its templates, and the rows of its tables."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

UNITS = [
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen"),
    "nineteen",
]
TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
UNKNOWN = "…"


def whole(value: float) -> str:
    """Rounded, with a comma between thousands."""
    return f"{round(value):,}"


def words(value: float, *, zero: str = "zero") -> str:
    """Rounded, in words below a hundred."""
    number = round(value)
    if not 0 < number < 100:
        return zero if number == 0 else whole(number)
    if number < len(UNITS):
        return UNITS[number]
    tens, rest = divmod(number, 10)
    return TENS[tens - 2] + (f"-{UNITS[rest]}" if rest else "")


def decimals(value: float, digits: int) -> str:
    """With so many digits after the point, and a minus sign as long as a dash."""
    return f"{value:.{digits}f}".replace("-", "−")


def percent(value: float) -> str:
    """A share as per cent."""
    return f"{value:.0%}"


def per_hundred(value: float) -> str:
    """A share as how many of a hundred."""
    return whole(100 * value)


def general(value: float) -> str:
    """A setting, as short as it can be written."""
    return f"{value:g}"


def up_to(value: float, step: float) -> str:
    """The next multiple of a step above."""
    return general(math.ceil(round(value / step, 6)) * step)


def times(value: float) -> str:
    """How many times as much."""
    number = round(value)
    return "twice" if number == 2 else f"{words(number)} times"


def millions(value: float) -> str:
    """In millions."""
    return f"{value / 1e6:.1f}M"


def layers(values: str | Iterable[int]) -> str:
    """Layers in words: "0 to 2", "6 and 7", "5"; given as numbers or as a table has them."""
    numbers = [int(n) for n in (values.split() if isinstance(values, str) else values)]
    if len(numbers) > 2 and numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"{numbers[0]} to {numbers[-1]}"
    *others, last = map(str, numbers)
    return f"{', '.join(others)} and {last}" if others else last


def estimate(row: Mapping[str, Any]) -> str:
    """Estimate with its interval."""
    numbers = (round(row[name], 4) + 0.0 for name in ("estimate", "lower", "upper"))
    return "{:+.3g} [{:+.3g}, {:+.3g}]".format(*numbers)


def p_value(row: Mapping[str, Any]) -> str:
    """Holm's where there is one; marked where it is of a single test; nothing where none was."""
    corrected, single = row.get("p_holm"), row.get("p", row.get("p_value"))
    if corrected is not None and not pd.isna(corrected):
        return f"{corrected:.2g}"
    return "" if single is None or pd.isna(single) else f"{single:.2g} †"


class _Fields(dict[str, Any]):
    """Values of a label's fields; what is not known is an ellipsis."""

    def __missing__(self, name: str) -> str:
        return UNKNOWN


def label(text: str, values: Mapping[str, Any]) -> str:
    """A text whose ``{column}`` fields are filled from a row."""
    return text.format_map(_Fields({name: _shown(name, v) for name, v in values.items()}))


def _shown(column: str, value: Any) -> Any:
    if column.endswith("_layers"):
        return layers(value) if value else UNKNOWN
    return general(value) if isinstance(value, float) else value


FILTERS = {
    function.__name__: function
    for function in (
        whole,
        words,
        decimals,
        percent,
        per_hundred,
        general,
        up_to,
        times,
        millions,
        layers,
    )
}
