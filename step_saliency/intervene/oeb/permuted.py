"""The bridge with the odds between its keys handed around."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from step_saliency.intervene.hashing import hashed
from step_saliency.intervene.labels import StepLabels


def permuted_bridge(
    scores: Float[Tensor, "batch head query key"],
    members: Bool[Tensor, "batch #head query key"],
    labels: StepLabels,
    *,
    seed: int,
) -> Float[Tensor, "batch head query key"]:
    """Scores of the members of each row in a random order among themselves, alike in all heads.

    The draw depends on the seed and on the places of query and key in their sequence alone.

    Args:
        scores: Scores.
        members: Keys whose scores change places.
        labels: What every position so far is.
        seed: Seed.
    """
    n_queries, n_keys = scores.shape[2:]
    position = labels.position
    numbers = hashed(seed, position[:, n_keys - n_queries :, None], position[:, None])[:, None]
    places = torch.arange(n_keys, device=scores.device).expand_as(members)
    last = torch.iinfo(numbers.dtype).max
    in_order = torch.where(members, places, last).argsort(stable=True, dim=-1)
    at_random = torch.where(members, numbers, last).argsort(stable=True, dim=-1)
    drawn = scores.gather(-1, at_random.expand_as(scores))
    return scores.scatter(-1, in_order.expand_as(scores), drawn)
