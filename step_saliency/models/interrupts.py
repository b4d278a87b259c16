"""Changes to a model that are made, and taken back, as one: Ctrl-C comes before or after.

Python raises an interrupt where a function begins, a loop turns or C code returns: so also in the
first line of what is to clean up, before any ``try`` of it. Hence the handler of interrupts decides
(`Hold`): it sees in which functions it was called, and keeps what comes while a `Change` is being
entered or left until that is done. In between interrupts come as ever.
"""

import signal
import sys
import threading
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import wraps
from inspect import unwrap
from types import CodeType, FrameType
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, no_type_check

P = ParamSpec("P")
T = TypeVar("T")
Function = TypeVar("Function", bound=Callable[..., Any])

_keeps: dict[CodeType, bool] = {}
"""Functions that say whether interrupts are kept while they, or what they call, run."""


class Hold:
    """Stands in for the handler of interrupts while a change is in force.

    Attributes:
        below: The handler in whose place it stands.
        is_over: Whether the change has been taken back.
    """

    def __init__(self) -> None:
        self.below: Any = None
        self.is_over = False
        self._kept: int | None = None

    def begin(self) -> None:
        """Take the place of the handler that there is; the main thread alone has interrupts."""
        handler = _in_force(signal.getsignal(signal.SIGINT))
        if threading.current_thread() is threading.main_thread() and callable(handler):
            self.below = handler
            signal.signal(signal.SIGINT, self)

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """What Python calls at an interrupt."""
        if not self.is_over and _are_kept(frame):
            self._kept = number
        elif self.below is not None:
            self.below(number, frame)

    def let_through(self, frame: FrameType | None) -> None:
        """An interrupt that was kept comes now.

        Args:
            frame: Where it is said to come.
        """
        number, self._kept = self._kept, None
        if number is not None:
            self.below(number, frame)

    def end(self, frame: FrameType | None) -> None:
        """Give the place back, where it is still ours, and let a kept interrupt through."""
        is_main = threading.current_thread() is threading.main_thread()
        if is_main and self._is_in_force():
            signal.signal(signal.SIGINT, _in_force(self.below))
        self.is_over = True
        self.let_through(frame)

    def _is_in_force(self) -> bool:
        handler: Any = signal.getsignal(signal.SIGINT)
        return handler is self


def _in_force(handler: Any) -> Any:
    """A handler of interrupts, or what stood below it if it is a hold that is over."""
    while isinstance(handler, Hold) and handler.is_over:
        handler = handler.below
    return handler


def _are_kept(frame: FrameType | None) -> bool:
    """Whether the innermost function that says so keeps interrupts."""
    while frame is not None:
        keeps = _keeps.get(frame.f_code)
        if keeps is not None:
            return keeps
        frame = frame.f_back
    return False


def interruptible(function: Function) -> Function:
    """Decorator: interrupts come as ever in here, also while a change is entered; it waits."""
    _keeps[unwrap(function).__code__] = False
    return function


def uninterrupted(function: Function) -> Function:
    """Decorator: interrupts that come in here, within a change, wait until that is taken back."""
    _keeps[unwrap(function).__code__] = True
    return function


class Change(AbstractContextManager[T], Generic[T]):
    """A context that is entered as one and left as one, by one thread at a time.

    Subclasses say what is done (`enter`) and what is to be done at the end (the stack).
    """

    def __init__(self) -> None:
        self._hold = Hold()
        self._exits = ExitStack()
        self._is_open = False

    @abstractmethod
    def enter(self, exits: ExitStack) -> T:
        """Make the change.

        Args:
            exits: Takes everything back; to be told of each part before or as it is done.

        Returns:
            What ``with ... as`` gives.
        """

    def exited(self, *, raised: bool) -> None:
        """Called when the change has been taken back.

        Args:
            raised: Whether the body raised.
        """

    @no_type_check  # a type checker would wrap these two, and be the function that is interrupted
    def __enter__(self):
        outside = sys._getframe().f_back
        if self._is_open:
            raise RuntimeError("this context is entered already; make another one for inside")
        self._hold, self._exits = Hold(), ExitStack()
        try:
            self._hold.begin()
            entered = self.enter(self._exits)
            self._is_open = True
            self._hold.let_through(outside)
        except BaseException:
            self._is_open = False
            try:
                self._exits.close()
            finally:
                self._hold.end(outside)
            raise
        return entered

    @no_type_check
    def __exit__(self, *error):
        outside = sys._getframe().f_back
        try:
            self._is_open = False
            self._exits.close()
            self.exited(raised=bool(error) and error[0] is not None)
        finally:
            self._hold.end(outside)


_keeps[Change.__enter__.__code__] = True
_keeps[Change.__exit__.__code__] = True


class _Change(Change[T]):
    """A change that a function makes."""

    def __init__(self, make: Callable[[ExitStack], T]) -> None:
        super().__init__()
        self._make = make

    def enter(self, exits: ExitStack) -> T:
        return self._make(exits)


def one_change(make: Callable[Concatenate[ExitStack, P], T]) -> Callable[P, Change[T]]:
    """Decorator: a function that makes a change becomes one that returns its context.

    Args:
        make: Makes the change and gives what ``with ... as`` gives. Its first argument takes
            everything back; it is to be told of each part before or as it is done.
    """

    @wraps(make)
    def as_one(*args: P.args, **kwargs: P.kwargs) -> Change[T]:
        return _Change(lambda exits: make(exits, *args, **kwargs))

    return as_one


def change(function: Callable[P, Iterator[T]]) -> Callable[P, Change[T]]:
    """Decorator in place of `contextmanager`, for what changes a model for a while.

    Args:
        function: Makes the change, yields, and takes it back.
    """
    context = contextmanager(function)

    @wraps(function)
    def as_one(*args: P.args, **kwargs: P.kwargs) -> Change[T]:
        return _Change(lambda exits: exits.enter_context(context(*args, **kwargs)))

    return as_one


@one_change
def together(exits: ExitStack, *contexts: AbstractContextManager[Any]) -> None:
    """Contexts that are entered as one and left as one: an interrupt does not come in between."""
    for context in contexts:
        exits.enter_context(context)
