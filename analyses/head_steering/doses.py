"""How strong must the bridge be in some heads to have a given KL? From one unedited pass.

With p(B), p(S) and p(O) the masses of bridge, current part and rest in each row of each head, the
bridge moves a row to q(B) = tau_B at

    KL(q || p) = tau_B log(tau_B / p(B)) + (1 - p(O) - tau_B) log((1 - p(O) - tau_B) / p(S))

(`step_saliency.intervene.oeb`), so that masses which were recorded once give the mean KL of any
heads at any strength. That is exact for heads of one layer. Heads of later layers see rows that the
earlier ones have changed; so a strength that is solved for is measured, and solved for again

    KL to solve for  <-  KL to solve for * KL that is asked / KL that was measured

until the measured one is within a tolerance of what is asked.

When it misleads: the mean is over the rows that are moved, on the traces that were recorded; on
others it differs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from analyses.head_steering.steering import bridge_on
from analyses.instruments.resumed import Resumed, resumed_effects
from step_saliency.intervene import Edit, Effects, OddsEqualBridge
from step_saliency.intervene.context import EditContext
from step_saliency.intervene.matching import TOLERANCE, matched_strength
from step_saliency.intervene.oeb import visible_keys
from step_saliency.intervene.oeb.masses import GroupSums, group_sums
from step_saliency.intervene.oeb.projection import odds_equal_shifts
from step_saliency.models.facts import n_layers
from step_saliency.trace import Trace

Heads = Sequence[tuple[int, int]]
_MEASUREMENTS = 6
"""Of one set of heads; it seldom takes more than two."""
_LARGEST = 0.99
"""Of tau_max."""


@dataclass(frozen=True, eq=False)
class _Masses(Edit):
    """Leaves all scores as they are and hands on the masses of their rows."""

    site = "scores"

    layers: Sequence[int]
    keep: Callable[[GroupSums], None]

    def may_act(self, regions: Any, starting: Any) -> bool:
        return OddsEqualBridge(self.layers).may_act(regions, starting)

    def apply(
        self, activation: Float[Tensor, "batch head query key"], context: EditContext
    ) -> Float[Tensor, "batch head query key"]:
        groups = OddsEqualBridge(self.layers).groups(context.labels, context.n_queries)
        exact = activation.to(torch.promote_types(activation.dtype, torch.float32))
        sinks = context.sink_scores()
        self.keep(group_sums(exact, visible_keys(activation), groups[:, None], sinks))
        return activation


@dataclass(frozen=True, eq=False)
class DosedBridge:
    """A bridge, and the mean KL that it was measured to have."""

    edit: OddsEqualBridge
    kl: float


class BridgeDoses:
    """Doses of the bridge in any heads, on traces that are read once.

    Args:
        model: HookedTransformer or TransformerBridge.
        traces: Traces, whoever wrote them.

    Raises:
        ValueError: there are no traces.
    """

    def __init__(self, model: Any, traces: Sequence[Trace]) -> None:
        self._model = model
        self._reads = [Resumed.of(model, trace) for trace in traces]
        depth = n_layers(model)
        shown: list[GroupSums] = []
        resumed_effects(model, _Masses(range(depth), shown.append), self._reads)
        by_layer = [shown[layer::depth] for layer in range(depth)]
        self._sums = GroupSums(
            *(
                torch.stack([torch.cat([sums[i][0] for sums in some], -1) for some in by_layer])
                for i in range(len(GroupSums._fields))
            )
        )

    @property
    def shape(self) -> tuple[int, int]:
        """Layers of the model, and heads of each."""
        n_heads = self._sums.log_other.shape[1]
        return n_layers(self._model), n_heads

    def predicted(self, heads: Heads, tau_max: float) -> float:
        """Mean KL per row moved as the unedited masses have it; 0 where none is moved."""
        layers, numbers = (list(places) for places in zip(*heads, strict=True))
        sums = GroupSums(*(some[layers, numbers] for some in self._sums))
        shifts = odds_equal_shifts(*sums, tau_max=tau_max)
        n_moved = int(shifts.shifted.sum())
        return float(shifts.divergence.double().sum()) / n_moved if n_moved else 0.0

    def measured(self, edit: OddsEqualBridge) -> float:
        """Mean KL per row moved in passes with the edit; 0 where none is moved."""
        return kl_of(resumed_effects(self._model, edit, self._reads))

    def matched(
        self, heads: Heads, kl: float, *, tau_max: float, tolerance: float = TOLERANCE
    ) -> DosedBridge | None:
        """The bridge in some heads at the strength that gives a mean KL.

        Args:
            heads: Layers and heads.
            kl: Mean KL per row moved.
            tau_max: Where the search begins.
            tolerance: Relative difference that is small enough.

        Returns:
            None where no strength has this KL.
        """
        asked = kl
        for _ in range(_MEASUREMENTS):
            tau = self._solved(heads, asked, tau_max=tau_max, tolerance=tolerance / 10)
            if tau is None:
                return None
            edit = bridge_on(heads, tau_max=tau)
            measured = self.measured(edit)
            if abs(measured - kl) <= tolerance * kl:
                return DosedBridge(edit, measured)
            if not measured:
                return None
            asked *= kl / measured
        return None

    def _solved(self, heads: Heads, kl: float, *, tau_max: float, tolerance: float) -> float | None:
        """tau_max at which the predicted KL is what it is to be; None where there is none."""

        def tau(strength: float) -> float:
            return min(strength * tau_max, _LARGEST)

        try:
            strength = matched_strength(
                lambda s: self.predicted(heads, tau(s)), kl, tolerance=tolerance
            )
        except ValueError:
            return None
        return tau(strength)


def kl_of(effects: Effects) -> float:
    """Mean KL per row moved; 0 where none moved."""
    value = float(effects.doses()["kl"].iloc[0])
    return 0.0 if np.isnan(value) else value
