"""JSON lines that survive a kill.

A line is written at once and ends in a line break; a process that is killed leaves at most its last
line without one. `mend` completes or removes that line, so nothing is lost that was whole and
nothing stays that was not. A disk that fills up in the middle of a line leaves the file as it was.
"""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from step_saliency.storage.files import append_bytes, is_file, read_bytes, refuse_special
from step_saliency.storage.json_text import parse_json, parse_object


def mend(file: Path) -> None:
    """Complete or remove a last line that lacks its line break; do nothing to a missing file."""
    if not is_file(file) or file.stat().st_size == 0 or _ends_in_newline(file):
        return
    whole, _, rest = read_bytes(file).rpartition(b"\n")
    try:
        parse_json(rest)
    except ValueError:
        if not file.is_symlink():
            os.truncate(file, len(whole) + bool(whole))
    else:
        append_bytes(file, b"\n")


def append_line(file: Path, entry: Mapping[str, Any]) -> None:
    """Add one JSON object as a line, after mending what a kill left.

    Raises:
        WriteError: the file is none, is a link, or cannot be written.
    """
    refuse_special(file)
    mend(file)
    append_bytes(file, f"{json.dumps(entry)}\n".encode())


def read_lines(file: Path) -> Iterator[dict[str, Any]]:
    """The JSON objects in a file, which need not be there; lines that are none are left out.

    Raises:
        ValueError: something that is no file is there.
    """
    for line in (read_bytes(file) if file.exists() else b"").split(b"\n"):
        try:
            yield parse_object(line)
        except ValueError:
            continue


def count_lines(file: Path) -> int:
    """Lines that are not empty, whole or not."""
    data = read_bytes(file) if file.exists() else b""
    return sum(bool(line.strip()) for line in data.split(b"\n"))


def _ends_in_newline(file: Path) -> bool:
    with file.open("rb") as stream:
        stream.seek(-1, os.SEEK_END)
        return stream.read(1) == b"\n"
