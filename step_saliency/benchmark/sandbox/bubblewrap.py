"""A box by bubblewrap: its own processes, no network, a read-only root, an empty home.

In the box there are the system's libraries, an interpreter, numpy where this environment has it,
and the program; nothing of the rest of the disk, no environment variable of the caller, and no
process but its own. Written is to ``/tmp`` alone, which is memory of a fixed size and goes with the
box. Limits of time, memory, files and processes are taken on inside (`inside`). A box that is run
by root becomes another user first, one of its own, since limits on processes do not bind root and
are counted by user.

Bubblewrap makes the box as that user, in a user namespace of its own in which no further ones can
be made. Where the system does not allow this, `Bubblewrap.probe` raises with what it says.

When it misleads: the kernel is shared. A program that breaks the kernel breaks out. Memory is
limited per process, so that a box may use ``processes`` times as much.
"""

import asyncio
import importlib.util
import math
import os
import secrets
import select
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

from step_saliency.benchmark.sandbox import inside
from step_saliency.benchmark.sandbox.limits import Limits
from step_saliency.benchmark.sandbox.outcome import Outcome, SandboxError

FIRST_USER = 1 << 30
"""Users from here on own nothing on ordinary systems."""
SYSTEM = ("/usr", "/lib", "/lib64", "/lib32", "/bin")
PROBE = Limits(seconds=20)
START = 60.0
"""Seconds in which a box has to be ready; the program's own time begins then."""
BOXES = threading.BoundedSemaphore(len(os.sched_getaffinity(0)) if sys.platform == "linux" else 1)
"""At a time in this process: no more than processors, since time limits are those of a clock."""
ENVIRONMENT = {
    "HOME": "/tmp",
    "LANG": "C.UTF-8",
    "OPENBLAS_NUM_THREADS": "1",
    "PATH": "/usr/bin:/bin",
    "PYTHONHASHSEED": "0",
    "PYTHONPATH": "/packages",
}


@dataclass(frozen=True)
class Bubblewrap:
    """Boxes with one interpreter.

    Attributes:
        interpreter: Python that runs the programs.
        folders: Folders beyond the system's that it needs.
    """

    interpreter: str
    folders: tuple[str, ...] = ()

    @classmethod
    def probe(cls) -> "Bubblewrap":
        """The first interpreter with which a box works here.

        Raises:
            SandboxError: bubblewrap is missing, or no box works; with the reasons.
        """
        found = _probe()
        if isinstance(found, str):
            raise SandboxError(found)
        return found

    async def run(self, program: str, *, stdin: str = "", limits: Limits | None = None) -> Outcome:
        """As `run_now`, in another thread."""
        return await asyncio.to_thread(self.run_now, program, stdin=stdin, limits=limits)

    def run_now(self, program: str, *, stdin: str = "", limits: Limits | None = None) -> Outcome:
        """Run a Python program in a box of its own.

        Args:
            program: Its text.
            stdin: What it reads from standard input.
            limits: What it may use.

        Raises:
            SandboxError: the box could not be made, so that nothing is known of the program.
        """
        with BOXES:
            return self._run(program, stdin, limits or Limits())

    def _run(self, program: str, stdin: str, limits: Limits) -> Outcome:
        reading, writing = os.pipe()
        with (
            os.fdopen(reading, "rb") as report,
            tempfile.TemporaryFile() as out,
            tempfile.TemporaryFile() as err,
            _text_file(program) as main,
            _text_file(stdin) as given,
        ):
            try:
                process = subprocess.Popen(
                    self._command(main.fileno(), writing, limits),
                    stdin=given,
                    stdout=out,
                    stderr=err,
                    pass_fds=(main.fileno(), writing),
                    env={},
                    start_new_session=True,
                    **_another_user(),
                )
            finally:
                os.close(writing)
            is_ready = _is_ready(process, report)
            is_late = _wait(process, limits.seconds if is_ready else 0)
            texts = [_read(stream, limits.file_bytes) for stream in (out, err)]
            if not is_ready:
                reason = texts[1].strip()[-300:] or f"it was not ready after {START:g} seconds"
                raise SandboxError(f"the box could not be made: {reason}")
        return _outcome(process.returncode, texts, is_late=is_late)

    def _command(self, main: int, report: int, limits: Limits) -> list[str]:
        numbers = [
            report,
            math.ceil(limits.seconds) + 1,
            limits.memory,
            limits.file_bytes,
            limits.processes,
            limits.open_files,
        ]
        return [
            *(
                shutil.which("bwrap") or "bwrap",
                "--unshare-all",
                "--unshare-user",
                "--disable-userns",
            ),
            *("--die-with-parent", "--new-session", "--clearenv"),
            *(part for name, value in ENVIRONMENT.items() for part in ("--setenv", name, value)),
            *_mounts((*SYSTEM, *self.folders)),
            *_packages(),
            *("--proc", "/proc", "--dev", "/dev"),
            *("--perms", "0444", "--ro-bind-data", str(main), inside.PROGRAM),
            *("--size", str(limits.disk_bytes), "--tmpfs", "/tmp", "--chdir", "/tmp"),
            *("--remount-ro", "/dev", "--remount-ro", "/"),
            *("--", self.interpreter, "-I", "-S", "-B", "-c", _bootstrap()),
            *map(str, numbers),
        ]


