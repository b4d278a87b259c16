"""Which parameters of a test run by day, and how many of the examples that are drawn for one."""

from collections.abc import Iterable
from typing import Any

import pytest

BY_DAY = 4
"""One in so many of the examples of a property is drawn by day."""


def examples(n: int) -> int:
    """How many examples of a property are drawn now: all with ``--nightly all``.

    Args:
        n: All of them.
    """
    return n if is_night else n // BY_DAY


is_night = False
"""Whether all nightly tests are asked for; `conftest` says it before tests are imported."""


def mostly_at_night(values: Iterable[Any], *by_day: Any) -> list[Any]:
    """Parameters of a test of which a few run each time, and the others with the nightly tests.

    Args:
        values: All of them; pairs and longer tuples are arguments of one case.
        by_day: Those that run each time.
    """
    values = list(values)
    unknown = [value for value in by_day if value not in values]
    if unknown:
        raise ValueError(f"{unknown} are not among {values}")
    return [
        value if value in by_day else pytest.param(*_arguments(value), marks=pytest.mark.nightly)
        for value in values
    ]


def _arguments(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)
