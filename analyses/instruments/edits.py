"""Edits that plant or block what the diagnosis speaks of. All act on attention scores.

    LockIn         the current step gets at least ``mass`` of each row, from question and earlier
                   steps: lock-in, planted. With ``keys="random"`` as many keys drawn by lot get it
    RegionBridge   the bridge, in queries of some regions only
    Diverted       what the bridge would take from the current part goes to template tokens (with
                   BOS) instead: the current part loses as much, the bridge gains nothing
    SummaryCut     queries of the summary no longer see the thinking

Between the keys of one part the odds stay as they are (`step_saliency.intervene.oeb`).

When they mislead: `Diverted` gives mass to tokens that carry little, so that rows become smaller in
what they add, not only different in where they look. `LockIn` acts on all heads of a layer, also on
those that never looked far.
"""

from collections.abc import Sequence, Set

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from step_saliency.intervene import Edit, EditContext, OddsEqualBridge, StepLabels
from step_saliency.intervene.edit import checked_layers
from step_saliency.intervene.heads import acts_in, chosen_queries
from step_saliency.intervene.labels import REGION_CODE, WRITTEN, KeyGroup, key_groups
from step_saliency.intervene.oeb import (
    odds_equal_scores,
    projected_scores,
    random_bridge,
    visible_keys,
)
from step_saliency.options import check_option
from step_saliency.trace import Region

KEYS = ("step", "random")


def locked_groups(labels: StepLabels, n_queries: int) -> Int[Tensor, "batch query key"]:
    """For queries of thinking and summary: own step BRIDGE, what else is no template CURRENT."""
    last = slice(len(labels) - n_queries, None)
    places = torch.arange(len(labels), device=labels.step.device)
    codes = torch.tensor(sorted(WRITTEN), device=labels.step.device)
    acts = torch.isin(labels.region[:, last], codes)[..., None]
    counts = acts & (labels.region > 0)[:, None] & (places <= places[last, None])
    own = labels.step[:, None] == labels.step[:, last, None]
    groups = torch.where(own, int(KeyGroup.BRIDGE), int(KeyGroup.CURRENT))
    return torch.where(counts, groups, int(KeyGroup.OTHER)).to(torch.int8)


class LockIn(Edit):
    """Hold a minimum of each row of thinking and summary on the step that is being written.

    Args:
        layers: Layers in which it acts.
        mass: Minimum, in [0, 1).
        keys: ``"step"``, or ``"random"``: as many keys, drawn by lot from all that are no template.
        seed: Of the lots.

    Raises:
        ValueError: an option out of range.
    """

    site = "scores"

    def __init__(
        self, layers: Sequence[int], mass: float | int, *, keys: str = "step", seed: int = 0
    ) -> None:
        check_option("keys", keys, KEYS)
        if not 0 <= mass < 1:
            raise ValueError(f"mass={mass} is not in [0, 1)")
        self.layers = checked_layers(layers)
        self.mass = mass
        self.keys = keys
        self.seed = seed

    def may_act(self, regions: Set[int], starting: Set[int]) -> bool:  # noqa: ARG002
        return not WRITTEN.isdisjoint(regions)

    def apply(
        self, activation: Float[Tensor, "batch head query key"], context: EditContext
    ) -> Float[Tensor, "batch head query key"]:
        """Scores with the mass on the current step."""
        if self.mass == 0:
            return activation
        groups = locked_groups(context.labels, context.n_queries)
        if self.keys == "random":
            visible = visible_keys(activation[:, 0])
            groups = random_bridge(groups, visible, context.labels, seed=self.seed)
        edited, _ = projected_scores(
            activation, groups[:, None], mass=self.mass, sinks=_sinks(context)
        )
        return edited


