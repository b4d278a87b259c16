"""Placebos of a bridge: as many keys, but others, scattered or side by side."""

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from step_saliency.intervene.groups import KeyGroup
from step_saliency.intervene.hashing import HASH_RANGE, hashed
from step_saliency.intervene.labels import StepLabels


def random_bridge(
    groups: Int[Tensor, "batch query key"],
    visible: Bool[Tensor, "batch query key"],
    labels: StepLabels,
    *,
    seed: int,
) -> Int[Tensor, "batch query key"]:
    """Relabel bridge and current part at random: as many visible keys of each, in other places.

    The draw depends on the seed and on the places of query and key in their sequence alone, so that
    it is the same in a cached pass, in a full one, and in any batch.

    Args:
        groups: `KeyGroup` of each key to each query.
        visible: Keys that no mask hides.
        labels: What every position so far is.
        seed: Seed.
    """
    n_queries, n_keys = groups.shape[1:]
    position = labels.position
    numbers = hashed(seed, position[:, n_keys - n_queries :, None], position[:, None])
    drawn = visible & (groups != KeyGroup.OTHER)
    n_bridge = (visible & (groups == KeyGroup.BRIDGE)).sum(-1, keepdim=True)
    rank = torch.where(drawn, numbers, torch.iinfo(numbers.dtype).max).argsort(-1).argsort(-1)
    relabelled = torch.where(rank < n_bridge, int(KeyGroup.BRIDGE), int(KeyGroup.CURRENT))
    return torch.where(drawn, relabelled.to(groups.dtype), groups)


def random_block(
    groups: Int[Tensor, "batch query key"],
    visible: Bool[Tensor, "batch query key"],
    labels: StepLabels,
    *,
    seed: int,
) -> Int[Tensor, "batch query key"]:
    """Relabel bridge and current part: as many visible keys as the bridge has, side by side.

    Among the visible keys of bridge and current part, in their order, the block begins at a place
    that depends on the seed and on the query's step alone: about the same keys all through a step.

    Args:
        groups: `KeyGroup` of each key to each query.
        visible: Keys that no mask hides.
        labels: What every position so far is.
        seed: Seed.
    """
    drawn = visible & (groups != KeyGroup.OTHER)
    n_bridge = (visible & (groups == KeyGroup.BRIDGE)).sum(-1, keepdim=True)
    step = labels.step[:, len(labels) - groups.shape[1] :, None]
    place = (hashed(seed, step).double() + 0.5) / HASH_RANGE
    start = (place * (drawn.sum(-1, keepdim=True) - n_bridge + 1)).long()
    rank = drawn.cumsum(-1) - 1
    in_block = (rank >= start) & (rank < start + n_bridge)
    relabelled = torch.where(in_block, int(KeyGroup.BRIDGE), int(KeyGroup.CURRENT))
    return torch.where(drawn, relabelled.to(groups.dtype), groups)
