"""Numbers as the page takes and shows them."""

import math
from collections.abc import Iterable
from typing import Any

import pandas as pd


def decimal(value: float) -> str:
    """Three digits with a sign; a dash where there is none."""
    return "–" if math.isnan(value) else f"{value:+.3f}".replace("-", "−")


def number(value: Any) -> float | None:
    """A number for JSON, to six digits; None where it is missing or not finite."""
    value = float("nan") if value is None or pd.isna(value) else float(value)
    return float(f"{value:.6g}") if math.isfinite(value) else None


def numbers(values: Iterable[Any]) -> list[float | None]:
    """Each of them as `number`."""
    return [number(value) for value in values]
