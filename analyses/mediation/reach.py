"""Reach: how much of each thinking row falls on earlier thinking steps.

    reach[i] = sum over thinking steps j < i of share[i, j]          i a thinking step

with the shares of `step_saliency.diagnosis.shares`. It stands in for decay where a trace has no
summary yet. The first thinking step has nothing to reach: its entry is NaN.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from step_saliency.diagnosis.shares import row_shares
from step_saliency.saliency.result import StepSaliency
from step_saliency.trace import Region


def reach(saliency: StepSaliency) -> Float[Tensor, "layer query_step"]:
    """Share of each thinking row on earlier thinking steps; NaN at the first and for empty rows."""
    thinking = saliency.trace.region_steps(Region.THINKING)
    shares = row_shares(saliency.maps, saliency.trace.regions).cpu()[:, thinking][..., thinking]
    reached = shares.tril(-1).sum(-1)
    reached[:, :1] = torch.nan
    return reached
