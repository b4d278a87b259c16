"""What is each key to each query: the bridge, the part that is being written, or neither?"""

from collections.abc import Sequence
from enum import IntEnum

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from step_saliency.intervene.choices import BRIDGES, CURRENTS, Current
from step_saliency.intervene.labels import REGION_CODE, WRITTEN, StepLabels
from step_saliency.intervene.once import once_per_labels
from step_saliency.intervene.places import checked_steps
from step_saliency.options import check_option
from step_saliency.segment.regions import Region


class KeyGroup(IntEnum):
    """What a key is to a query."""

    OTHER = 0
    CURRENT = 1
    BRIDGE = 2


def check_groups(bridge: str | Sequence[int], current: str) -> None:
    """Raise ValueError for a bridge or a current part that `key_groups` does not take."""
    check_option("current", current, CURRENTS)
    if isinstance(bridge, str):
        check_option("bridge", bridge, BRIDGES)
    else:
        checked_steps("bridge", bridge)


def key_groups(
    labels: StepLabels,
    *,
    n_queries: int,
    bridge: str | Sequence[int] = "auto",
    current: Current = "region",
) -> Int[Tensor, "batch query key"]:
    """What each key is to each query: `KeyGroup` codes.

    Template, padding and keys after the query are OTHER. A key that is both in the bridge and
    current is current. All keys of a query that is in neither thinking nor summary are OTHER.

    Args:
        labels: What every position so far is.
        n_queries: The queries are the last positions, this many.
        bridge: ``"question"``; ``"thinking"``; ``"auto"``, the question while thinking and the
            thinking while summarising; or indices of steps.
        current: ``"region"``, all of the query's region so far, or ``"step"``, the query's step.

    Raises:
        ValueError: an unknown bridge or current part.
    """
    check_groups(bridge, current)
    steps = bridge if isinstance(bridge, str) else tuple(bridge)
    return _key_groups(labels, n_queries, steps, current)


@once_per_labels
def _key_groups(
    labels: StepLabels, n_queries: int, bridge: str | tuple[int, ...], current: Current
) -> Int[Tensor, "batch query key"]:
    last = slice(len(labels) - n_queries, None)
    query_step, query_region = labels.step[:, last, None], labels.region[:, last, None]
    same_step = labels.step[:, None] == query_step
    key_region = regions_to_queries(labels, n_queries)
    acts = written(labels)[:, last, None]
    counts = acts & (key_region > 0) & earlier_keys(labels, n_queries)
    is_current = same_step if current == "step" else key_region == query_region
    in_bridge = _in_bridge(labels, bridge, query_region, key_region)
    groups = torch.where(in_bridge, int(KeyGroup.BRIDGE), int(KeyGroup.OTHER))
    groups = torch.where(is_current, int(KeyGroup.CURRENT), groups)
    return torch.where(counts, groups, int(KeyGroup.OTHER)).to(torch.int8)


def written(labels: StepLabels) -> Bool[Tensor, "batch key"]:
    """Whether each position is in a region that the model writes."""
    codes = torch.tensor(sorted(WRITTEN), device=labels.region.device)
    return torch.isin(labels.region, codes)


def earlier_keys(labels: StepLabels, n_queries: int) -> Bool[Tensor, "query key"]:
    """Whether each key is at or before each of the last queries."""
    places = torch.arange(len(labels), device=labels.step.device)
    return places <= places[len(labels) - n_queries :, None]


def regions_to_queries(labels: StepLabels, n_queries: int) -> Int[Tensor, "batch query key"]:
    """Region of each key as the query knows it: that of its own step can change within it."""
    last = slice(len(labels) - n_queries, None)
    same_step = labels.step[:, None] == labels.step[:, last, None]
    return torch.where(same_step, labels.region[:, last, None], labels.settled[:, None])


def in_steps(labels: StepLabels, steps: Sequence[int]) -> Bool[Tensor, "batch key"]:
    """Whether each position is in one of some steps."""
    return torch.isin(labels.step, torch.tensor(list(steps), device=labels.step.device))


def _in_bridge(
    labels: StepLabels,
    bridge: str | tuple[int, ...],
    query_region: Int[Tensor, "batch query 1"],
    key_region: Int[Tensor, "batch query key"],
) -> Bool[Tensor, "batch #query key"]:
    if not isinstance(bridge, str):
        return in_steps(labels, bridge)[:, None]
    if bridge != "auto":
        return key_region == REGION_CODE[Region(bridge)]
    question, thinking = REGION_CODE[Region.QUESTION], REGION_CODE[Region.THINKING]
    return key_region == torch.where(query_region == thinking, question, thinking)
