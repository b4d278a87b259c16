"""What a command prints into: pipes that are closed, disks that are full, bars that are not wanted.

Python writes what is left of the output when it ends, and would complain then that it cannot.
"""

import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager

UNREAD = 128 + 13
"""Exit status of what a broken pipe ends, as shells count it."""


def is_unread() -> bool:
    """Whether the output goes into a pipe whose other end is closed."""
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        return bool(poll.poll(0))
    except (AttributeError, OSError):  # no poll on this system; an output without a file
        return False


def drop_what_is_left() -> None:
    """Leave nothing to be written when Python ends, of streams that take no more."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@contextmanager
def bars(*, shown: bool) -> Iterator[None]:
    """Bars that transformers draws, such as that of loading weights, are shown where ours are."""
    from transformers.utils import logging

    before = logging.is_progress_bar_enabled()
    if not shown:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        if before:
            logging.enable_progress_bar()
