"""How strong is an edit in each layer?

A strength is a number; a mapping from layer to number, 0 elsewhere; or a function of depth, which
runs from 0 in the first layer of the model to 1 in the last: depth = layer / (n_layers - 1).

    tau_max=0.15    tau_max={0: 0.2, 1: 0.1}    tau_max=linear(0.2, 0.05)    tau_max=lambda d: d**2
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor

from step_saliency.options import is_finite

Strength: TypeAlias = float | int | Mapping[int, float | int] | Callable[[float], float | int]


@dataclass(frozen=True)
class Linear:
    """A strength that goes evenly from ``first`` in the first layer to ``last`` in the last."""

    first: float
    last: float

    def __call__(self, depth: float) -> float:
        return float(self.first + (self.last - self.first) * depth)


def linear(first: float | int, last: float | int) -> Linear:
    """A strength that goes evenly from ``first`` in the first layer to ``last`` in the last."""
    return Linear(float(first), float(last))


def constant(strength: float | int) -> Linear:
    """The same strength at every depth."""
    return linear(strength, strength)


def strength_at(strength: Strength, layer: int, n_layers: int | None) -> float:
    """Strength in a layer.

    Args:
        strength: Number, mapping by layer, or function of depth.
        layer: Layer.
        n_layers: Layers of the model; None if it is not known, which a function of depth refuses.

    Raises:
        ValueError: a function of depth without the number of layers.
    """
    if isinstance(strength, Mapping):
        return float(strength.get(layer, 0.0))
    if not callable(strength):
        return float(strength)
    if n_layers is None:
        raise ValueError(
            "a strength that depends on depth needs the number of layers: bind the edit with "
            "edit.bound_to(trace, model=model), or use edit.attached(model)"
        )
    return float(strength(layer / max(1, n_layers - 1)))


def check_strength(
    name: str,
    strength: Strength,
    *,
    least: float = 0.0,
    below: float | None = None,
    layers: Sequence[int] | None = None,
) -> None:
    """Raise ValueError for what is no number (or mapping of such), or not in [least, below).

    So it does for a mapping that names a layer which is not among ``layers``.

    Functions of depth are checked where they are evaluated.
    """
    if callable(strength):
        return
    numbers = list(strength.values()) if isinstance(strength, Mapping) else [strength]
    named = set(strength) if isinstance(strength, Mapping) else set()
    idle = sorted(named - set(layers or named), key=str)
    if idle:
        raise ValueError(f"{name} is given for layers {idle}, but layers={list(layers or ())}")
    limit = float("inf") if below is None else below
    wrong = [number for number in numbers if not (_is_number(number) and least <= number < limit)]
    if wrong:
        known = "is no finite number" if least == -limit else f"is not in [{least:g}, {limit:g})"
        raise ValueError(f"{name}={wrong[0]!r:.80} {known}")


def _is_number(value: object) -> bool:
    """Whether a value is a finite number, maybe in a tensor."""
    return is_finite(value.item() if isinstance(value, Tensor) and value.ndim == 0 else value)
