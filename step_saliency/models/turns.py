"""Threads take turns on a model: maps, attached edits and decoding change it for a while.

    turn(model)                          wait until no other thread has the model; reentrant
    turn(model, alone="waits")           and passes that other threads begin wait until it is over
    turn(model, alone="refuses")         and passes that other threads begin raise RuntimeError

A turn belongs to a thread, not to a coroutine. On CUDA, autograd runs backward passes, and with
them hooks on gradients and passes that are computed anew, in threads of its own: these belong to
whoever asked for the backward pass. It is that of the weights: a TransformerBridge and
the transformers model inside it have one, and `share_turn` gives a reference model that of its
model. While a model is alone, its entries (itself, its embedding, its blocks) stop other threads; a
pass that another thread had begun before stops at the next block. What it can still reach inside of
a block, hooks and methods that are put in place for a while, serves the thread that put it there
and raises RuntimeError in others (`owned`).

Waiting refuses nothing, but whoever holds the turn must not wait for what waits for it; hence edits
that are attached for as long as a user likes refuse.

When it misleads: hooks that other threads put on the model themselves act in a map too.
"""

import math
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any, Literal, TypeVar, cast
from weakref import WeakKeyDictionary

import torch
from torch import nn
from transformers import PreTrainedModel

from step_saliency.models.interrupts import interruptible, one_change

SAID_AFTER = 30.0
"""Seconds of waiting after which a warning says for what."""
WAITS = 0.002
"""Seconds between looks at whose turn it is. Locks with a queue leave it in disorder when they are
interrupted; looking does not."""
Alone = Literal["waits", "refuses"]


class Turn:
    """Who has a model: a reentrant lock that any thread may give back for its holder.

    Who has waited longest is next, so that a thread that takes turn after turn keeps none out.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.holder: threading.Thread | None = None
        self.guards: dict[int, Guard] = {}
        self._claims: list[Claim] = []
        self._waiting: list[Claim] = []

    def take(self, claim: "Claim") -> None:
        """Wait until no other thread has it.

        Raises:
            RuntimeError: the thread that has it ended without giving it back.
        """
        said_at = time.monotonic() + SAID_AFTER
        while True:
            with self.lock:
                holder = self.holder
                if self._is_next(claim):
                    self.holder = claim.thread
                    self._claims.append(claim)
                    return
            if holder is not None and not holder.is_alive():
                raise RuntimeError(
                    f"thread {holder.name!r} ended while edits of it were attached to this "
                    "model; leave their context"
                )
            if time.monotonic() > said_at:
                said_at = math.inf
                _say_what_is_waited_for("another" if holder is None else holder.name)
            wait()

    def _is_next(self, claim: "Claim") -> bool:
        """Whether a claim is the holder's, or nobody's turn it is and none waits longer."""
        if self.holder is claim.thread:
            return True
        if claim not in self._waiting:
            self._waiting.append(claim)
        if self.holder is not None or self._waiting[0] is not claim:
            return False
        self._waiting.remove(claim)
        return True

    def leave(self, claim: "Claim") -> None:
        """Give up a claim, also one that was broken off; the last one gives the turn back."""
        with self.lock:
            for claims in (self._claims, self._waiting):
                if claim in claims:
                    claims.remove(claim)
            if not self._claims and self.holder is claim.thread:
                self.holder = None


@interruptible
def wait() -> None:
    """Let other threads go on for a while."""
    time.sleep(WAITS)


class Claim:
    """One use of a turn by the thread that makes it."""

    def __init__(self) -> None:
        self.thread = threading.current_thread()


class Guard:
    """Closes the entries of a model to other threads.

    Args:
        model: HookedTransformer, TransformerBridge or transformers model.
        alone: What happens to passes of other threads.
    """

    def __init__(self, model: Any, alone: Alone) -> None:
        self.alone = alone
        self.uses = 0
        self._holder = threading.current_thread()
        self._entries = entries(model)
        self._is_over = False
        self._handles: list[Any] = []

    def close(self) -> None:
        """Close the entries."""
        for module in self._entries:
            self._handles.append(module.register_forward_pre_hook(self._stop, prepend=True))

    def open(self) -> None:
        """Open the entries; passes that wait go on."""
        for handle in self._handles:
            handle.remove()
        self._is_over = True

    def _stop(self, _module: nn.Module, _args: Any) -> None:
        if is_mine(self._holder):
            return
        if self.alone == "refuses":
            raise not_mine(self._holder.name)
        while not self._is_over:
            wait()


Function = TypeVar("Function", bound=Callable[..., Any])


def is_mine(holder: threading.Thread) -> bool:
    """Whether this thread is the holder, or one of autograd's own in a backward pass."""
    current = threading.current_thread()
    return current is holder or (_is_foreign(current) and _in_backward())


