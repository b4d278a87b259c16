"""Records of a local file: JSON lines, a JSON list, CSV or parquet."""

import csv
import hashlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from step_saliency.storage.files import read_bytes
from step_saliency.storage.json_text import parse_json, parse_object

ENDINGS = (".jsonl", ".json", ".csv", ".parquet")


def read_records(file: Path) -> list[dict[str, Any]]:
    """The records of a file, by the ending of its name.

    Args:
        file: The file.

    Raises:
        ValueError: another ending, a line that is no record, or no record at all.
        FileNotFoundError: there is no such file.
    """
    if file.suffix not in ENDINGS:
        raise ValueError(f"{file} ends in none of {', '.join(ENDINGS)}")
    readers = {".jsonl": _lines, ".json": _list, ".csv": _csv, ".parquet": _parquet}
    try:
        records = readers[file.suffix](read_bytes(file))
    except (UnicodeDecodeError, csv.Error, pa.ArrowException) as error:
        raise ValueError(f"{file} cannot be read: {error}") from error
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    if not records:
        raise ValueError(f"{file} has no record")
    return records


def digest_of(file: Path) -> str:
    """Hash of a file, which tells in a log what was asked."""
    return hashlib.sha256(read_bytes(file)).hexdigest()[:16]


def field_of(record: Mapping[str, Any], names: Sequence[str], place: str) -> Any:
    """The first of these fields that a record has, whatever the case of its name.

    Args:
        record: The record.
        names: Names of the field.
        place: Where the record stands, for the message.

    Raises:
        ValueError: it has none of them, or nothing in it.
    """
    known = {str(key).lower(): value for key, value in record.items()}
    for name in names:
        value = known.get(name.lower())
        if value is not None and str(value).strip():
            return value
    raise ValueError(
        f"{place} has no field {' or '.join(names)}; it has {', '.join(map(str, record))}"
    )


def _lines(data: bytes) -> list[dict[str, Any]]:
    records = []
    for number, line in enumerate(data.split(b"\n"), start=1):
        if line.strip():
            try:
                records.append(parse_object(line))
            except ValueError as error:
                raise ValueError(f"line {number} is no record: {error}") from error
    return records


def _list(data: bytes) -> list[dict[str, Any]]:
    records = parse_json(data)
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise ValueError("it is no list of records")
    return records


def _csv(data: bytes) -> list[dict[str, Any]]:
    csv.field_size_limit(2**31 - 1)
    rows = csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True)
    return [dict(row) for row in rows]


def _parquet(data: bytes) -> list[dict[str, Any]]:
    return list(pq.read_table(io.BytesIO(data)).to_pylist())
