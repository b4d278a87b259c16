"""One process at a time writes into a results folder, or into a file that grows.

The lock is the system's own on a file, ``.lock`` in a folder and ``.NAME.lock`` beside a file: it
ends with its process, however that ends, so nothing has to be removed by hand after a kill. The
file says who holds it, and goes when a run ends (one that opened it meanwhile notices and opens the
new one). Reading needs no lock.
"""

import json
import os
import platform
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from filelock import FileLock, Timeout

from step_saliency.storage.files import (
    WriteError,
    is_file,
    make_folder,
    read_bytes,
    refuse_special,
)

NAME = ".lock"


class InUseError(ValueError):
    """Somebody else writes at a place; nothing is wrong with what was asked for."""


class Lock:
    """A lock that is held from the start until `release`.

    Args:
        file: What is locked for it, in a folder that is there.
        place: What it stands for, for messages.

    Raises:
        InUseError: another process, or another run of this one, holds it.
        WriteError: the folder cannot be written.
    """

    def __init__(self, file: Path, place: Path) -> None:
        refuse_special(file)
        if file.is_symlink():
            raise WriteError(f"cannot lock {place}: {file} is a link to another place")
        self._file = file
        self._lock = FileLock(file, thread_local=False)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise InUseError(
                f"{place} is in use by {_holder(file)}; wait until it has ended, or choose another "
                "place"
            ) from None
        except OSError as error:
            raise WriteError(f"cannot lock {place}: {error.strerror or error}") from error
        _sign(file)

    def release(self) -> None:
        """Let others write; once is enough."""
        if not self._lock.is_locked:
            return
        with suppress(OSError):  # systems that keep an open file leave it there, empty of meaning
            self._file.unlink(missing_ok=True)
        self._lock.release()

    def __enter__(self) -> "Lock":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()


class FolderLock(Lock):
    """The lock of a results folder, which is there."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / NAME, folder)


class LogLock(Lock):
    """The lock of a file that grows, which may have to be made."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        file = Path(path)
        make_folder(file.parent)
        super().__init__(file.with_name(f".{file.name}{NAME}"), file)


def _sign(file: Path) -> None:
    """Say in the file who holds it; a full disk is no reason to stop here."""
    since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    text = json.dumps({"pid": os.getpid(), "host": platform.node(), "since": since})
    try:
        file.write_text(text, encoding="utf-8")
    except OSError:
        return


def _holder(file: Path) -> str:
    try:
        facts = json.loads(read_bytes(file)) if is_file(file) else {}
        return f"process {int(facts['pid'])} on {facts['host']} since {facts['since']}"
    except (ValueError, KeyError, TypeError, OSError):
        return "another process"
