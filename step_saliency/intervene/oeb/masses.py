"""How much of each row of scores is on which keys, in logarithms."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from step_saliency.intervene.groups import KeyGroup


class GroupSums(NamedTuple):
    """What the projection needs to know of rows of scores.

    Attributes:
        log_bridge: Log-sum-exp of the scores of the bridge; very low without keys.
        log_current: The same of the current part.
        log_other: Of all else, sinks included.
        n_bridge: Visible keys of the bridge.
        n_current: Visible keys of the current part.
    """

    log_bridge: Float[Tensor, "*lead query"]
    log_current: Float[Tensor, "*lead query"]
    log_other: Float[Tensor, "*lead query"]
    n_bridge: Int[Tensor, "*lead query"]
    n_current: Int[Tensor, "*lead query"]


def visible_keys(scores: Float[Tensor, "*lead query key"]) -> Bool[Tensor, "*lead query key"]:
    """Keys that no mask hides: masked scores are -inf, or about the lowest number."""
    return scores > torch.finfo(scores.dtype).min / 4


def group_sums(
    scores: Float[Tensor, "*lead query key"],
    visible: Bool[Tensor, "*lead query key"],
    groups: Int[Tensor, "*#lead query key"],
    sinks: Float[Tensor, "..."] | None,
) -> GroupSums:
    """Log-sum-exp of bridge, current part and the rest; and how many keys the first two have."""
    bridge, current, other = (
        visible & (groups == group) for group in (KeyGroup.BRIDGE, KeyGroup.CURRENT, KeyGroup.OTHER)
    )
    log_other = with_sinks(log_sum(scores, other), sinks)
    sums = log_sum(scores, bridge), log_sum(scores, current), log_other
    return GroupSums(*sums, bridge.sum(-1), current.sum(-1))


def log_sum(
    scores: Float[Tensor, "*lead query key"], members: Bool[Tensor, "*lead query key"]
) -> Float[Tensor, "*lead query"]:
    """Log-sum-exp over some keys; very low without any: -inf would have no gradient."""
    return torch.where(members, scores, torch.finfo(scores.dtype).min / 2).logsumexp(-1)


def with_sinks(
    log_keys: Float[Tensor, "*lead query"], sinks: Float[Tensor, "..."] | None
) -> Float[Tensor, "*lead query"]:
    """Log-sum-exp of keys and, if there are any, of sinks."""
    if sinks is None:
        return log_keys
    return torch.logaddexp(log_keys, sinks.to(log_keys.dtype).expand_as(log_keys))
