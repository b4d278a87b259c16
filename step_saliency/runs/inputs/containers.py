"""Objects in files: JSON lines, JSON arrays, one JSON object, parquet, all of them also in gzip.

Lines end at line feeds alone: U+2028 and NEL inside a text end nothing. One line that cannot be
read is an error of that line.
"""

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from step_saliency.runs.inputs.eval_logs import is_log, log_samples, zip_samples

Numbered: TypeAlias = tuple[int, Any]
"""Line or element number from 1, and what stands there: a value, or why it cannot be read."""

OTHERS = {
    b"\xff\xfe": "UTF-16; save it as UTF-8",
    b"\xfe\xff": "UTF-16; save it as UTF-8",
    b"\x28\xb5\x2f\xfd": "Zstandard; unpack it first",
    b"BZh": "bzip2; unpack it first",
    b"\xfd7zXZ": "xz; unpack it first",
    b"\x89HDF": "HDF5; write one JSON object a line",
}
"""What files begin with that are not read, and what to do."""


def read_file(path: Path) -> Iterator[Numbered]:
    """Values in a file, numbered.

    Raises:
        ValueError: the file as a whole cannot be read.
    """
    try:
        yield from _read(path)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} is cut short or damaged: {error}") from None
    except _NotWholeError as error:
        raise ValueError(f"{path} is no whole JSON: {error}") from None
    except pa.ArrowException as error:
        raise ValueError(f"{path} is no whole parquet file: {error}") from None


def _read(path: Path) -> Iterable[Numbered]:
    with path.open("rb") as file:
        start = file.read(64)
    other = next((what for mark, what in OTHERS.items() if start.startswith(mark)), None)
    if (
        other is None
        and b"\0" in start
        and start[:4] not in (b"PAR1", b"PK\3\4")
        and start[:2] != b"\x1f\x8b"
    ):
        other = "UTF-16 or binary; one JSON object a line in UTF-8 is needed"
    if other is not None:
        raise ValueError(f"{path} is {other}")
    if start.startswith(b"PK\3\4"):
        return enumerate(zip_samples(path), start=1)
    if start.startswith(b"PAR1"):
        return _parquet(path)
    if not start.startswith(b"\x1f\x8b"):
        return _json(path, packed=False)
    with gzip.open(path, "rb") as unpacked:
        is_parquet = unpacked.read(4) == b"PAR1"
        unpacked.seek(0)
        if is_parquet:
            return _parquet(pa.BufferReader(unpacked.read()))
    return _json(path, packed=True)


def _parquet(source: Any) -> Iterator[Numbered]:
    number = 0
    with pq.ParquetFile(source) as file:
        for batch in file.iter_batches(batch_size=256):
            for row in batch.to_pylist():
                number += 1
                yield number, row


def _json(path: Path, *, packed: bool) -> Iterator[Numbered]:
    lines = _lines(path, packed=packed)
    first = next(((n, line) for n, line in lines if line.strip()), None)
    if first is None:
        return
    number, line = first
    value = _value(number, line)
    if isinstance(value, ValueError | list):
        whole = _whole(line, lines, value) if line.lstrip()[:1] in (b"[", b"{") else None
        if whole is not None:
            yield from whole
            return
        lines = ((n, rest) for n, rest in _lines(path, packed=packed) if n > number)
    elif is_log(value):
        yield from enumerate(log_samples(value), start=1)
        return
    yield number, value
    for n, rest in lines:
        if rest.strip():
            yield n, _value(n, rest)


def _lines(path: Path, *, packed: bool) -> Iterator[tuple[int, bytes]]:
    with gzip.open(path, "rb") if packed else path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            yield number, line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line


def _whole(
    first: bytes, rest: Iterator[tuple[int, bytes]], value: object
) -> Iterator[Numbered] | None:
    """The values of a file that is one array or object over several lines; None if it is not."""
    parsed = _value(1, b"".join([first, *(line for _, line in rest)]))
    if isinstance(parsed, list) and (isinstance(value, ValueError) or _has_objects(parsed)):
        return iter(list(enumerate(parsed, start=1)))
    if isinstance(parsed, dict):
        return iter(list(enumerate(log_samples(parsed) if is_log(parsed) else [parsed], start=1)))
    if isinstance(value, ValueError) and first.strip() in (b"[", b"{"):
        raise _NotWholeError(str(parsed).partition(": ")[2])
    return None


class _NotWholeError(ValueError):
    """An array or object over several lines that is cut short or damaged."""


def _has_objects(values: list[Any]) -> bool:
    return any(isinstance(value, dict) for value in values)


def _value(number: int, line: bytes) -> Any:
    try:
        return json.loads(line.decode())
    except UnicodeDecodeError as error:
        return ValueError(
            f"line {number} is not UTF-8 (byte 0x{line[error.start]:02x} at {error.start}); save "
            "the file as UTF-8"
        )
    except RecursionError:
        return ValueError(f"line {number} is nested too deeply to be read")
    except ValueError as error:
        return ValueError(f"line {number} is no JSON: {_short(str(error))}")


def _short(message: str) -> str:
    """Without Python's advice on how to lift its limits."""
    return message.partition("; use sys.")[0]
