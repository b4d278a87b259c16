"""Tables on disk, whole or not at all: parquet for reading back, CSV for reading."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from step_saliency.storage.files import is_file, replacing
from step_saliency.storage.json_text import parse_object

NOTE = b"unit"
"""Key of the note in the metadata of a parquet file."""


class FrameWriter:
    """A parquet file that grows trace by trace."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.writer: pq.ParquetWriter | None = None

    def __enter__(self) -> "FrameWriter":
        return self

    def write(self, frame: pd.DataFrame) -> None:
        table = pa.Table.from_pandas(frame, preserve_index=False)
        if self.writer is None:
            self.writer = pq.ParquetWriter(self.path, table.schema)
        self.writer.write_table(table.cast(self.writer.schema))

    def __exit__(self, *_: object) -> None:
        if self.writer is None:
            pd.DataFrame().to_parquet(self.path)
        else:
            self.writer.close()


def write_frame(path: Path, frame: pd.DataFrame) -> None:
    """Write a table as parquet."""
    with replacing(path) as part:
        frame.to_parquet(part, index=False)


def write_csv(path: Path, frame: pd.DataFrame, *, float_format: str | None = "%.6g") -> None:
    """Write a table as text, numbers to six digits by default."""
    with replacing(path) as part:
        frame.to_csv(part, index=False, float_format=float_format)


def write_table(path: Path, table: pa.Table, note: Mapping[str, Any] | None = None) -> None:
    """Write an Arrow table as parquet; with a note in JSON types, checksums are written too."""
    if note is not None:
        metadata = {**(table.schema.metadata or {}), NOTE: json.dumps(note).encode()}
        table = table.replace_schema_metadata(metadata)
    with replacing(path) as part:
        pq.write_table(table, part, write_page_checksum=note is not None)


def read_noted(path: Path) -> tuple[pa.Table, dict[str, Any]] | None:
    """A table and the note it was written with; None if it is not there, cut short or damaged."""
    if not is_file(path):
        return None
    try:
        table = pq.read_table(path, page_checksum_verification=True)
        metadata = dict(table.schema.metadata or {})
        note = parse_object(metadata.pop(NOTE))
    except (OSError, pa.ArrowException, MemoryError, KeyError, ValueError):
        return None
    return table.replace_schema_metadata(metadata), note
