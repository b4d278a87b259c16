"""The placebo of a bridge: as many keys, but others."""

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from step_saliency.intervene.groups import KeyGroup
from step_saliency.intervene.hashing import hashed
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
