"""Reading single numbers out of the results: which table, which row, in which unit.

A `Source` names a table and the row values that are always the same there; a template adds those
that choose one row, and gets it as a mapping from column to value. Columns in the unit of the
estimate are scaled alike; ``bound`` is the end of the interval that is further from zero, and
``number`` what the name of the condition ends in (``top-4``: 4).
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

SCALED = ("estimate", "lower", "upper", "mean", "mean_reference", "detectable")


class NotRunError(LookupError):
    """A results folder or a table that is not there; its text is the name."""


@dataclass(frozen=True)
class Source:
    """Where a kind of number stands.

    Attributes:
        table: Results folder and table, such as ``"ablation/summary"``.
        where: Column values that all of its rows have; None stands for a missing value.
        scale: Factor on the numbers, 100 for percentage points.
        columns: Columns of a result, and what this table calls them where that is another name.
    """

    table: str
    where: Mapping[str, Any] = field(default_factory=dict)
    scale: float = 1.0
    columns: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Results:
    """Tables of one model.

    Attributes:
        path: Folder of results folders.
        suffix: What the names of this model's folders end in.
    """

    path: Path
    suffix: str = ""

    def table_name(self, source: Source) -> str:
        """Results folder and table of a source."""
        return source.table.replace("/", f"{self.suffix}/")

    def row(self, source: Source, **where: Any) -> dict[str, Any]:
        """The row of a source with these values.

        Raises:
            NotRunError: the table is missing.
            ValueError: there is no such row, or more than one.
        """
        name = self.table_name(source)
        entries = one_row(_table(self.path, name), {**source.where, **where}, name=name)
        values = {str(column): value for column, value in entries.items()}
        values |= {column: values[name] for column, name in source.columns.items()}
        scaled = {column: values[column] * source.scale for column in SCALED if column in values}
        ends = [abs(scaled[end]) for end in ("lower", "upper") if end in scaled]
        bound = max(ends, default=None)
        number = re.search(r"[\d.]+$", str(values.get("condition", "")))
        return {**values, **scaled, "bound": bound, "number": number and float(number[0])}

    def has(self, source: Source, **where: Any) -> bool:
        """Whether the table is there and has rows with these values."""
        name = self.table_name(source)
        try:
            table = _table(self.path, name)
        except NotRunError:
            return False
        return not matching_rows(table, {**source.where, **where}, name=name).empty

    def curve(self, source: Source, **where: Any) -> dict[int, float]:
        """Estimate of each layer.

        Raises:
            NotRunError: the table is missing.
        """
        name = self.table_name(source)
        rows = matching_rows(_table(self.path, name), {**source.where, **where}, name=name)
        rows = rows[rows["layer"].notna()].sort_values("layer")
        return {int(row["layer"]): row["estimate"] * source.scale for _, row in rows.iterrows()}

    def settings(self, folder: str) -> dict[str, Any]:
        """Settings of the run that made a results folder.

        Raises:
            NotRunError: the folder has no manifest.
        """
        return _settings(self.path, f"{folder}{self.suffix}")


def _table(path: Path, name: str) -> pd.DataFrame:
    file = path / f"{name}.parquet"
    if not file.is_file():
        raise NotRunError(name)
    return _read(file, file.stat().st_mtime_ns)


@cache
def _read(file: Path, _modified: int) -> pd.DataFrame:
    return pd.read_parquet(file)


def _settings(path: Path, folder: str) -> dict[str, Any]:
    file = path / folder / "manifest.json"
    if not file.is_file():
        raise NotRunError(folder)
    settings: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))["settings"]
    return settings


def matching_rows(table: pd.DataFrame, where: Mapping[str, Any], *, name: str) -> pd.DataFrame:
    """Rows with these values; None chooses a missing value.

    Raises:
        ValueError: a column is lacking.
    """
    rows = table
    for column, value in where.items():
        if column not in table.columns:
            raise ValueError(f"{name} has no column {column!r}; it has {list(table.columns)}")
        values = rows[column]
        rows = rows[values.isna() if value is None else (values == value).fillna(False)]
    return rows


def one_row(table: pd.DataFrame, where: Mapping[str, Any], *, name: str) -> pd.Series:
    """The row with these values.

    Raises:
        ValueError: a column is lacking, or not exactly one row has the values.
    """
    rows = matching_rows(table, where, name=name)
    if len(rows) != 1:
        raise ValueError(f"{len(rows)} rows of {name} have {dict(where)}; exactly one should")
    return rows.iloc[0]
