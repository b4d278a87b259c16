"""Layers, positions, token ids and lengths as people give them: as plain whole numbers."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from step_saliency.options import is_whole


def whole_numbers(values: object, *, least: int | None = None) -> list[int] | None:
    """A sequence of whole numbers as Python's own; None if it is none, or one is below ``least``.

    Args:
        values: Sequence, array or tensor; its members may be NumPy's or tensors without axes.
        least: Smallest number that is right.
    """
    values = _plain(values)
    if not isinstance(values, Iterable):
        return None
    numbers = [_plain(value) for value in values]
    return [int(n) for n in numbers] if all(is_whole(n, least=least) for n in numbers) else None


def layer_numbers(layers: Sequence[int] | None, n_layers: int) -> tuple[int, ...]:
    """Layers as non-negative numbers, in their order; all without ``layers``.

    Raises:
        ValueError: no layer, a layer twice, or one that the model lacks.
    """
    if layers is None:
        return tuple(range(n_layers))
    given = whole_numbers(layers)
    if given is None:
        raise ValueError(f"layers={layers!r}: layers are a sequence of whole numbers, such as [0]")
    if not given:
        raise ValueError(f"layers=[] names no layer; the model has layers 0 to {n_layers - 1}")
    if not all(-n_layers <= layer < n_layers for layer in given):
        raise ValueError(f"layers={given}: the model has layers 0 to {n_layers - 1}")
    numbers = tuple(layer % n_layers for layer in given)
    if len(set(numbers)) < len(numbers):
        raise ValueError(f"layers={given} names a layer twice")
    return numbers


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic | Tensor) else value
