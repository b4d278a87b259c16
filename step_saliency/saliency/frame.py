"""Maps as a long table: one row per layer, head and pair of steps."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from step_saliency.segment.regions import Region

Columns = dict[str, np.ndarray]
"""Columns of the table by name: numbers, and regions by their place in `REGION_NAMES`."""
REGION_NAMES = [region.value for region in Region]


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
    return columns_frame([map_columns(maps, layers=layers, seen=seen, regions=regions)])


def map_columns(
    maps: Float[Tensor, "layer *head step step"],
    *,
    layers: Sequence[int],
    seen: Bool[Tensor, "layer step step"],
    regions: Sequence[Region],
) -> Columns:
    """The numbers of the table of one trace; arguments are those of `map_frame`."""
    per_head = maps.ndim == 4
    of_heads = maps.detach().cpu() if per_head else maps.detach().cpu().unsqueeze(1)
    seen = seen.cpu().unsqueeze(1).expand(of_heads.shape)
    place, heads, query, key = seen.nonzero(as_tuple=True)
    codes = np.array([REGION_NAMES.index(region.value) for region in regions], np.int8)
    saliency = of_heads[seen]
    return {
        "layer": torch.tensor(layers, dtype=torch.long)[place].numpy(),
        **({"head": heads.numpy()} if per_head else {}),
        "query_step": query.numpy(),
        "key_step": key.numpy(),
        "query_region": codes[query.numpy()],
        "key_region": codes[key.numpy()],
        "saliency": saliency.to(torch.promote_types(saliency.dtype, torch.float32)).numpy(),
    }


def columns_frame(traces: Sequence[Columns], **labels: Sequence[Any]) -> pd.DataFrame:
    """One table of several traces, whose maps are of one kind.

    Args:
        traces: Columns of each.
        labels: First columns of the table: text of each trace, or None.
    """
    lengths = [len(columns["layer"]) for columns in traces]
    table: dict[str, Any] = {
        name: pd.array(np.repeat(np.array(values, object), lengths), dtype="str")
        for name, values in labels.items()
    }
    joined = {name: np.concatenate([one[name] for one in traces]) for name in traces[0]}
    n_rows = sum(lengths)
    table["layer"] = joined["layer"]
    table["head"] = (
        pd.array(joined["head"], dtype="Int64")
        if "head" in joined
        else pd.arrays.IntegerArray(np.zeros(n_rows, np.int64), np.ones(n_rows, bool))
    )
    for name in ("query_step", "key_step", "query_region", "key_region", "saliency"):
        is_region = name.endswith("_region")
        table[name] = _regions(joined[name]) if is_region else joined[name]
    return pd.DataFrame(table)


def _regions(codes: np.ndarray) -> pd.api.extensions.ExtensionArray:
    return pd.Categorical.from_codes(codes, categories=pd.Index(REGION_NAMES))
