"""What changed between two versions of results: every table that both have, column by column.

    python -m analyses.running.changes BEFORE AFTER --why "why they differ" ...

BEFORE and AFTER are folders of analyses, such as ``results`` at two commits. Rows are held against
each other in their order, which is fixed; a table whose rows are others is named as such. Prints a
table in Markdown, of the columns of numbers that differ by more than rounding: the number of rows
that do, and the row that differs most.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

ROUNDING = 1e-6
"""Differences up to this share of the larger number are none."""


@dataclass(frozen=True)
class Change:
    """A column of a table that changed.

    Attributes:
        table: Analysis and table.
        quantity: Column.
        rows: Rows that changed, of how many.
        where: Labels of the row that changed most.
        before: Its earlier value.
        after: Its value now.
    """

    table: str
    quantity: str
    rows: str
    where: str
    before: str
    after: str


def changes(before: Path, after: Path) -> Iterator[Change]:
    """Changes of every table in AFTER that BEFORE has too, by name."""
    for file in sorted(after.glob("*/*.parquet")):
        name = f"{file.parent.name}/{file.stem}"
        earlier = before / file.parent.name / file.name
        if earlier.is_file():
            yield from table_changes(name, pd.read_parquet(earlier), pd.read_parquet(file))


def table_changes(name: str, before: pd.DataFrame, after: pd.DataFrame) -> Iterator[Change]:
    """Changes of one table."""
    shared = before.columns.intersection(after.columns)
    labels = _labels(before[shared])
    if len(before) != len(after) or not _labels(after[shared]).equals(labels):
        yield Change(name, "rows", f"{len(before)} to {len(after)}", "", "", "")
        return
    for column in shared:
        if not pd.api.types.is_float_dtype(before[column]):
            continue
        old, new = (table[column].to_numpy(float, na_value=np.nan) for table in (before, after))
        differ = different(old, new)
        if differ.any():
            size = np.where(differ, np.nan_to_num(np.abs(new - old), nan=np.inf), -1.0)
            worst = int(size.argmax())
            yield Change(
                name,
                str(column),
                f"{int(differ.sum())} of {len(old)}",
                labels.iloc[worst],
                f"{old[worst]:.4g}",
                f"{new[worst]:.4g}",
            )


def different(
    before: Float[np.ndarray, "row"], after: Float[np.ndarray, "row"]
) -> Bool[np.ndarray, "row"]:
    """Numbers that differ by more than rounding, or of which one is missing."""
    return ~np.isclose(before, after, rtol=ROUNDING, atol=ROUNDING**2, equal_nan=True)


def _labels(table: pd.DataFrame) -> pd.Series:
    """What names each row: its columns of words, layers and heads."""
    words = [
        column
        for column in table
        if not pd.api.types.is_numeric_dtype(table[column]) or column in ("layer", "head")
    ]
    named = [name for name in words if name not in ("interval", "interval_corrected", "reason")]
    text = table[named].astype("string").fillna("")
    joined = [" ".join(filter(None, row)) for row in text.itertuples(index=False)]
    return pd.Series(joined, index=table.index, dtype="string")


def markdown(found: Sequence[Change], why: Sequence[str] = ()) -> str:
    """The changes as a page."""
    heads = [field.name for field in fields(Change)]
    rows = [[text.replace("|", "/") or "-" for text in astuple(change)] for change in found]
    lines = [f"| {' | '.join(row)} |" for row in (heads, ["---"] * len(heads), *rows)]
    return "\n\n".join(["# What changed in these tables", *why, "\n".join(lines)]) + "\n"


def main(argv: Sequence[str] | None = None) -> None:
    """Run ``python -m analyses.running.changes``."""
    parser = argparse.ArgumentParser(prog="python -m analyses.running.changes")
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--why", nargs="*", default=[], help="paragraphs above the table")
    parsed = parser.parse_args(argv)
    print(markdown(list(changes(parsed.before, parsed.after)), parsed.why), end="")


if __name__ == "__main__":
    main()
