"""Equality of two expressions by `math-verify`, with a time limit that really ends.

The comparison runs in a process that lives as long as this one and is ended when it computes longer
than the limit (a tower of powers never finishes). So the limit holds in every thread, no signal or
alarm of this process is touched, and a verdict does not depend on what else the machine does.
"""

import atexit
import json
import os
import signal
import subprocess
import sys
import threading
import warnings
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

SECONDS = 5.0
"""Time limit of one comparison, in seconds of computing."""
PATIENCE = 12 if hasattr(signal, "setitimer") else 1
"""Seconds to wait for each second of computing; where that cannot be measured, no more than it."""
START_SECONDS = 120.0
"""Time limit of starting the process that compares."""
MAX_LENGTH = 2000
"""Longest expression that is compared by its value."""

_SCRIPT = Path(__file__).with_name("symbolic_worker.py")


class Worker:
    """The process that compares, started when it is first asked."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    def ask(self, gold: str, given: str, seconds: float) -> bool | None:
        """Answer of the process.

        Raises:
            TimeoutError: it took longer than ``seconds``.
            RuntimeError: the process cannot be started.
        """
        with self._lock:
            process = self._process
            if process is None or process.poll() is not None:
                process = self._start()
            line = self._exchange(process, json.dumps([gold, given, seconds]), seconds * PATIENCE)
        if not line:
            raise TimeoutError(f"no result within {seconds:g} s")
        answer: bool | None = json.loads(line)
        return answer

    def stop(self) -> None:
        """End the process, if it runs."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    _close(pipe)

    def _start(self) -> "subprocess.Popen[str]":
        # The file itself: a module would import the whole package in the new process.
        process = subprocess.Popen(
            [sys.executable, "-P", str(_SCRIPT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
        )
        self._process = process
        if self._exchange(process, json.dumps(sys.path), START_SECONDS).strip() != "ready":
            raise RuntimeError(
                f"the process that compares expressions did not start: {sys.executable} {_SCRIPT}"
            )
        return process

    def _exchange(self, process: "subprocess.Popen[str]", line: str, seconds: float) -> str:
        """Write a line and read one; empty, with the process ended, if that takes too long."""
        assert process.stdin is not None
        assert process.stdout is not None
        timer = threading.Timer(seconds, process.kill)
        timer.daemon = True
        timer.start()
        answer = ""
        try:
            process.stdin.write(line + "\n")
            process.stdin.flush()
            answer = process.stdout.readline()
        except BrokenPipeError:
            pass
        finally:
            timer.cancel()
            if not answer:  # ended, or left behind by an interrupt: its next line is not ours
                self.stop()
        return answer


def _close(pipe: Any) -> None:
    with suppress(OSError):
        pipe.close()


_WORKER = Worker()


def _forget_worker() -> None:
    """A forked process does not share the pipes of its parent."""
    global _WORKER
    _WORKER = Worker()


def _stop_worker() -> None:
    _WORKER.stop()


atexit.register(_stop_worker)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_worker)


@lru_cache(maxsize=4096)
def equal_expressions(gold: str, given: str) -> bool | None:
    """Whether two expressions have the same value; None, with a warning, if that takes too long.

    Args:
        gold: Expression in LaTeX.
        given: Another one.

    Returns:
        True or False, or None if one of them cannot be read.
    """
    if max(len(gold), len(given)) > MAX_LENGTH:
        return None
    try:
        return _WORKER.ask(gold, given, SECONDS)
    except TimeoutError:
        warnings.warn(
            f"answers {given[:60]!r} and {gold[:60]!r} were not compared within {SECONDS:g} s: "
            "unknown",
            stacklevel=2,
        )
        return None
