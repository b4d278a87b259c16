"""Changes to a model that are made, and taken back, as one: Ctrl-C comes before or after.

Python raises an interrupt where a function is called or a loop turns, so also in the first line of
what is to clean up. It raises none before the assignment of an attribute; hence the order

    hold = Hold()
    try:
        hold.begin()
        ...                     # interrupts come as ever
    finally:
        hold.on = True          # from here on they are kept
        ...                     # clean up
        hold.end()              # and now they come
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import wraps
from typing import Any, ParamSpec

P = ParamSpec("P")


class Hold:
    """Stands in for the handler of interrupts, and keeps them while ``on`` is set.

    Attributes:
        on: Whether interrupts are kept for later.
    """

    def __init__(self) -> None:
        self.on = False
        self.is_over = False
        self.below: Any = None
        self._kept: tuple[int, Any] | None = None

    def begin(self) -> None:
        """Take the place of the handler that there is; the main thread alone has interrupts."""
        handler = _in_force()
        if threading.current_thread() is threading.main_thread() and callable(handler):
            self.below = handler
            signal.signal(signal.SIGINT, self)

    def __call__(self, number: int, frame: Any) -> None:
        """What Python calls at an interrupt."""
        if self.on:
            self._kept = (number, frame)
        elif self.below is not None:
            self.below(number, frame)

    def let_through(self) -> None:
        """Interrupts come as ever, first the one that was kept."""
        self.on = False
        kept, self._kept = self._kept, None
        if kept is not None:
            self.below(*kept)

    def end(self) -> None:
        """Give the place back, where it is still ours, and let a kept interrupt through."""
        self.is_over = True
        is_main = threading.current_thread() is threading.main_thread()
        if is_main and signal.getsignal(signal.SIGINT) is self:
            signal.signal(signal.SIGINT, _in_force())
        self.let_through()


def _in_force() -> Any:
    """The handler of interrupts, or what stood below holds that are over."""
    handler = signal.getsignal(signal.SIGINT)
    while isinstance(handler, Hold) and handler.is_over:
        handler = handler.below
    return handler


@contextmanager
def together(*contexts: AbstractContextManager[Any]) -> Iterator[None]:
    """Contexts that are entered as one and left as one: an interrupt does not come in between."""
    stack, hold = ExitStack(), Hold()
    try:
        hold.begin()
        hold.on = True
        for context in contexts:
            stack.enter_context(context)
        hold.let_through()
        yield
    finally:
        hold.on = True
        try:
            stack.close()
        finally:
            hold.end()


def change(function: Callable[P, Iterator[None]]) -> Callable[P, AbstractContextManager[None]]:
    """Decorator in place of `contextmanager`, for what changes a model for a while.

    Args:
        function: Makes the change, yields, and takes it back.
    """
    context = contextmanager(function)

    @wraps(function)
    def as_one(*args: P.args, **kwargs: P.kwargs) -> AbstractContextManager[None]:
        return together(context(*args, **kwargs))

    return as_one
