"""Objects in files: JSON lines, JSON arrays, JSON objects, parquet, Arrow, CSV, all also in gzip.

What a file holds says how it is read; of its name the ending of a table alone counts. Lines end at
line feeds alone: U+2028 and NEL inside a text end nothing. One line that cannot be read is an error
of that line; objects over several lines may follow each other.
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

from step_saliency.runs.inputs.arrow_files import (
    ARROW_MARKS,
    PARQUET_MARK,
    arrow_rows,
    parquet_rows,
)
from step_saliency.runs.inputs.csv_files import TABLES, csv_rows
from step_saliency.runs.inputs.eval_logs import is_log, log_samples, zip_samples

Numbered: TypeAlias = tuple[int, Any]
"""Line or element number from 1, and what stands there: a value, or why it cannot be read."""

NAMED = {".parquet": "parquet file", ".arrow": "Arrow file", ".feather": "Arrow file"}
"""What a file is by its name, where it is nothing that is read."""
ZIP_MARK = b"PK\3\4"
GZIP_MARK = b"\x1f\x8b"
OTHERS = {
    b"\xff\xfe\x00\x00": "UTF-32; save it as UTF-8",
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
        what = NAMED.get(path.suffix.lower(), "whole JSON")
        raise ValueError(f"{path} is no {what}: {error}") from None
    except pa.ArrowException as error:
        raise ValueError(f"{path} is no whole parquet or Arrow file: {error}") from None
    except OSError as error:
        if error.errno is not None:
            raise
        raise ValueError(f"{path} is damaged: {error}") from None  # as pyarrow says it


def _read(path: Path) -> Iterable[Numbered]:
    with path.open("rb") as file:
        packed = file.read(2) == GZIP_MARK
    with _opened(path, packed=packed) as content:
        start = content.read(64)
    _check_start(path, start, packed=packed)
    if start.startswith(ZIP_MARK):
        return enumerate(zip_samples(path), start=1)
    if start.startswith((PARQUET_MARK, *ARROW_MARKS)):
        return _columns(path, packed=packed, parquet=start.startswith(PARQUET_MARK))
    ending = Path(re.sub(r"\.gz(ip)?$", "", path.name.lower())).suffix
    is_json = start.removeprefix(b"\xef\xbb\xbf").lstrip().startswith((b'{"', b"["))
    if ending in TABLES and not is_json:
        return _csv(path, tabs=ending == ".tsv", packed=packed)
    return _json(path, packed=packed)


def _check_start(path: Path, start: bytes, *, packed: bool) -> None:
    """Raise ValueError for what begins as nothing that is read."""
    if start.startswith(ARROW_MARKS):
        return
    other = next((what for mark, what in OTHERS.items() if start.startswith(mark)), None)
    if packed and start.startswith((ZIP_MARK, GZIP_MARK)):
        other = "packed twice, in gzip and once more; unpack it once"
    is_text = not start.startswith((PARQUET_MARK, ZIP_MARK, GZIP_MARK))
    if other is None and is_text and start.count(b"\0") > len(start) // 8:
        other = "UTF-16 or binary; one JSON object a line in UTF-8 is needed"
    if other is not None:
        raise ValueError(f"{path} is {other}")


def _columns(path: Path, *, packed: bool, parquet: bool) -> Iterator[Numbered]:
    with pa.OSFile(str(path)) if not packed else _unpacked(path) as source:
        try:
            yield from (parquet_rows if parquet else arrow_rows)(source)
        except pa.ArrowException:
            raise
        except ValueError as error:
            raise ValueError(f"{path} {error}") from None


def _unpacked(path: Path) -> pa.BufferReader:
    with gzip.open(path, "rb") as file:
        return pa.BufferReader(file.read())


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
    raise _NotWholeError(
        f"no line begins an object; the first is {begins!r} (tables are named .csv or .tsv)"
    )


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
    if isinstance(parsed, list) and (
        not parsed or isinstance(value, ValueError) or _has_objects(parsed)
    ):
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
