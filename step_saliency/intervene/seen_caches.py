"""Does a pass go on from the cache of what was read last?

A session follows one batch at a time. Which cache a pass has is known before it; what the cache
holds is not, but it is what was read when it was there last:

    the same cache as in the last pass        goes on
    one that was left for another, or none    goes on if it holds the tokens that were read last
    one that was never seen                   goes on if it is empty, or a copy of such a one

A copy holds the same numbers as what was copied, in the deepest layer that has kept all positions.

A cache of transformers is of a class that tells of `reorder_cache` while it is followed: a subclass
of its own, under the same name. Copies and pickles of it are of its own class.

When it misleads: rows of a cache that change places in another way (``batch_select_indices``),
which `Session.keep` is to be told of; a cache that is not handed to the model but to a method of it
(as `HookedTransformer.generate` does with its own).
"""

import copyreg
import functools
from typing import Any, Protocol, runtime_checkable
from weakref import ref

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
        self._telling: dict[int, ref[Any]] = {}
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
        known = self._telling.get(id(cache))
        if hasattr(cache, "reorder_cache") and (known is None or known() is not cache):
            _hear(cache, self._listener)
            place, telling = id(cache), self._telling
            telling[place] = ref(cache, lambda _dead: telling.pop(place, None))

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
        caches = [cache() for cache in self._telling.values()]
        self._telling.clear()
        for cache in caches:
            if cache is not None:
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


_LISTENERS: dict[int, tuple[ref[Any], list[ref[Any]]]] = {}
"""Who hears of a cache, by its place in memory, since caches need not be hashable."""


def _listeners(cache: Any) -> list["ref[Any]"]:
    known, listeners = _LISTENERS.get(id(cache), (None, []))
    return listeners if known is not None and known() is cache else []


def _hear(cache: Any, listener: "ref[Any]") -> None:
    """Have a cache of transformers tell a listener of rows that change places.

    Raises:
        ValueError: its class cannot be extended.
    """
    listeners = _listeners(cache)
    if not listeners:
        kind = _KINDS.get(type(cache), type(cache))  # a copy may have kept its class
        try:
            cache.__class__ = _telling(kind)
        except TypeError as error:
            raise ValueError(
                f"a cache of class {kind.__name__} cannot be followed while edits are attached, "
                f"since its rows may change places: {error}"
            ) from None
        place = id(cache)
        _LISTENERS[place] = ref(cache, lambda _dead: _LISTENERS.pop(place, None)), listeners
    listeners.append(listener)


def _hear_no_more(cache: Any, listener: "ref[Any]") -> None:
    listeners = _listeners(cache)
    listeners.remove(listener)
    if not listeners:
        del _LISTENERS[id(cache)]
        cache.__class__ = _KINDS.get(type(cache), type(cache))


@functools.cache
def _telling(kind: type) -> Any:
    """Caches of a kind that tell of rows that change places; copies of them are plain."""

    class Telling(kind):  # type: ignore[misc]
        __slots__ = ()  # lie in memory as those of the kind do

        def reorder_cache(self, rows: Int[Tensor, "row"]) -> None:
            super().reorder_cache(rows)
            for listener in _listeners(self):
                if (hears := listener()) is not None:
                    hears.keep(rows)

        def __reduce_ex__(self, protocol: Any) -> Any:
            reduced = super().__reduce_ex__(protocol)
            return reduced if isinstance(reduced, str) else _of_kind(kind, Telling, *reduced)

    for name in ("__copy__", "__deepcopy__"):
        if hasattr(kind, name):
            setattr(Telling, name, _copying(kind, Telling, name))
    Telling.__name__, Telling.__qualname__ = kind.__name__, kind.__qualname__
    Telling.__module__ = kind.__module__
    _KINDS[Telling] = kind
    return Telling


_KINDS: dict[type, type] = {}
"""Kinds of caches by the classes that tell in their place."""


def _of_kind(kind: type, telling: type, make: Any, args: tuple[Any, ...], *rest: Any) -> Any:
    """How an object is made anew, as one of its kind; not by functions that check its class."""
    if not args or args[0] is not telling:
        return (make, args, *rest)
    if make is copyreg.__newobj__:  # type: ignore[attr-defined]
        return (kind.__new__, (kind, *args[1:]), *rest)
    if make is copyreg.__newobj_ex__:  # type: ignore[attr-defined]
        return (functools.partial(kind.__new__, kind, *args[1], **args[2]), (), *rest)
    return (make, (kind, *args[1:]), *rest)


def _copying(kind: type, telling: type, name: str) -> Any:
    """The kind's own way of copying, whose copies may be of the class of what is copied."""

    def copied(self: Any, *memo: Any) -> Any:
        copy = getattr(super(telling, self), name)(*memo)
        if type(copy) is telling and copy is not self:
            copy.__class__ = kind
        return copy

    return copied
