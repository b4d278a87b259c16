"""Rows of CSV and TSV files, one after the other.

The first line names the columns. A cell says nothing if it is empty, or holds what pandas and
Python write for a missing value.
"""

import csv
import gzip
import io
import re
from collections.abc import Iterator
from itertools import chain
from typing import Any

TABLES = (".csv", ".tsv")
MISSING = frozenset({"", "nan", "NaN", "<NA>", "None", "null", "NULL"})
"""Cells that say nothing."""
LONGEST = 2**31 - 1
"""Characters of a cell, the most that the csv module can be told everywhere."""


def csv_rows(file: io.BufferedReader | gzip.GzipFile, *, tabs: bool) -> Iterator[tuple[int, Any]]:
    """Rows of a CSV or TSV file one by one, by the line that each ends in, their cells as text.

    Args:
        file: The bytes of the file.
        tabs: Whether tabs separate the cells; otherwise commas, semicolons or tabs do, whichever
            the first line has most of outside of quotes.

    Raises:
        ValueError: it is not UTF-8, its columns have no names or one twice, or it is damaged.
    """
    lines = _text_lines(file)
    head = _head(lines)
    outside = re.sub('"[^"]*"', "", head[-1]) if head else ""
    delimiter = "\t" if tabs else max(",;\t", key=outside.count)
    reader = csv.reader(chain(head, lines), delimiter=delimiter, strict=True)
    records = (cells for cells in _records(reader) if any(cells))
    names = next(records, None)
    if names is None:
        return
    _check_names(names)
    for cells in records:
        yield reader.line_num, _row(names, cells, reader.line_num)


def _text_lines(file: io.BufferedReader | gzip.GzipFile) -> Iterator[str]:
    text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
    for number, line in enumerate(text, start=1):
        escaped = None if line.isascii() else re.search("[\udc80-\udcff]", line)
        if escaped:
            byte = ord(escaped[0]) - 0xDC00
            raise ValueError(f"is not UTF-8 (byte 0x{byte:02x} in line {number}); save it as UTF-8")
        yield line


def _head(lines: Iterator[str]) -> list[str]:
    """Lines up to the first that says something."""
    head: list[str] = []
    for line in lines:
        head.append(line)
        if line.strip():
            break
    return head


def _records(reader: Any) -> Iterator[list[str]]:
    """Cells of each record, which may be as long as texts are."""
    while True:
        first = reader.line_num + 1
        limit = csv.field_size_limit(LONGEST)
        try:
            cells = next(reader, None)
        except csv.Error as error:
            last = reader.line_num
            place = f"line {first}" if last <= first else f"lines {first} to {last}"
            raise ValueError(f"is no whole CSV: {place}: {error}") from None
        finally:
            csv.field_size_limit(limit)
        if cells is None:
            return
        yield cells


def _check_names(names: list[str]) -> None:
    named = [name for name in names if name.strip()]
    twice = next((name for i, name in enumerate(named) if name in named[:i]), None)
    if twice is not None:
        raise ValueError(f"has more than one column {twice!r}; rename or drop one")
    if len(named) < 2 and not re.fullmatch(r"\w+", "".join(named)):  # a text, not a table
        raise ValueError(
            f"is no CSV with the names of its columns in the first line, got {names!s:.80}"
        )


def _row(names: list[str], cells: list[str], number: int) -> dict[str, str | None] | ValueError:
    """A row by its names; cells that nothing names may be empty."""
    if len(cells) < len(names) or any(cells[len(names) :]):
        return ValueError(f"line {number} has {len(cells)} cells under {len(names)} columns")
    pairs = zip(names, cells, strict=False)
    return {name: None if cell in MISSING else cell for name, cell in pairs if name}
