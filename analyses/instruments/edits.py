"""Edits that plant or block what the diagnosis speaks of. All act on attention scores.

    LockIn         the current step gets at least ``mass`` of each row, from question and earlier
                   steps: lock-in, planted. With ``keys="random"`` as many random keys get it; with
                   a ``dose`` besides, the rows that lock-in would move are moved as far (in KL)
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
from dataclasses import KW_ONLY, dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from step_saliency.intervene import Edit, EditContext, KeyGroup, OddsEqualBridge, StepLabels
from step_saliency.intervene.groups import earlier_keys, key_groups, written
from step_saliency.intervene.heads import acts_in, queries_in
from step_saliency.intervene.labels import REGION_CODE, WRITTEN
from step_saliency.intervene.oeb import (
    OddsEqualShifts,
    counts_by_head,
    dosed_scores,
    odds_equal_scores,
    projected_scores,
    random_bridge,
    visible_keys,
)
from step_saliency.intervene.places import checked_layers
from step_saliency.options import check_option
from step_saliency.segment import Region

Keys = Literal["step", "random"]
NO_MASS = 1e-30
"""Mass from which on there is something to raise."""


def locked_groups(labels: StepLabels, n_queries: int) -> Int[Tensor, "batch query key"]:
    """For queries of thinking and summary: own step BRIDGE, what else is no template CURRENT."""
    last = slice(len(labels) - n_queries, None)
    acts = written(labels)[:, last, None]
    counts = acts & (labels.region > 0)[:, None] & earlier_keys(labels, n_queries)
    own = labels.step[:, None] == labels.step[:, last, None]
    groups = torch.where(own, int(KeyGroup.BRIDGE), int(KeyGroup.CURRENT))
    return torch.where(counts, groups, int(KeyGroup.OTHER)).to(torch.int8)


@dataclass(frozen=True, eq=False)
class ScoreEdit(Edit):
    """An edit of scores that acts on queries of thinking and summary, if on any.

    Attributes:
        layers: Layers in which it acts.
    """

    site = "scores"

    layers: Sequence[int]

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", checked_layers(self.layers))

    def may_act(self, regions: Set[int], starting: Set[int]) -> bool:  # noqa: ARG002
        return not WRITTEN.isdisjoint(regions)


@dataclass(frozen=True, eq=False)
class LockIn(ScoreEdit):
    """Hold a minimum of each row of thinking and summary on the step that is being written.

    Attributes:
        layers: Layers in which it acts.
        mass: Minimum, in [0, 1).
        keys: ``"step"``, or ``"random"``: as many keys, drawn from all that are no template.
        seed: Of the draws.
        dose: Of random keys: KL(after || before) of each row that would be locked in, as a
            multiple of what it would have; None holds the mass instead.

    Raises:
        ValueError: an option out of range.
    """

    mass: float | int
    _: KW_ONLY
    keys: Keys = "step"
    seed: int = 0
    dose: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_option("keys", self.keys, get_args(Keys))
        if not 0 <= self.mass < 1:
            raise ValueError(f"mass={self.mass} is not in [0, 1)")
        if self.dose is not None and (self.keys == "step" or not self.dose > 0):
            raise ValueError(f"dose={self.dose} goes with keys='random' and is above 0")

    def apply(
        self, activation: Float[Tensor, "batch head query key"], context: EditContext
    ) -> Float[Tensor, "batch head query key"]:
        """Scores with the mass on the current step."""
        if self.mass == 0:
            return activation
        edited, shifts = self._moved(activation, context)
        context.record(**counts_by_head(shifts))
        return edited

    def _moved(
        self, scores: Float[Tensor, "batch head query key"], context: EditContext
    ) -> tuple[Float[Tensor, "batch head query key"], OddsEqualShifts]:
        sinks = context.sink_scores()
        own = locked_groups(context.labels, context.n_queries)
        groups = own
        if self.keys == "random":
            visible = visible_keys(scores[:, 0])
            groups = random_bridge(own, visible, context.labels, seed=self.seed)
        if self.dose is None:
            return projected_scores(scores, groups[:, None], mass=self.mass, sinks=sinks)
        _, shifts = projected_scores(scores.double(), own[:, None], mass=self.mass, sinks=sinks)
        return dosed_scores(scores, groups[:, None], shifts, dose=self.dose, sinks=sinks)


@dataclass(frozen=True, eq=False)
class RegionBridge(OddsEqualBridge):
    """The bridge in queries of some regions only.

    Attributes:
        layers: Layers in which it acts.
        regions: Regions of the queries.
    """

    regions: Sequence[str]

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "regions", tuple(Region(region) for region in self.regions))

    def may_act(self, regions: Set[int], starting: Set[int]) -> bool:  # noqa: ARG002
        return acts_in(self.regions, regions)

    def groups(self, labels: StepLabels, n_queries: int) -> Int[Tensor, "batch query key"]:
        """As in `OddsEqualBridge`; queries of other regions have no bridge."""
        groups = super().groups(labels, n_queries)
        queries = queries_in(labels, n_queries, regions=self.regions)
        return torch.where(queries[..., None], groups, int(KeyGroup.OTHER)).to(torch.int8)


@dataclass(frozen=True, eq=False)
class Diverted(ScoreEdit):
    """Take from the current part what the bridge would take, and give it to template tokens.

    Attributes:
        layers: Layers in which it acts.
        tau_max: Of the bridge whose size it has.
    """

    _: KW_ONLY
    tau_max: float | int = 0.15

    def apply(
        self, activation: Float[Tensor, "batch head query key"], context: EditContext
    ) -> Float[Tensor, "batch head query key"]:
        """Scores whose current part lost the mass, and whose bridge kept its own."""
        groups = key_groups(context.labels, n_queries=context.n_queries)[:, None]
        sinks = context.sink_scores()
        _, shifts = odds_equal_scores(activation, groups, tau_max=self.tau_max, sinks=sinks)
        if shifts is None or not shifts.shifted.any():
            return activation
        visible = visible_keys(activation)
        other = visible & (groups == KeyGroup.OTHER)
        on_other = _mass_on(activation, other, sinks)
        gained = torch.where(shifts.shifted, shifts.mass_after - shifts.mass_before, 0.0)
        acts = shifts.shifted & (on_other > NO_MASS)
        to_other = torch.log1p(gained / on_other.clamp(min=NO_MASS))
        shift = torch.where(groups == KeyGroup.CURRENT, shifts.current[..., None], 0.0)
        shift = torch.where(other, to_other[..., None], shift)
        return torch.where(acts[..., None] & visible, activation + shift, activation)


@dataclass(frozen=True, eq=False)
class SummaryCut(ScoreEdit):
    """Queries of the summary do not see the thinking.

    Attributes:
        layers: Layers in which it acts.
    """

    def may_act(self, regions: Set[int], starting: Set[int]) -> bool:  # noqa: ARG002
        return REGION_CODE[Region.SUMMARY] in regions

    def apply(
        self, activation: Float[Tensor, "batch head query key"], context: EditContext
    ) -> Float[Tensor, "batch head query key"]:
        """Scores with these edges cut."""
        cut = _summary_to_thinking(context.labels, context.n_queries)[:, None]
        if not cut.any():
            return activation
        return activation.masked_fill(cut, torch.finfo(activation.dtype).min)


def _summary_to_thinking(labels: StepLabels, n_queries: int) -> Bool[Tensor, "batch query key"]:
    groups = key_groups(labels, n_queries=n_queries)
    summary = queries_in(labels, n_queries, regions=[Region.SUMMARY])
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
