"""Does a pass go on from the cache of what was read last?

A session follows one batch at a time. Which cache a pass has is known before it; what the cache
holds is not, but it is what was read when it was there last:

    the same cache as in the last pass        goes on
    one that was left for another, or none    goes on if it holds the tokens that were read last
    one that was never seen                   goes on: a copy of what was read, or empty

When it misleads: a cache that was filled elsewhere and has as many positions as were read here.
"""

import functools
from typing import Any, Protocol, runtime_checkable
from weakref import WeakKeyDictionary, WeakSet, ref

from jaxtyping import Int
from torch import Tensor


@runtime_checkable
class Listener(Protocol):
    """Who is to hear of rows that change places."""

    def keep(self, rows: Int[Tensor, "row"]) -> None:
        """The batch goes on with these rows only, in this order."""


class SeenCaches:
    """The caches of a model's passes.

    Args:
        listener: Who hears of it when a cache of transformers has its rows change places, as in
            beam search.
    """

    def __init__(self, listener: Listener) -> None:
        self._listener: ref[Any] = ref(listener)
        self._telling: WeakSet[Any] = WeakSet()
        self._current: ref[Any] | None = None
        self._left: dict[int, tuple[ref[Any], Int[Tensor, "batch key"]]] = {}
        self._held: Int[Tensor, "batch key"] | None = None

    def see(self, cache: Any, tokens: Int[Tensor, "batch key"] | None) -> None:
        """Hear what cache the next pass has.

        Args:
            cache: The cache; None without.
            tokens: What was read last.
        """
        last = None if self._current is None else self._current()
        self._held = None
        if cache is last:
            return
        if last is not None and tokens is not None:
            place, left = id(last), self._left
            left[place] = ref(last, lambda _dead: left.pop(place, None)), tokens.clone()
        self._current = None if cache is None else ref(cache)
        known, held = self._left.pop(id(cache), (None, None))
        self._held = held if known is not None and known() is cache else None
        if hasattr(cache, "reorder_cache") and cache not in self._telling:
            self._telling.add(cache)
            _hear(cache, self._listener)

    def check(self, tokens: Int[Tensor, "batch key"] | None, n_past: int) -> None:
        """Refuse a cache that is gone back to and holds something else than was read last.

        Args:
            tokens: What was read last.
            n_past: Positions in the cache.

        Raises:
            ValueError: it does.
        """
        held, self._held = self._held, None
        if held is None or tokens is None or n_past == 0:
            return
        if held[:, :n_past].equal(tokens[:, :n_past]):
            return
        self._current = None
        raise ValueError(
            "the cache goes on from other tokens than were read last: edits that are attached "
            "follow one batch at a time; read one to its end, or attach them for each anew and "
            "fill its cache inside of that context"
        )

    def forget(self) -> None:
        """Batches are joined: what caches held is no guide any more."""
        self._current, self._left, self._held = None, {}, None

    def close(self) -> None:
        """The passes are over."""
        for cache in list(self._telling):
            _hear_no_more(cache, self._listener)


_LISTENERS: "WeakKeyDictionary[Any, list[ref[Any]]]" = WeakKeyDictionary()


def _hear(cache: Any, listener: "ref[Any]") -> None:
    """Have a cache of transformers tell a listener of rows that change places."""
    listeners = _LISTENERS.setdefault(cache, [])
    if not listeners:
        cache.__class__ = _telling(type(cache))  # type: ignore[arg-type]
    listeners.append(listener)


def _hear_no_more(cache: Any, listener: "ref[Any]") -> None:
    listeners = _LISTENERS[cache]
    listeners.remove(listener)
    if not listeners:
        cache.__class__ = type(cache).plain


@functools.cache
def _telling(kind: type) -> Any:
    """Caches of a kind that tell of rows that change places; copies of them are plain."""

    class Telling(kind):  # type: ignore[misc]
        plain = kind

        def reorder_cache(self, rows: Int[Tensor, "row"]) -> None:
            super().reorder_cache(rows)
            for listener in _LISTENERS.get(self, []):
                if (hears := listener()) is not None:
                    hears.keep(rows)

        def __reduce_ex__(self, protocol: Any) -> Any:
            make, (_, *fields), *rest = super().__reduce_ex__(protocol)
            return (make, (kind, *fields), *rest)

    Telling.__name__, Telling.__qualname__ = kind.__name__, kind.__qualname__
    return Telling