class RegionBridge(OddsEqualBridge):
    """The bridge in queries of some regions only.

    Args:
        layers: Layers in which it acts.
        regions: Regions of the queries.
        tau_max: Upper bound of tau_B.
    """

    def __init__(
        self, layers: Sequence[int], regions: Sequence[str], *, tau_max: float = 0.15
    ) -> None:
        super().__init__(layers, tau_max=tau_max)
        self.regions = tuple(Region(region) for region in regions)

    def may_act(self, regions: Set[int], starting: Set[int]) -> bool:  # noqa: ARG002
        return acts_in(self.regions, regions)

    def groups(self, labels: StepLabels, n_queries: int) -> Int[Tensor, "batch query key"]:
        """As in `OddsEqualBridge`; queries of other regions have no bridge."""
        groups = super().groups(labels, n_queries)
        chosen = chosen_queries(labels, n_queries, regions=self.regions)
        return torch.where(chosen[..., None], groups, int(KeyGroup.OTHER)).to(torch.int8)


class Diverted(Edit):
    """Take from the current part what the bridge would take, and give it to template tokens.

    Args:
        layers: Layers in which it acts.
        tau_max: Of the bridge whose size it has.
    """

    site = "scores"

    def __init__(self, layers: Sequence[int], *, tau_max: float = 0.15) -> None:
        self.layers = checked_layers(layers)
        self.tau_max = tau_max

    def may_act(self, regions: Set[int], starting: Set[int]) -> bool:  # noqa: ARG002
        return not WRITTEN.isdisjoint(regions)

    def apply(
        self, activation: Float[Tensor, "batch head query key"], context: EditContext
    ) -> Float[Tensor, "batch head query key"]:
        """Scores whose current part lost the mass, and whose bridge kept its own."""
        groups = key_groups(
            context.labels, n_queries=context.n_queries, bridge="auto", current="region"
        )[:, None]
        sinks = _sinks(context)
        _, shifts = odds_equal_scores(activation, groups, tau_max=self.tau_max, sinks=sinks)
        if shifts is None or not shifts.shifted.any():
            return activation
        visible = visible_keys(activation)
        other = visible & (groups == KeyGroup.OTHER)
        on_other = _mass_on(activation, other, sinks)
        gained = torch.where(shifts.shifted, shifts.mass_after - shifts.mass_before, 0.0)
        acts = shifts.shifted & (on_other > 1e-30)
        to_other = torch.log1p(gained / on_other.clamp(min=1e-30))
        shift = torch.where(groups == KeyGroup.CURRENT, shifts.current[..., None], 0.0)
        shift = torch.where(other, to_other[..., None], shift)
        return torch.where(acts[..., None] & visible, activation + shift, activation)


class SummaryCut(Edit):
    """Queries of the summary do not see the thinking.

    Args:
        layers: Layers in which it acts.
    """

    site = "scores"

    def __init__(self, layers: Sequence[int]) -> None:
        self.layers = checked_layers(layers)

    def may_act(self, regions: Set[int], starting: Set[int]) -> bool:  # noqa: ARG002
        return REGION_CODE[Region.SUMMARY] in regions

    def apply(
        self, activation: Float[Tensor, "batch head query key"], context: EditContext
    ) -> Float[Tensor, "batch head query key"]:
        """Scores with these edges cut."""
        cut = self._edges(context.labels, context.n_queries)[:, None]
        if not cut.any():
            return activation
        return activation.masked_fill(cut, torch.finfo(activation.dtype).min)

    def _edges(self, labels: StepLabels, n_queries: int) -> Bool[Tensor, "batch query key"]:
        groups = key_groups(labels, n_queries=n_queries, bridge="auto", current="region")
        summary = chosen_queries(labels, n_queries, regions=[Region.SUMMARY.value])
        return summary[..., None] & (groups == KeyGroup.BRIDGE)


def _mass_on(
    scores: Float[Tensor, "batch head query key"],
    keys: Bool[Tensor, "batch #head query key"],
    sinks: Float[Tensor, "head 1"] | None,
) -> Float[Tensor, "batch head query"]:
    """Attention on some keys; a sink takes part in the softmax and is none of them."""
    on_keys = (scores.softmax(-1) * keys).sum(-1)
    if sinks is None:
        return on_keys
    total = scores.logsumexp(-1)
    return on_keys * (total - torch.logaddexp(total, sinks.to(total.dtype))).exp()


def _sinks(context: EditContext) -> Float[Tensor, "head 1"] | None:
    return None if context.sinks is None else context.sinks[:, None]
