"""Maps as a long table: one row per layer, head and pair of steps."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from step_saliency.segment.regions import Region


def map_frame(
    maps: Float[Tensor, "layer *head step step"],
    *,
    layers: Sequence[int],
    defined: Bool[Tensor, "step step"],
    regions: Sequence[Region],
) -> pd.DataFrame:
    """The table of `StepSaliency.to_frame`.

    Args:
        maps: Maps of some layers, with a head axis or without.
        layers: Model layer of each map.
        defined: Pairs of steps that a row is made of.
        regions: Region of each step.
    """
    query, key = defined.nonzero(as_tuple=True)
    per_head = maps.ndim == 4
    n_heads = maps.shape[1] if per_head else 1
    n_pairs, n_maps = len(query), len(layers) * n_heads
    heads = torch.arange(n_heads).repeat_interleave(n_pairs).repeat(len(layers))
    numbers = torch.tensor(layers, dtype=torch.long).repeat_interleave(n_heads * n_pairs)
    query, key = query.repeat(n_maps), key.repeat(n_maps)
    saliency = maps.detach().cpu()[..., defined].flatten()
    return pd.DataFrame(
        {
            "layer": numbers.numpy(),
            "head": pd.array(heads.numpy(), dtype="Int64") if per_head else pd.NA,
            "query_step": query.numpy(),
            "key_step": key.numpy(),
            "query_region": _regions_of(query, regions),
            "key_region": _regions_of(key, regions),
            "saliency": saliency.to(torch.promote_types(saliency.dtype, torch.float32)).numpy(),
        }
    ).astype({"head": "Int64"})


def _regions_of(steps: Tensor, regions: Sequence[Region]) -> pd.api.extensions.ExtensionArray:
    names = [region.value for region in Region]
    codes = np.array([names.index(region.value) for region in regions], np.int8)
    return pd.Categorical.from_codes(codes[steps.numpy()], categories=pd.Index(names))