@lru_cache(maxsize=1)
def _probe() -> Bubblewrap | str:
    if sys.platform != "linux" or shutil.which("bwrap") is None:
        return "bubblewrap (bwrap) is not installed, or this is not Linux"
    reasons = []
    for box in _candidates():
        try:
            outcome = box.run_now("print(6 * 7)", limits=PROBE)
        except (SandboxError, OSError) as error:
            reasons.append(f"{box.interpreter}: {error}")
            continue
        if outcome.stdout == "42\n":
            return box
        reasons.append(f"{box.interpreter}: {outcome.stderr.strip()[-200:] or outcome.ending}")
    return f"bubblewrap makes no box here ({'; '.join(reasons)})"


def _candidates() -> list[Bubblewrap]:
    """This environment's interpreter, then those of the system."""
    base = Path(sys.base_prefix)
    ours = base / "bin" / f"python{sys.version_info[0]}.{sys.version_info[1]}"
    folders = () if base.is_relative_to("/usr") else (str(base),)
    boxes = [Bubblewrap(str(ours), folders)]
    boxes += [Bubblewrap(f"{place}/python3") for place in ("/usr/local/bin", "/usr/bin")]
    return [box for box in boxes if Path(box.interpreter).exists()]


def _mounts(folders: Sequence[str]) -> Iterator[str]:
    for folder in folders:
        place = Path(folder)
        if place.is_symlink():
            yield from ("--symlink", os.readlink(place), folder)
        elif place.exists():
            yield from ("--ro-bind", folder, folder)


@lru_cache(maxsize=1)
def _packages() -> tuple[str, ...]:
    """numpy of this environment, which programs of contests use, and nothing else of it."""
    spec = importlib.util.find_spec("numpy")
    if spec is None or spec.origin is None or not _is_open_to_all(Path(spec.origin)):
        return ()
    folder = Path(spec.origin).parent
    pairs = [(folder, "/packages/numpy"), (folder.with_name("numpy.libs"), "/packages/numpy.libs")]
    return tuple(
        part for here, there in pairs if here.is_dir() for part in ("--ro-bind", str(here), there)
    )


def _is_open_to_all(file: Path) -> bool:
    """Whether another user may read what lies here."""
    return all(parent.stat().st_mode & 0o001 for parent in file.parents)


@lru_cache(maxsize=1)
def _bootstrap() -> str:
    return Path(inside.__file__).read_text(encoding="utf-8")


def _another_user() -> dict[str, Any]:
    """Of a box that root makes: a user that no other box has."""
    if os.geteuid() != 0:
        return {}
    user = FIRST_USER + secrets.randbelow(FIRST_USER - 1)
    return {"user": user, "group": user, "extra_groups": []}


@contextmanager
def _text_file(text: str) -> Iterator[IO[bytes]]:
    with tempfile.TemporaryFile() as stream:
        stream.write(text.encode("utf-8", "replace"))
        stream.seek(0)
        yield stream


def _is_ready(process: "subprocess.Popen[bytes]", report: IO[bytes]) -> bool:
    """Wait until the program is about to begin; False if the box ends before, or takes too long."""
    waiting = select.poll()
    waiting.register(report, select.POLLIN)
    try:
        return bool(waiting.poll(1000 * START)) and report.read(5) == b"ready"
    except BaseException:
        process.kill()
        process.wait()
        raise


def _wait(process: "subprocess.Popen[bytes]", seconds: float | int) -> bool:
    """Wait for the end; True if it had to be brought about. What is in the box ends with it."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return True
    except BaseException:
        process.kill()
        process.wait()
        raise
    return False


def _read(stream: IO[bytes], longest: int) -> str:
    stream.seek(0)
    return stream.read(longest).decode("utf-8", "replace")


def _outcome(status: int, texts: Sequence[str], *, is_late: bool) -> Outcome:
    stdout, stderr = texts
    if is_late:
        return Outcome("time", stdout, stderr, status=status)
    return Outcome("finished" if status == 0 else "failed", stdout, stderr, status=status)
