"""Where the attention of written rows goes: to the bridge, to the current part, or elsewhere.

Patterns are averaged over heads; what each key is to a query is what the Odds-Equal Bridge takes it
for (`step_saliency.intervene.groups`).
"""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from step_saliency.intervene import StepLabels
from step_saliency.intervene.choices import Current
from step_saliency.intervene.groups import key_groups
from step_saliency.models.hooking import NamedHook
from step_saliency.trace import Region, Trace


def keep_pattern(patterns: dict[int, Float[Tensor, "query key"]], layer: int) -> NamedHook:
    """A forward hook that puts a layer's pattern, averaged over heads, into ``patterns``."""

    def keep(pattern: Float[Tensor, "1 head query key"], hook: Any) -> None:
        patterns[layer] = pattern[0].float().mean(0).cpu()

    return f"blocks.{layer}.attn.hook_pattern", keep


def groups_of(trace: Trace, *, current: Current = "region") -> Int[Tensor, "query key"]:
    """What each key of a trace is to each query: `KeyGroup` codes."""
    labels = StepLabels.from_traces([trace])
    return key_groups(labels, n_queries=len(trace), bridge="auto", current=current)[0]


def rows_in(trace: Trace, *regions: Region) -> Bool[Tensor, "query"]:
    """Positions of a trace that are in one of the regions."""
    members = torch.tensor([region in regions for region in trace.regions], dtype=torch.bool)
    return members[trace.step_ids.cpu()]


def mass(
    pattern: Float[Tensor, "query key"],
    keys: Bool[Tensor, "query key"],
    rows: Bool[Tensor, "query"],
) -> float:
    """Attention on the keys that are marked, mean over the rows; NaN without a row."""
    return float((pattern * keys).sum(-1)[rows].mean())
