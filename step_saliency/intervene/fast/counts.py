"""Counters of many passes, summed together: one sum over many passes is cheap."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from step_saliency.intervene.context import CountsOf, NamedEdit
from step_saliency.intervene.effects import Effects
from step_saliency.intervene.oeb.counts import counts_by_head
from step_saliency.intervene.oeb.projection import odds_equal_factors
from step_saliency.intervene.places import head_mask

COUNTED_TOGETHER = 256
"""Passes whose counters are summed together."""


@dataclass(eq=False)
class PutOffCounts:
    """Counts that wait for each other.

    Attributes:
        effects: Where they go.
    """

    effects: Effects
    _waiting: dict[tuple[NamedEdit, int], tuple[CountsOf, list[tuple[Tensor, ...]]]] = field(
        default_factory=dict
    )
    _n_passes: int = 0

    def put(self, named: NamedEdit, layer: int, counts_of: CountsOf, *tensors: Tensor) -> None:
        """Keep the tensors of one pass until ``counts_of`` makes counters of many.

        Args:
            named: The edit that they are of.
            layer: Layer.
            counts_of: From tensors, joined along their first axis, to counters by name.
            tensors: One row a thing counted.
        """
        self._waiting.setdefault((named, layer), (counts_of, []))[1].append(tensors)

    def next_pass(self) -> None:
        """Count now and then, so that what waits stays small."""
        self._n_passes += 1
        if self._n_passes == COUNTED_TOGETHER:
            self.settle()

    def settle(self) -> None:
        """Count all that waits."""
        for (named, layer), (counts_of, passes) in self._waiting.items():
            joined = [torch.cat(tensors) for tensors in zip(*passes, strict=True)]
            self.effects.add(named.name, layer, **counts_of(*joined))
        self._waiting = {}
        self._n_passes = 0


def projection_counts(
    sums: Float[Tensor, "row head 2"],
    n_bridge: Float[Tensor, "row 1"],
    n_current: Float[Tensor, "row 1"],
    *,
    tau: float,
    heads: Sequence[int] | None,
) -> dict[str, Float[Tensor, "head"]]:
    """Counters of projected rows.

    Args:
        sums: Normalised mass of the bridge (0) and of the current part (1) before.
        n_bridge: Visible keys of the bridge.
        n_current: Visible keys of the current part.
        tau: Upper bound of tau_B.
        heads: Heads that were projected; None for all.
    """
    bridge, current = sums.double().unsqueeze(-2).unbind(-1)
    other = (1 - bridge - current).clamp(min=0)
    n_keys = n_bridge.unsqueeze(-1), n_current.unsqueeze(-1)
    counts = counts_by_head(odds_equal_factors(bridge, current, other, *n_keys, tau).shifts)
    if heads is None:
        return counts
    mask = head_mask(heads, sums.shape[1], sums.device)
    return {name: total * mask for name, total in counts.items()}
