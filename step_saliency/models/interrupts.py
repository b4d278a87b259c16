"""Changes to a model that are made, and taken back, as one: Ctrl-C comes before or after."""

import signal
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any


@contextmanager
def together(*contexts: AbstractContextManager[Any]) -> Iterator[None]:
    """Contexts that are entered as one and left as one: an interrupt does not come in between."""
    stack = ExitStack()
    try:
        with held_interrupts():
            for context in contexts:
                stack.enter_context(context)
        yield
    finally:
        with held_interrupts():
            stack.close()


@contextmanager
def held_interrupts() -> Iterator[None]:
    """An interrupt from the keyboard takes effect at the end; the main thread alone has them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGINT)
    if not callable(handler):
        yield
        return
    pending: list[tuple[int, Any]] = []
    signal.signal(signal.SIGINT, lambda number, frame: pending.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if pending:
            handler(*pending[0])
