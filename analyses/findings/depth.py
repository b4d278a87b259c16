"""Which layers a curve over layers speaks of: filters of the page's templates."""

from collections.abc import Mapping

Curve = Mapping[int, float]
"""A value of each layer."""


def last_layer(curve: Curve, *, at_least: float) -> int:
    """The last layer up to which the value stays so high."""
    below = (layer for layer in sorted(curve) if curve[layer] < at_least)
    first = next(below, max(curve) + 1)
    return max(layer for layer in curve if layer < first)


def first_layer(curve: Curve, *, at_least: float) -> int:
    """The first layer from which on the value stays so high."""
    below = [layer for layer in curve if curve[layer] < at_least]
    return min(layer for layer in curve if layer > max(below, default=-1))


def lowest_layer(curve: Curve) -> int:
    """The layer with the smallest value."""
    return min(curve, key=lambda layer: curve[layer])


def rising_layers(curve: Curve, *, by: float) -> list[int]:
    """Layers whose value is larger by so much than that of the layer before."""
    return [
        layer
        for layer in sorted(curve)
        if layer - 1 in curve and curve[layer] - curve[layer - 1] > by
    ]


FILTERS = {
    function.__name__: function
    for function in (last_layer, first_layer, lowest_layer, rising_layers)
}
