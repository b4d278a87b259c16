"""What does a head do at another size? 0 ablates it, 1 changes nothing."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from step_saliency.intervene.context import EditContext
from step_saliency.intervene.heads.edit import HeadEdit
from step_saliency.intervene.schedule import Strength, check_strength, strength_at


@dataclass(frozen=True, eq=False)
class HeadScale(HeadEdit):
    """Multiply the outputs of heads by a factor: 0 ablates them, 1 changes nothing.

    Example:
        >>> with HeadScale(["L3H5", "L4H0"], 0.0, regions=["summary"]).attached(model):
        ...     logits = model(tokens)

    Attributes:
        heads: Pairs (layer, head) or names such as ``"L3H5"``.
        factor: A number, a mapping that names every layer of the heads, or a function of depth
            (see `schedule`).
        regions: Regions of the queries; by default any.
        steps: Steps of the queries; by default any.

    Raises:
        ValueError: an option out of range, or a mapping that leaves out a layer.
    """

    site = "z"

    factor: Strength

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.factor, Mapping):
            missing = sorted(set(self.layers) - set(self.factor))
            if missing:
                raise ValueError(f"factor={dict(self.factor)} has no number for layers {missing}")
        check_strength("factor", self.factor, least=-math.inf, layers=self.layers)

    def apply(
        self, activation: Float[Tensor, "batch pos head d_head"], context: EditContext
    ) -> Float[Tensor, "batch pos head d_head"]:
        """Outputs with the heads scaled."""
        factor = strength_at(self.factor, context.layer, context.n_layers)
        queries = self.queries(context)
        if factor == 1 or queries is None:
            return activation
        scaled = factor * activation[:, :, list(self.by_layer[context.layer])]
        return self.replaced(activation, scaled, queries, context)
