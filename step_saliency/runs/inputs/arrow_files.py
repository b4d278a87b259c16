"""Rows of parquet and Arrow files, batch by batch."""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

PARQUET_MARK = b"PAR1"
ARROW_MARKS = (b"ARROW1", b"\xff\xff\xff\xff")
"""What Arrow files and streams begin with."""


def parquet_rows(source: Any) -> Iterator[tuple[int, Any]]:
    """Rows of a parquet file by number, or why one cannot be read.

    Raises:
        ValueError: two columns have one name.
    """
    with pq.ParquetFile(source) as file:
        _check_names(file.schema_arrow.names)
        yield from _rows(file.iter_batches(batch_size=256))


def arrow_rows(source: Any) -> Iterator[tuple[int, Any]]:
    """Rows of an Arrow file or stream by number, or why one cannot be read.

    Raises:
        ValueError: two columns have one name.
    """
    try:
        batches: Any = pa.ipc.open_file(source)
        parts = (batches.get_batch(i) for i in range(batches.num_record_batches))
    except pa.ArrowInvalid:
        source.seek(0)
        batches = pa.ipc.open_stream(source)
        parts = iter(batches)
    _check_names(batches.schema.names)
    yield from _rows(parts)


def _check_names(names: Iterable[str]) -> None:
    twice = [name for name, n in Counter(names).items() if n > 1]
    if twice:
        raise ValueError(f"has more than one column {twice[0]!r}; rename or drop one")


def _rows(batches: Iterable[Any]) -> Iterator[tuple[int, Any]]:
    number = 0
    for batch in batches:
        try:
            values = batch.to_pylist()
        except (ValueError, ArithmeticError, pa.ArrowException):
            values = [_row(batch, place, number + place + 1) for place in range(batch.num_rows)]
        for value in values:
            number += 1
            yield number, value


def _row(batch: Any, place: int, number: int) -> dict[str, Any] | ValueError:
    """One row, or which of its columns has no value in Python (dates beyond the year 9999)."""
    row = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            row[name] = column[place].as_py()
        except (ValueError, ArithmeticError, pa.ArrowException) as error:
            return ValueError(f"line {number}: column {name!r} cannot be read: {error}")
    return row
