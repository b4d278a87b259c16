"""Bands of layers: which ones count as shallow, middle and deep, for edits and diagnosis alike.

The source of the method takes the bottom and the top quarter of every model; so does the default
here. Bands are disjoint and need not tile the model: a layer in none of them counts in no index.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from step_saliency.options import is_whole

Band = Literal["shallow", "middle", "deep"]


@dataclass(frozen=True)
class Bands:
    """Layers of the three bands, by model layer.

    Attributes:
        shallow: Layers in which lock-in is looked for.
        middle: Layers that the deep band is compared with.
        deep: Layers in which decay is looked for.
    """

    shallow: tuple[int, ...]
    middle: tuple[int, ...]
    deep: tuple[int, ...]

    def __post_init__(self) -> None:
        layers = [*self.shallow, *self.middle, *self.deep]
        strange = [layer for layer in layers if not is_whole(layer)]
        if strange:
            raise ValueError(f"layers {strange} are no whole numbers")
        twice = sorted({layer for layer in layers if layers.count(layer) > 1})
        if twice:
            raise ValueError(f"layers {twice} are named twice; a layer is in one band at most")

    @classmethod
    def quarters(cls, n_layers: int) -> "Bands":
        """Bottom and top ``ceil(n_layers / 4)`` layers, and what lies between them.

        A model of one layer has a shallow band only, one of two layers no middle.
        """
        quarter = -(-n_layers // 4)
        first_deep = max(n_layers - quarter, quarter)
        return cls.named({"shallow": range(quarter), "deep": range(first_deep, n_layers)}, n_layers)

    @classmethod
    def named(cls, bands: Mapping[str, Sequence[int]], n_layers: int) -> "Bands":
        """Bands by name. Without ``"middle"``, that is every layer in neither of the others.

        Raises:
            ValueError: a name is unknown, or a layer is outside the model or in two bands.
        """
        unknown = sorted(set(bands) - set(get_args(Band)))
        if unknown:
            raise ValueError(f"bands {unknown} are unknown; choose from {get_args(Band)}")
        for name, layers in bands.items():
            if isinstance(layers, str) or not isinstance(layers, Iterable):
                raise ValueError(f"{name}={layers!r:.80} is no list of layers, such as [0, 1]")
        shallow, deep = tuple(bands.get("shallow", ())), tuple(bands.get("deep", ()))
        others = [layer for layer in range(n_layers) if layer not in {*shallow, *deep}]
        result = cls(shallow, tuple(bands.get("middle", others)), deep)
        outside = {*result.shallow, *result.middle, *result.deep} - set(range(n_layers))
        if outside:
            raise ValueError(
                f"layers {spell_layers(tuple(outside))} are not among the model's {n_layers} "
                f"layers, 0 to {n_layers - 1}"
            )
        return result

    def of(self, layer: int) -> Band | None:
        """Band that a layer is in."""
        if layer in self.shallow:
            return "shallow"
        if layer in self.middle:
            return "middle"
        return "deep" if layer in self.deep else None


def spell_layers(layers: Sequence[int]) -> str:
    """Layers as runs: ``0-3, 7``; ``none`` if there are none."""
    runs: list[list[int]] = []
    for layer in sorted(layers):
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    return ", ".join(f"{r[0]}-{r[-1]}" if len(r) > 1 else f"{r[0]}" for r in runs) or "none"
