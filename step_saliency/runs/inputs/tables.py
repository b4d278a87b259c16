"""Rows that lie in a table: CSV and TSV, Arrow files, and JSON objects that hold all rows at once.

The first line of a CSV file names its columns; an empty cell says nothing. A JSON object that is no
row by itself holds rows in one list (``{"data": [...]}``), under names (``{"p1": {...}}``), or by
columns (``{"question": [...], "response": [...]}``, also as pandas writes them).
"""

import csv
import io
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pyarrow as pa

from step_saliency.runs.inputs.names import QUESTIONS

TABLES = (".csv", ".tsv")
ARROW_MARKS = (b"ARROW1", b"\xff\xff\xff\xff")
"""What Arrow files and streams begin with."""


def csv_rows(data: bytes, *, tabs: bool) -> list[tuple[int, Any]]:
    """Rows of a CSV or TSV file by the line that each ends in, its cells as text.

    Raises:
        ValueError: it is not UTF-8, its columns have no names or one twice, or it is damaged.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 (byte {error.start}); save it as UTF-8") from None
    first = text.partition("\n")[0]
    delimiter = "\t" if tabs else max(",;", key=first.count)
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    limit = csv.field_size_limit(max(len(text), 1))
    try:
        names = next((line for line in lines if any(line)), [])
        _check_names(names)
        return [
            (lines.line_num, _csv_row(names, cells, lines.line_num))
            for cells in lines
            if any(cells)
        ]
    except csv.Error as error:
        raise ValueError(f"is no whole CSV: line {lines.line_num}: {error}") from None
    finally:
        csv.field_size_limit(limit)


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
