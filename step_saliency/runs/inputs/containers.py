"""Objects in files: JSON lines, JSON arrays, one JSON object, parquet, CSV, all also in gzip.

Lines end at line feeds alone: U+2028 and NEL inside a text end nothing. One line that cannot be
read is an error of that line; objects over several lines may follow each other.
"""

import gzip
import io
import json
import re
import zlib
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from step_saliency.runs.inputs.eval_logs import is_log, log_samples, zip_samples
from step_saliency.runs.inputs.tables import ARROW_MARKS, TABLES, arrow_rows, csv_rows

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
        raise ValueError(f"{path} is no whole parquet or Arrow file: {error}") from None


def _read(path: Path) -> Iterable[Numbered]:
    with path.open("rb") as file:
        start = file.read(64)
    other = next((what for mark, what in OTHERS.items() if start.startswith(mark)), None)
    if start.startswith(ARROW_MARKS):
        return _arrow(path)
    packed = start.startswith(b"\x1f\x8b")
    if (
        other is None
        and start.count(b"\0") > len(start) // 8
        and start[:4] not in (b"PAR1", b"PK\3\4")
        and not packed
    ):
        other = "UTF-16 or binary; one JSON object a line in UTF-8 is needed"
    if other is not None:
        raise ValueError(f"{path} is {other}")
    if start.startswith(b"PK\3\4"):
        return enumerate(zip_samples(path), start=1)
    if start.startswith(b"PAR1"):
        return _parquet(path)
    ending = Path(path.stem if packed else path.name).suffix.lower()
    if ending in TABLES:
        return _csv(path, tabs=ending == ".tsv", packed=packed)
    if not packed:
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


def _arrow(path: Path) -> Iterator[Numbered]:
    with pa.OSFile(str(path)) as source:
        yield from arrow_rows(source)


def _csv(path: Path, *, tabs: bool, packed: bool) -> Iterator[Numbered]:
    with _opened(path, packed=packed) as file:
        try:
            yield from csv_rows(file, tabs=tabs)
        except ValueError as error:
            raise ValueError(f"{path} {error}") from None


def _json(path: Path, *, packed: bool) -> Iterator[Numbered]:
    lines = _lines(path, packed=packed)
    first = next(((n, line) for n, line in lines if line.strip()), None)
    if first is None:
        return
    number, line = first
    value = _value(number, line)
    if isinstance(value, ValueError) and line.lstrip()[:1] not in (b"[", b"{"):
        lines = _checked_lines(line, lines)
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


def _opened(path: Path, *, packed: bool) -> io.BufferedReader | gzip.GzipFile:
    return gzip.open(path, "rb") if packed else path.open("rb")


def _lines(path: Path, *, packed: bool) -> Iterator[tuple[int, bytes]]:
    with _opened(path, packed=packed) as file:
        for number, line in enumerate(file, start=1):
            yield number, line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line


def _checked_lines(first: bytes, rest: Iterator[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    """The other lines of a file whose first line is no JSON, if any of them may be an object."""
    read: list[tuple[int, bytes]] = []
    for number, line in rest:
        read.append((number, line))
        if line.lstrip()[:1] == b"{":
            return chain(read, rest)
    begins = first.decode(errors="replace").strip()[:40]
    raise _NotWholeError(f"no line begins an object; the first is {begins!r}")


def _whole(
    first: bytes, rest: Iterator[tuple[int, bytes]], value: object
) -> Iterator[Numbered] | None:
    """The values of a file that is one array or object over several lines; None if it is not."""
    text = b"".join([first, *(line for _, line in rest)])
    parsed = _value(1, text)
    if isinstance(parsed, ValueError) and isinstance(value, ValueError):
        following = _objects(text)
        if following:
            return iter(list(enumerate(following, start=1)))
    if isinstance(parsed, list) and (isinstance(value, ValueError) or _has_objects(parsed)):
        return iter(list(enumerate(parsed, start=1)))
    if isinstance(parsed, dict):
        return iter(list(enumerate(log_samples(parsed) if is_log(parsed) else [parsed], start=1)))
    if isinstance(value, ValueError) and first.strip() in (b"[", b"{"):
        raise _NotWholeError(str(parsed).partition(": ")[2])
    return None


def _objects(text: bytes) -> list[Any]:
    """Objects that follow each other with nothing but space or commas between; none if others do.

    Objects of one line each are lines, of which one may be damaged.
    """
    decoder, found, place = json.JSONDecoder(), list[Any](), 0
    try:
        whole = text.decode()
        if all(line.lstrip()[:1] in ("{", "") for line in whole.split("\n")):
            return []
        while place < len(whole):
            value, place = decoder.raw_decode(whole, place)
            found.append(value)
            place = _BETWEEN.match(whole, place).end()  # type: ignore[union-attr]
    except (ValueError, RecursionError):
        return []
    return found if all(isinstance(value, dict) for value in found) else []


_BETWEEN = re.compile(r"[\s,]*")


class _NotWholeError(ValueError):
    """An array or object over several lines that is cut short or damaged."""


def _has_objects(values: list[Any]) -> bool:
    return any(isinstance(value, dict) for value in values)


def _value(number: int, line: bytes) -> Any:
    try:
        text = line.decode().strip()
        return json.loads(text.removesuffix(",") if text.startswith("{") else text)
    except UnicodeDecodeError as error:
        return ValueError(
            f"line {number} is not UTF-8 (byte 0x{line[error.start]:02x} at {error.start}); save "
            "the file as UTF-8"
        )
    except RecursionError:
        return ValueError(f"line {number} is nested too deeply to be read")
    except ValueError as error:
        zeros = " (it holds NUL bytes)" if b"\0" in line else ""
        return ValueError(f"line {number} is no JSON{zeros}: {_short(str(error))}")


def _short(message: str) -> str:
    """Without Python's advice on how to lift its limits."""
    return message.partition("; use sys.")[0]
