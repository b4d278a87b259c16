"""What if a head looked at other steps? Its attention moved onto some keys, as little as needed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from step_saliency.intervene.choices import GIVERS, Givers
from step_saliency.intervene.context import EditContext
from step_saliency.intervene.groups import (
    KeyGroup,
    earlier_keys,
    in_steps,
    regions_to_queries,
)
from step_saliency.intervene.heads.edit import HeadEdit
from step_saliency.intervene.heads.queries import queries_in
from step_saliency.intervene.labels import REGION_CODE, StepLabels
from step_saliency.intervene.oeb.counts import counts_by_head
from step_saliency.intervene.oeb.scores import projected_scores
from step_saliency.intervene.once import once_per_labels
from step_saliency.intervene.places import checked_steps, over_all_heads
from step_saliency.intervene.schedule import Strength, check_strength, strength_at
from step_saliency.options import check_option
from step_saliency.segment.regions import Region

TARGETS = ("previous", *(region.value for region in Region))


@dataclass(frozen=True, eq=False)
class HeadRedirect(HeadEdit):
    """Move attention of heads onto chosen steps.

    Example:
        >>> with HeadRedirect(["L3H5"], to=[2], mass=0.5, regions=["summary"]).attached(model):
        ...     logits = model(tokens)

    Attributes:
        heads: Pairs (layer, head) or names such as ``"L3H5"``.
        to: Indices of steps, the name of a region, or ``"previous"``: the last step before the
            query's own that is no template. Keys after the query, or that the layer does not see,
            take no part; a row that sees none of the steps' keys is left alone.
        mass: Mass to be raised to, in [0, 1]: a number, a mapping by layer, or a function of depth.
            Rows that have it are left alone. 1 takes all that there is to take.
        take_from: Which keys give mass away: ``"all"`` others (a learned sink keeps its own), or
            those of the query's ``"region"`` or ``"step"`` so far. Where they have too little,
            all of it is taken.
        regions: Regions of the queries; by default any.
        steps: Steps of the queries; by default any.

    Raises:
        ValueError: an option out of range.
    """

    site = "scores"

    to: str | Sequence[int]
    mass: Strength = field(default=1.0, kw_only=True)
    take_from: Givers = field(default="all", kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.to, str):
            check_option("to", self.to, TARGETS)
        else:
            object.__setattr__(self, "to", checked_steps("to", self.to))
        check_option("take_from", self.take_from, GIVERS)
        check_strength("mass", self.mass, layers=self.layers)
        if isinstance(self.mass, Mapping):
            _checked_mass(max(self.mass.values(), default=0.0))
        elif not callable(self.mass):
            _checked_mass(self.mass)

    def groups(self, labels: StepLabels, n_queries: int) -> Int[Tensor, "batch query key"]:
        """`KeyGroup` of each key to each query: BRIDGE gets mass, CURRENT gives it away."""
        return _redirected(
            labels,
            n_queries,
            to=self.to,
            take_from=self.take_from,
            regions=self.regions,
            steps=self.steps,
        )

    def apply(
        self, activation: Float[Tensor, "batch head query key"], context: EditContext
    ) -> Float[Tensor, "batch head query key"]:
        """Scores whose rows have the mass on the steps that they are turned to."""
        mass = _checked_mass(strength_at(self.mass, context.layer, context.n_layers))
        if mass == 0 or self.queries(context) is None:
            return activation
        heads, n_heads = self.by_layer[context.layer], activation.shape[1]
        index = torch.tensor(heads, device=activation.device)
        scores = activation.index_select(1, index)
        groups = self.groups(context.labels, context.n_queries)[:, None]
        sinks = context.sink_scores(heads)
        edited, shifts = projected_scores(scores, groups, mass=mass, sinks=sinks)
        counts = counts_by_head(shifts).items()
        context.record(**{name: over_all_heads(n, heads, n_heads) for name, n in counts})
        return activation if edited is scores else activation.index_copy(1, index, edited)


@once_per_labels
def _redirected(
    labels: StepLabels,
    n_queries: int,
    *,
    to: str | Sequence[int],
    take_from: Givers,
    regions: Sequence[str] | None,
    steps: Sequence[int] | None,
) -> Int[Tensor, "batch query key"]:
    counts = (labels.step >= 0)[:, None] & earlier_keys(labels, n_queries)
    gives = counts & _givers(labels, n_queries, take_from)
    groups = torch.where(gives, int(KeyGroup.CURRENT), int(KeyGroup.OTHER))
    gets = counts & _targets(labels, n_queries, to)
    groups = torch.where(gets, int(KeyGroup.BRIDGE), groups)
    queries = queries_in(labels, n_queries, regions=regions, steps=steps)
    return torch.where(queries[..., None], groups, int(KeyGroup.OTHER)).to(torch.int8)


def _givers(
    labels: StepLabels, n_queries: int, take_from: Givers
) -> Bool[Tensor, "batch #query key"]:
    last = slice(len(labels) - n_queries, None)
    if take_from == "step":
        return labels.step[:, None] == labels.step[:, last, None]
    if take_from == "region":
        return regions_to_queries(labels, n_queries) == labels.region[:, last, None]
    return labels.step[:, None] >= 0


def _targets(
    labels: StepLabels, n_queries: int, to: str | Sequence[int]
) -> Bool[Tensor, "batch #query key"]:
    if not isinstance(to, str):
        return in_steps(labels, to)[:, None]
    if to == "previous":
        previous = labels.previous[:, len(labels) - n_queries :, None]
        return (labels.step[:, None] == previous) & (previous >= 0)
    return regions_to_queries(labels, n_queries) == REGION_CODE[Region(to)]


def _checked_mass(mass: float | int) -> float | int:
    if not 0 <= mass <= 1:
        raise ValueError(f"mass={mass} is not in [0, 1]")
    return mass
