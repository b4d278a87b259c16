"""In which layers and heads does an edit act?"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from step_saliency.options import is_whole

Heads: TypeAlias = Sequence[int] | Mapping[int, Sequence[int]] | None
"""Heads of an edit: in every layer, by layer, or all."""


def checked_layers(layers: Sequence[int]) -> tuple[int, ...]:
    """Layers as an edit keeps them.

    Raises:
        ValueError: there are none, or one is named twice or below 0.
    """
    numbers = checked_numbers("layers", layers)
    if not numbers or len(set(numbers)) < len(numbers) or min(numbers) < 0:
        raise ValueError(f"layers={list(layers)} must name layers, each once, 0 or above")
    return numbers


def checked_numbers(name: str, numbers: Iterable[int]) -> tuple[int, ...]:
    """Layers, heads or steps as an edit keeps them: plain numbers.

    Raises:
        ValueError: this is no list of whole numbers.
    """
    if isinstance(numbers, str) or not isinstance(numbers, Iterable):
        raise ValueError(f"{name}={numbers!r:.80} must be a list of numbers, such as [0]")
    listed = list(numbers)
    wrong = [number for number in listed if not is_whole(number)]
    if wrong:
        raise ValueError(f"{name}={listed!r:.80}: {wrong[0]!r} is no whole number")
    return tuple(map(int, listed))


def checked_steps(name: str, steps: Iterable[int]) -> tuple[int, ...]:
    """Indices of steps as an edit keeps them.

    Raises:
        ValueError: there are none, or one is below 0 or no whole number.
    """
    numbers = checked_numbers(name, steps)
    if not numbers or min(numbers) < 0:
        raise ValueError(f"{name}={list(numbers)} must name steps by index, 0 or above")
    return numbers


def checked_heads(heads: Heads) -> Heads:
    """Heads as an edit keeps them.

    Raises:
        ValueError: a head that is no whole number.
    """
    if isinstance(heads, Mapping):
        return {layer: checked_numbers(f"heads[{layer}]", heads[layer]) for layer in heads}
    return None if heads is None else checked_numbers("heads", heads)


def heads_in(heads: Heads, layer: int) -> tuple[int, ...] | None:
    """Heads of a layer; None for all of them."""
    if isinstance(heads, Mapping):
        return tuple(heads.get(layer, ()))
    return None if heads is None else tuple(heads)


def check_heads(heads: Heads, layers: Sequence[int], n_heads: int) -> None:
    """Refuse heads that a model lacks, that are named twice, or whose layer is not edited.

    Raises:
        ValueError: naming them.
    """
    idle = sorted(set(heads) - set(layers)) if isinstance(heads, Mapping) else []
    if idle:
        raise ValueError(f"heads are named in layers {idle}, but layers={list(layers)}")
    for layer in layers:
        numbers = heads_in(heads, layer) or ()
        if any(not 0 <= head < n_heads for head in numbers) or len(set(numbers)) < len(numbers):
            raise ValueError(
                f"heads {list(numbers)} of layer {layer} must be different heads out of the "
                f"model's {n_heads}"
            )


def head_mask(heads: Sequence[int], n_heads: int, device: torch.device) -> Bool[Tensor, "head"]:
    """True at these heads."""
    mask = torch.zeros(n_heads, dtype=torch.bool, device=device)
    mask[list(heads)] = True
    return mask


def over_all_heads(
    counts: Float[Tensor, "some_heads"], heads: Sequence[int] | None, n_heads: int
) -> Float[Tensor, "head"]:
    """Counts of some heads as counts of all, 0 elsewhere; ``heads=None`` are all."""
    if heads is None:
        return counts
    spread = counts.new_zeros(n_heads)
    spread[list(heads)] = counts
    return spread
