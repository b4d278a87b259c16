"""Does a pass go on from the cache of what was read last?

A session follows one batch at a time. Which cache a pass has is known before it; what the cache
holds is not, but it is what was read when it was there last:

    the same cache as in the last pass        goes on
    one that was left for another, or none    goes on if it holds the tokens that were read last
    one that was never seen                   goes on if it is empty, or a copy of such a one

A copy holds the same numbers as what was copied, in the deepest layer that has kept all positions.

When it misleads: a cache that is not handed to the model but to a method of it (as
`HookedTransformer.generate` does with its own).
"""

import functools
from typing import Any, Protocol, runtime_checkable
from weakref import WeakKeyDictionary, WeakSet, ref

import torch
from jaxtyping import Float, Int
from torch import Tensor

N_AXES = 4


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
        self._is_new = False
        self._is_vouched_for = False

    def see(self, cache: Any, tokens: Int[Tensor, "batch key"] | None) -> None:
        """Hear what cache the next pass has.

        Args:
            cache: The cache; None without.
            tokens: What was read last.
        """
        last = self._last()
        self._held, self._is_new = None, False
        if cache is last:
            return
        if last is not None and tokens is not None:
            place, left = id(last), self._left
            left[place] = ref(last, lambda _dead: left.pop(place, None)), tokens.clone()
        known, held = self._left.pop(id(cache), (None, None))
        is_known = known is not None and known() is cache
        self._held = held if is_known else None
        self._is_new = cache is not None and not is_known
        self._follow(cache)

    def made(self, cache: Any) -> None:
        """Hear what cache a pass has left.

        Args:
            cache: The cache; None without.
        """
        if self._last() is None:
            self._follow(cache)

    def _last(self) -> Any:
        return None if self._current is None else self._current()

    def _follow(self, cache: Any) -> None:
        self._current = None if cache is None else ref(cache)
        if hasattr(cache, "reorder_cache") and cache not in self._telling:
            self._telling.add(cache)
            _hear(cache, self._listener)

    def check(self, tokens: Int[Tensor, "batch key"] | None, n_past: int) -> None:
        """Refuse a cache that holds something else than was read last.

        Args:
            tokens: What was read last.
            n_past: Positions in the cache.

        Raises:
            ValueError: it does.
        """
        held, self._held = self._held, None
        is_new, self._is_new = self._is_new, False
        is_vouched_for, self._is_vouched_for = self._is_vouched_for, False
        if tokens is None or n_past == 0 or (held is None and not is_new):
            return
        if is_new and (is_vouched_for or self._is_copy(tokens, n_past)):
            return
        if held is not None and _begin_alike(held, tokens, n_past):
            return
        self._current = None
        if is_new:
            raise ValueError(
                f"the cache has {n_past} positions that were not read here: fill it inside of the "
                "context too, or say what it holds with session.resume(tokens)"
            )
        raise ValueError(
            "the cache goes on from other tokens than were read last: edits that are attached "
            "follow one batch at a time; read one to its end, or attach them for each anew and "
            "fill its cache inside of that context"
        )

    def _is_copy(self, tokens: Int[Tensor, "batch key"], n_past: int) -> bool:
        """Whether the cache is a copy of one that holds what was read last."""
        return any(
            _begin_alike(held, tokens, n_past) and _hold_the_same(self._last(), other(), n_past)
            for other, held in list(self._left.values())
        )

    def vouch(self) -> None:
        """The next cache holds what was read last, if it was not seen."""
        self._is_vouched_for = True

    def forget(self) -> None:
        """Batches are joined: what caches held is no guide any more."""
        self._current, self._left, self._held = None, {}, None
        self.vouch()

    def close(self) -> None:
        """The passes are over."""
        for cache in list(self._telling):
            _hear_no_more(cache, self._listener)


def _begin_alike(
    one: Int[Tensor, "batch key"], other: Int[Tensor, "row place"], n_first: int
) -> bool:
    return one[:, :n_first].equal(other[:, :n_first])


def _hold_the_same(one: Any, other: Any, n_first: int) -> bool:
    """Whether two caches hold the same keys of the first positions, to the bit."""
    keys, others = _whole_keys(one), _whole_keys(other)
    shared = sorted(
        layer for layer in keys.keys() & others.keys() if keys[layer].shape[1] >= n_first
    )
    if not shared:
        return False
    a, b = (held[shared[-1]][:, :n_first] for held in (keys, others))
    return a.device == b.device and torch.equal(a, b)


def _whole_keys(cache: Any) -> dict[int, Float[Tensor, "batch key *rest"]]:
    """Keys of the layers that have kept all positions, by layer."""
    if hasattr(cache, "entries"):
        return {layer: entry.past_keys for layer, entry in enumerate(cache.entries)}
    layers = enumerate(getattr(cache, "layers", []))
    held = {layer: (one, getattr(one, "keys", None)) for layer, one in layers}
    return {
        layer: keys.transpose(1, 2)
        for layer, (one, keys) in held.items()
        if isinstance(keys, Tensor) and keys.ndim == N_AXES
        if int(one.get_seq_length()) <= keys.shape[2]
    }


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