def _is_foreign(thread: threading.Thread) -> bool:
    """Whether a thread was not started by Python, as those of autograd are."""
    return isinstance(thread, threading._DummyThread)


def _in_backward() -> bool:
    return bool(torch._C._current_graph_task_id() != -1)


def owned(function: Function) -> Function:
    """A hook or method that serves the thread that made it, and raises RuntimeError in others."""
    holder = threading.current_thread()

    @wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        if not is_mine(holder):
            raise not_mine(holder.name)
        return function(*args, **kwargs)

    return cast(Function, checked)


def skipped_by_others(function: Function) -> Function:
    """A hook of torch's that serves the thread that made it, and does nothing in others.

    For one that comes before what stops other threads at the entries of a model.
    """
    holder = threading.current_thread()

    @wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs) if is_mine(holder) else None

    return cast(Function, checked)


def owned_hooks(hooks: Iterable[tuple[str, Function]]) -> list[tuple[str, Function]]:
    """Named hooks, each for this thread alone."""
    return [(name, owned(function)) for name, function in hooks]


def not_mine(holder: str) -> RuntimeError:
    """What a thread is told that runs into the hooks of another."""
    return RuntimeError(
        f"thread {holder!r} has edits attached to this model or maps with it, and thread "
        f"{threading.current_thread().name!r} ran the model meanwhile; run it in the thread that "
        "attached the edits, or wait for your turn: with step_saliency.models.turns.turn(model): "
        "..."
    )


def _say_what_is_waited_for(holder: str) -> None:
    warnings.warn(
        f"thread {threading.current_thread().name!r} has waited {SAID_AFTER:g} s for its turn on "
        f"the model, which thread {holder!r} has: maps, decoding and attached edits of several "
        "threads take turns",
        RuntimeWarning,
        stacklevel=4,
    )


_turns: "WeakKeyDictionary[nn.Module, Turn]" = WeakKeyDictionary()
_turns_lock = threading.Lock()
os.register_at_fork(after_in_child=_turns.clear)


def turn_of(model: Any) -> Turn:
    """The turn of a model's weights."""
    with _turns_lock:
        return _turns.setdefault(inner_model(model), Turn())


def share_turn(model: Any, reference: Any) -> None:
    """Give a reference model the turn of its model, unless it has one that somebody holds."""
    turn = turn_of(model)
    with _turns_lock:
        other = _turns.get(inner_model(reference))
        if other is None or other.holder is None:
            _turns[inner_model(reference)] = turn


@one_change
def turn(exits: ExitStack, model: Any, *, alone: Alone | None = None) -> None:
    """Context in which no other thread maps with a model, decodes with it or attaches edits to it.

    Inside of a turn of the same thread, the outer one says what happens to others.

    Args:
        exits: What gives the turn back; callers leave it out.
        model: HookedTransformer, TransformerBridge or transformers model.
        alone: Whether passes that other threads begin meanwhile wait or raise RuntimeError; by
            default they run.

    Raises:
        RuntimeError: the thread that has the turn ended without giving it back.
    """
    held, claim = turn_of(model), Claim()
    exits.callback(held.leave, claim)
    held.take(claim)
    if alone is not None:
        exits.enter_context(_guarded(model, held, alone))


@contextmanager
def _guarded(model: Any, held: Turn, alone: Alone) -> Iterator[None]:
    """Close a model, unless an outer context has done so; the last one that is left opens it."""
    key = id(inner_model(model))
    guard = held.guards.get(key)
    if guard is None:
        others = next(iter(held.guards.values()), None)
        guard = held.guards[key] = Guard(model, others.alone if others else alone)
    guard.uses += 1
    try:
        if guard.uses == 1:
            guard.close()
        yield
    finally:
        guard.uses -= 1
        if guard.uses == 0:
            del held.guards[key]
            guard.open()


def inner_model(model: Any) -> nn.Module:
    """The module that has the weights: what a bridge is around, or the model itself."""
    is_bridge = any(cls.__name__ == "TransformerBridge" for cls in type(model).__mro__)
    inner: nn.Module = model.original_model if is_bridge else model
    return inner


def entries(model: Any) -> list[nn.Module]:
    """Modules, each once, through one of which every pass begins, and the blocks."""
    inner = inner_model(model)
    candidates = [model, inner, getattr(model, "embed", None), *getattr(model, "blocks", ())]
    if isinstance(inner, PreTrainedModel):
        base = inner.base_model
        candidates += [base, inner.get_input_embeddings()]
        lists = [part for part in base.modules() if isinstance(part, nn.ModuleList)]
        candidates += [block for part in lists[:1] for block in part]
    modules = {id(module): module for module in candidates if isinstance(module, nn.Module)}
    return list(modules.values())
