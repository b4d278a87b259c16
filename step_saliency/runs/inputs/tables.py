"""Rows that lie in a table: CSV and TSV, Arrow files, and JSON objects that hold all rows at once.

The first line of a CSV file names its columns; an empty cell says nothing. A JSON object that is no
row by itself holds rows in one list (``{"data": [...]}``), under names (``{"p1": {...}}``), or by
columns (``{"question": [...], "response": [...]}``, also as pandas writes them).
"""

import csv
import gzip
import io
import re
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from typing import Any

import pyarrow as pa

from step_saliency.runs.inputs.names import QUESTIONS

TABLES = (".csv", ".tsv")
ARROW_MARKS = (b"ARROW1", b"\xff\xff\xff\xff")
"""What Arrow files and streams begin with."""
LONGEST = 2**31 - 1
"""Characters of a cell, the most that the csv module can be told everywhere."""


def csv_rows(file: io.BufferedReader | gzip.GzipFile, *, tabs: bool) -> Iterator[tuple[int, Any]]:
    """Rows of a CSV or TSV file one by one, by the line that each ends in, their cells as text.

    Args:
        file: The bytes of the file.
        tabs: Whether tabs separate the cells; otherwise commas or semicolons do, whichever the
            first line has more of outside of quotes.

    Raises:
        ValueError: it is not UTF-8, its columns have no names or one twice, or it is damaged.
    """
    lines = _text_lines(file)
    head = _head(lines)
    outside = re.sub('"[^"]*"', "", head[-1]) if head else ""
    delimiter = "\t" if tabs else max(",;", key=outside.count)
    reader = csv.reader(chain(head, lines), delimiter=delimiter, strict=True)
    records = (cells for cells in _records(reader) if any(cells))
    names = next(records, [])
    _check_names(names)
    for cells in records:
        yield reader.line_num, _csv_row(names, cells, reader.line_num)


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
    named = [name for name in names if name]
    if len(named) < 2 or len(set(named)) < len(named):
        raise ValueError(
            f"is no CSV with the names of its columns in the first line, got {names!s:.80}"
        )


def _csv_row(names: list[str], cells: list[str], number: int) -> Any:
    if len(cells) != len(names):
        return ValueError(f"line {number} has {len(cells)} cells under {len(names)} columns")
    return {name: cell or None for name, cell in zip(names, cells, strict=True) if name}


def arrow_rows(source: Any) -> Iterator[tuple[int, Any]]:
    """Rows of an Arrow file or stream."""
    try:
        batches: Any = pa.ipc.open_file(source)
        parts = (batches.get_batch(i) for i in range(batches.num_record_batches))
    except pa.ArrowInvalid:
        source.seek(0)
        parts = iter(pa.ipc.open_stream(source))
    number = 0
    for part in parts:
        for row in part.to_pylist():
            number += 1
            yield number, row


def rows_of_object(
    value: Mapping[str, Any], is_row: Callable[[Mapping[str, Any]], bool]
) -> list[Any]:
    """The rows that a JSON object holds, or the object itself.

    Args:
        value: The only object of a file.
        is_row: Whether an object has the fields of a row.
    """
    columns = _columns(value)
    if columns or is_row(value):
        return columns or [value]
    names, table = value.get("columns"), value.get("data")
    if isinstance(names, list) and isinstance(table, list):  # pandas: orient="split"
        rows: list[Any] = [dict(zip(names, cells, strict=False)) for cells in table]
    elif all(isinstance(row, Mapping) for row in value.values()):
        rows = [{"id": name, **row} for name, row in value.items()]
    else:
        lists = [held for held in value.values() if _holds_objects(held)]
        rows = [_inner_row(row) for row in lists[0]] if len(lists) == 1 else []
    return rows if rows and is_row(rows[0]) else [value]


def _columns(value: Mapping[str, Any]) -> list[Any]:
    """Rows of an object that holds a list of texts, or an object by row numbers, for each name."""
    cells = [list(held.values()) if isinstance(held, Mapping) else held for held in value.values()]
    asked = next((name for name in value if name.lower() in QUESTIONS), None)
    if asked is None or not all(isinstance(held, list) for held in cells):
        return []
    by_number = [held for held in value.values() if isinstance(held, Mapping)]
    questions = cells[list(value).index(asked)]
    if (
        len({len(held) for held in cells}) > 1
        or not all(isinstance(question, str) for question in questions)
        or (by_number and len(by_number) < len(cells))
        or not all(key.isdecimal() for held in by_number for key in held)
    ):
        return []
    return [dict(zip(value, row, strict=True)) for row in zip(*cells, strict=True)]


def _holds_objects(value: object) -> bool:
    return (
        isinstance(value, list) and bool(value) and all(isinstance(row, Mapping) for row in value)
    )


def _inner_row(row: Mapping[str, Any]) -> Any:
    """A row as the data set server of Hugging Face wraps it, without its wrapping."""
    return row["row"] if isinstance(row.get("row"), Mapping) and "row_idx" in row else row
