"""How numbers are written in tables and labels."""

import math
from collections.abc import Callable

import pandas as pd


def number(value: float, digits: int = 3, *, signed: bool = False) -> str:
    """A number with a minus sign that is one; a dash where it is missing."""
    if pd.isna(value):
        return "–"
    text = f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"
    if float(text) == 0:
        text = text.lstrip("+-")
    return text.replace("-", "−")


def p_value(value: float) -> str:
    """A p-value: three digits, or that it is smaller; a dash where nothing was tested."""
    if pd.isna(value):
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def counted(table: pd.DataFrame) -> str:
    """Problems that estimates are of, ``n = 12``, or of fewest to most, ``n = 9–12``."""
    fewest, most = int(table["n"].min()), int(table["n"].max())
    return f"n = {most:,}" if fewest == most else f"n = {fewest:,}–{most:,}"


def with_interval(
    digits: int = 3, *, signed: bool = False, prefix: str = ""
) -> Callable[[pd.Series], str]:
    """Writes ``estimate [lower, upper]`` of a row, of columns that begin with a prefix."""

    def spelled(row: pd.Series) -> str:
        names = (f"{prefix}{name}" for name in ("estimate", "lower", "upper"))
        value, lower, upper = (
            number(row.get(name, math.nan), digits, signed=signed) for name in names
        )
        return value if lower == "–" else f"{value} [{lower}, {upper}]"

    return spelled
