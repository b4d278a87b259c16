"""Heads by name: ``"L3H5"`` or ``(3, 5)``, layer and head from 0."""

import re
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
from torch import Tensor

from step_saliency.options import is_whole

HeadNames: TypeAlias = str | Sequence[str | tuple[int, int]] | Mapping[int, Sequence[int]]
"""Heads as pairs, as names, or by layer."""


def parse_heads(heads: HeadNames) -> Mapping[int, tuple[int, ...]]:
    """Heads by layer.

    Args:
        heads: Pairs (layer, head) or names such as ``"L3H5"``; one name stands for itself; or heads
            by layer already. Pairs may be rows of an array or tensor, as `torch.nonzero` gives
            them.

    Raises:
        ValueError: no heads, a name that is none, or a head named twice.
    """
    pairs = _pairs(heads)
    if not pairs or len(set(pairs)) < len(pairs) or any(min(pair) < 0 for pair in pairs):
        raise ValueError(f"heads={heads!r} must name heads, each once, numbers 0 or above")
    by_layer: dict[int, tuple[int, ...]] = {}
    for layer, head in sorted(pairs):
        by_layer[layer] = (*by_layer.get(layer, ()), head)
    return MappingProxyType(by_layer)


def _pairs(heads: HeadNames) -> list[tuple[int, int]]:
    heads = _plain(heads)
    if isinstance(heads, Mapping):
        single = [numbers for numbers in heads.values() if isinstance(numbers, str | int)]
        if single:
            raise ValueError(f"heads={heads!r}: heads by layer are lists, such as {{0: [1]}}")
        return [_pair((layer, head)) for layer, numbers in heads.items() for head in numbers]
    if not isinstance(heads, Iterable):
        raise ValueError(f"heads={heads!r} must be a list of heads, such as ['L3H5']")
    return [_pair(head) for head in ([heads] if isinstance(heads, str) else heads)]


def _pair(head: str | tuple[int, int]) -> tuple[int, int]:
    if not isinstance(head, str):
        numbers = _plain(head)
        pair = [_plain(number) for number in numbers] if isinstance(numbers, Sequence) else []
        if len(pair) != 2 or not all(map(is_whole, pair)):
            raise ValueError(f"{head!r} names no head; write 'L3H5' or (3, 5), in a list")
        return int(pair[0]), int(pair[1])
    match = re.fullmatch(r"[Ll](\d+)[Hh](\d+)", head)
    if match is None:
        raise ValueError(f"{head!r} names no head; write 'L3H5' or (3, 5)")
    return int(match[1]), int(match[2])


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic | Tensor) else value
