"""JSON lines that survive a kill.

A line is written at once and ends in a line break; a process that is killed leaves at most its last
line without one. `mend` completes or removes that line, so nothing is lost that was whole and
nothing stays that was not.
"""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


def mend(file: Path) -> None:
    """Complete or remove a last line that lacks its line break; do nothing to a missing file."""
    if not file.is_file() or file.stat().st_size == 0 or _ends_in_newline(file):
        return
    whole, _, rest = file.read_bytes().rpartition(b"\n")
    try:
        json.loads(rest)
    except (json.JSONDecodeError, UnicodeDecodeError):
        os.truncate(file, len(whole) + bool(whole))
    else:
        with file.open("ab") as stream:
            stream.write(b"\n")


def append_line(file: Path, entry: Mapping[str, Any]) -> None:
    """Add one JSON object as a line, after mending what a kill left."""
    mend(file)
    with file.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(entry) + "\n")


def read_lines(file: Path) -> Iterator[dict[str, Any]]:
    """The JSON objects in a file, which need not be there; lines that are none are left out."""
    for line in file.read_text(encoding="utf-8").split("\n") if file.is_file() else ():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(entry, dict):
            yield entry


def _ends_in_newline(file: Path) -> bool:
    with file.open("rb") as stream:
        stream.seek(-1, os.SEEK_END)
        return stream.read(1) == b"\n"
