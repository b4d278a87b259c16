"""One way to write a file: beside its place, then moved there.

A kill leaves the old file or the new one and never a part; what was cut short by other means is
told apart when it is read.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PNG_END = b"IEND\xaeB`\x82"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A place to write to, moved onto the path when all is written."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text in UTF-8, whole or not at all."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def write_bytes(path: Path, data: bytes) -> None:
    """Write bytes, whole or not at all."""
    with replacing(path) as part:
        part.write_bytes(data)


def is_whole_png(path: Path) -> bool:
    """Whether a picture is there with its end."""
    return path.is_file() and path.read_bytes()[-len(PNG_END) :] == PNG_END
