"""One way to write a file: beside its place, then moved there. One way to read: plain files only.

A kill leaves the old file or the new one and never a part; what was cut short by other means is
told apart when it is read. The name beside is new, random and never followed if it is a link; a
folder, pipe or device at the place itself is never replaced, and none is opened for reading.
"""

import hashlib
import os
import platform
import re
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import torch

from step_saliency.models.memory import free_bytes

PNG_END = b"IEND\xaeB`\x82"
PART = re.compile(r"\.step-saliency\.(?P<host>[0-9a-f]{8})\.(?P<pid>\d+)\.[0-9a-f]{16}\.part")
EARLIER_PART = re.compile(r"\..+\.\d+\.part")
"""Names of files being written, now and in earlier versions."""
OLD_SECONDS = 3600.0
"""Age from which a part is left over whoever wrote it."""


class WriteError(OSError):
    """A file could not be written; the message says which and why."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A place to write to, moved onto the path when all is written.

    Raises:
        WriteError: the disk is full or read-only, or something that is no file is in the way.
    """
    part = path.with_name(_part_name())
    try:
        refuse_special(path)
        os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        try:
            yield part
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
    except WriteError:
        raise
    except OSError as error:
        raise WriteError(f"cannot write {path}: {error.strerror or error}") from error


def write_text(path: Path, text: str) -> None:
    """Write a text in UTF-8, whole or not at all."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def write_bytes(path: Path, data: bytes) -> None:
    """Write bytes, whole or not at all."""
    with replacing(path) as part:
        part.write_bytes(data)


def append_bytes(path: Path, data: bytes) -> None:
    """Add bytes to a file, all or none; a link is not followed.

    Raises:
        WriteError: as for `replacing`.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    refuse_special(path)
    if path.is_symlink():
        raise WriteError(f"cannot write {path}: it is a link to another place")
    try:
        with os.fdopen(os.open(path, flags, 0o666), "ab", buffering=0) as stream:
            _append(stream.fileno(), data)
    except OSError as error:
        raise WriteError(f"cannot write {path}: {error.strerror or error}") from error


def _append(descriptor: int, data: bytes) -> None:
    size = os.fstat(descriptor).st_size
    rest = memoryview(data)
    try:
        while rest:
            rest = rest[os.write(descriptor, rest) :]
    except OSError:
        os.ftruncate(descriptor, size)
        raise


def make_folder(path: Path) -> None:
    """Make a folder and those above it.

    Raises:
        WriteError: it cannot be made, or a file or a link to nowhere is in the way.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or error
        if isinstance(error, FileExistsError | NotADirectoryError):
            reason = "something that is no folder is in the way"
        raise WriteError(f"cannot make the folder {path}: {reason}") from error


def refuse_special(path: Path) -> None:
    """Raise WriteError where a folder, pipe or device lies at the place of a file."""
    kind = _kind(path)
    if kind is not None and kind != "file":
        raise WriteError(f"cannot write {path}: a {kind} is in the way")


def read_bytes(path: Path) -> bytes:
    """All of a plain file.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is no plain file, cannot be read, or is larger than the memory that is left.
    """
    kind = _kind(path)
    if kind is None:
        raise FileNotFoundError(f"there is no file {path}")
    if kind != "file":
        raise ValueError(f"{path} is a {kind}, not a file")
    try:
        size, free = path.stat().st_size, free_bytes(torch.device("cpu"))
        if size > free:
            raise ValueError(f"{path} has {size:,} bytes, and {free:,} bytes of memory are free")
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from error


def is_file(path: Path) -> bool:
    """Whether a plain file is there; a link counts as what it leads to."""
    return _kind(path) == "file"


def is_whole_png(path: Path) -> bool:
    """Whether a picture is there with its end."""
    if not is_file(path) or path.stat().st_size < len(PNG_END):
        return False
    with path.open("rb") as stream:
        stream.seek(-len(PNG_END), os.SEEK_END)
        return stream.read() == PNG_END


def is_part(name: str) -> bool:
    """Whether this is the name of a file that is being written, or was left so."""
    return bool(PART.fullmatch(name) or EARLIER_PART.fullmatch(name))


def remove_old_parts(folder: Path) -> None:
    """Remove what a kill left half written in a folder: plain files, ours by name, and old.

    A part is old when its process has ended, as far as that can be known, or after an hour.
    """
    for file in folder.iterdir() if folder.is_dir() and not folder.is_symlink() else ():
        if is_part(file.name) and not file.is_symlink() and is_file(file) and _is_old(file):
            file.unlink(missing_ok=True)


def _is_old(part: Path) -> bool:
    ours = PART.fullmatch(part.name)
    if ours and ours["host"] == _host() and not psutil.pid_exists(int(ours["pid"])):
        return True
    return time.time() - part.lstat().st_mtime > OLD_SECONDS


def _part_name() -> str:
    return f".step-saliency.{_host()}.{os.getpid()}.{secrets.token_hex(8)}.part"


def _host() -> str:
    return hashlib.sha256(platform.node().encode()).hexdigest()[:8]


def _kind(path: Path) -> str | None:
    """What lies at a path, in a word, without opening it; None for nothing."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        return f"place that cannot be looked at ({error})"
    kinds = {stat.S_IFREG: "file", stat.S_IFDIR: "folder", stat.S_IFIFO: "pipe"}
    return kinds.get(stat.S_IFMT(mode), "device")
