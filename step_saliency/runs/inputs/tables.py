"""JSON objects that hold all rows at once.

One that is no row by itself holds rows in one list (``{"data": [...]}``), under names
(``{"p1": {...}}``), or by columns (``{"question": [...], "response": [...]}``, also as pandas
writes them).
"""

from collections.abc import Callable, Mapping
from typing import Any

from step_saliency.runs.inputs.names import QUESTIONS


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
