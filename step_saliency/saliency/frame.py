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
    seen: Bool[Tensor, "layer step step"],
    regions: Sequence[Region],
) -> pd.DataFrame:
    """The table of `StepSaliency.to_frame`.

    Args:
        maps: Maps of some layers, with a head axis or without.
        layers: Model layer of each map.
        seen: Pairs of steps that a row is made of, in each layer.
        regions: Region of each step.
    """
    per_head = maps.ndim == 4
    of_heads = maps.detach().cpu() if per_head else maps.detach().cpu().unsqueeze(1)
    seen = seen.cpu().unsqueeze(1).expand(of_heads.shape)
    place, heads, query, key = seen.nonzero(as_tuple=True)
    numbers = torch.tensor(layers, dtype=torch.long)[place]
    saliency = of_heads[seen]
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
