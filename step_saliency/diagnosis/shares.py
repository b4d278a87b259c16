"""Where the rows of a step map point.

Question: of all that the predictions of step i rest on, how much lies on step j? With M[i, j] >= 0
the step map and C the steps that are not template,

    share[i, j] = M[i, j] / sum_{k in C} M[i, k]              i, j in C
    uniform     = the same of U, the map (same pooling) of a token map that is 1 wherever the
                  layer's queries see a key: keys outside a sliding window are no pairs

so that a row's uniform share is 1 / (steps it sees) with ``mean`` pooling, follows the number of
token pairs with ``mass`` and ``sum``, and halves the diagonal with ``block_mean``. A map that is
proportional to U has every share at its uniform value, whatever the pooling.

    lock_in = mean over thinking steps i of  share[i, local(i)] - uniform[i, local(i)]
    decay   = mean over summary steps i of   sum over thinking steps j of share[i, j]

local(i) is step i and the thinking step before it (template steps between the two do not count).
The first thinking step has no such step: only itself is local, and looking at the question is not
lock-in.

Assumptions: entries are non-negative. Every step counts alike, whatever its length. Rows whose
total is zero point nowhere and count in no mean, as do, for lock-in, rows that see local steps
only and, for decay, rows from which the layer's window hides all thinking.

When it misleads: shares say where a row points, not how strongly; a row with next to nothing to
share out counts like any other. A uniform row is a yardstick, not a null model: attention prefers
near tokens in any language model, so lock-in above zero is ordinary, and only differences between
layers, traces or models speak. Layers with different windows have different uniform rows: hold
their decay against the uniform one, or take the normalised excess
(`step_saliency.diagnosis.rows`). Decay falls with the number of summary steps, since later ones see
more of the summary: compare traces of like length (`step_saliency.diagnosis.comparison`).
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from step_saliency.models.windows import Windows
from step_saliency.options import Pool
from step_saliency.saliency.pooling import StepLayout, normalise, pair_counts
from step_saliency.trace import Region

REGIONS = (Region.QUESTION, Region.THINKING, Region.SUMMARY)


def steps_in(regions: Sequence[Region], *members: Region) -> Bool[Tensor, "step"]:
    """Steps whose region is one of the members."""
    return torch.tensor([region in members for region in regions], dtype=torch.bool)


def row_shares(
    maps: Float[Tensor, "*lead step step"], regions: Sequence[Region]
) -> Float[Tensor, "*lead step step"]:
    """Part of each row that falls on each step: 0 for template steps, NaN for empty rows."""
    counted = steps_in(regions, *REGIONS).to(maps.device)
    entries = maps.double() * (counted.unsqueeze(-1) & counted)
    return entries / entries.sum(-1, keepdim=True)


def uniform_map(
    layout: StepLayout, pool: Pool, windows: Windows | None = None
) -> Float[Tensor, "*layer step step"]:
    """Step map of a token map that is 1 wherever a query sees a key, as `pair_counts` by layer."""
    counts = pair_counts(layout, windows)
    return normalise(counts.double(), layout, pool, windows=windows if counts.ndim == 3 else None)


def local_steps(regions: Sequence[Region]) -> Bool[Tensor, "step step"]:
    """For each thinking step, itself and the thinking step before it; other rows are empty."""
    local = torch.zeros(len(regions), len(regions), dtype=torch.bool)
    thinking = [i for i, region in enumerate(regions) if region is Region.THINKING]
    for before, step in zip([None, *thinking], thinking, strict=False):
        local[step, step] = True
        if before is not None:
            local[step, before] = True
    return local


def lock_in(
    shares: Float[Tensor, "*lead step step"],
    uniform: Float[Tensor, "*layer step step"],
    regions: Sequence[Region],
) -> Float[Tensor, "*lead"]:
    """Share of thinking rows on local steps in excess of a uniform row (module docstring).

    Args:
        shares: Row shares of the maps.
        uniform: Row shares of `uniform_map`, of all maps or of each.
        regions: Region of each step.

    Returns:
        One value for each map, between -1 and 1; NaN where no row counts.
    """
    local = local_steps(regions)
    expected = (uniform * local).sum(-1)
    excess = (shares * local).sum(-1) - expected
    return _mean_rows(excess, steps_in(regions, Region.THINKING) & is_open(expected))


def is_open(expected: Float[Tensor, "*layer step"]) -> Bool[Tensor, "*layer step"]:
    """Rows that see more than what a metric looks at, by the uniform share that falls there."""
    return expected < 1 - 1e-9


def decay(
    shares: Float[Tensor, "*lead step step"],
    uniform: Float[Tensor, "*layer step step"],
    regions: Sequence[Region],
) -> Float[Tensor, "*lead"]:
    """Share of summary rows that falls on thinking steps (module docstring).

    Args:
        shares: Row shares of the maps.
        uniform: Row shares of `uniform_map`, of all maps or of each.
        regions: Region of each step.

    Returns:
        One value for each map, between 0 and 1; NaN where no row counts or nothing was thought.
    """
    thinking = steps_in(regions, Region.THINKING)
    on_thinking = shares[..., thinking].sum(-1)
    rows = steps_in(regions, Region.SUMMARY) & thinking.any()
    return _mean_rows(on_thinking, rows & ~is_hidden(uniform, regions))


def is_hidden(
    uniform: Float[Tensor, "*layer step step"], regions: Sequence[Region]
) -> Bool[Tensor, "*layer step"]:
    """Rows that come after thinking and from which the layer's window hides all of it."""
    thinking = steps_in(regions, Region.THINKING)
    after_thinking = thinking.cumsum(0) > 0
    return after_thinking & ~(uniform[..., thinking].sum(-1) > 0)


def region_shares(
    shares: Float[Tensor, "*lead step step"], regions: Sequence[Region]
) -> Float[Tensor, "*lead query_region key_region"]:
    """Mean share of the rows of one region that falls on another; axes in the order of `REGIONS`.

    The key regions of a row sum to 1; a query region without rows is NaN.
    """
    on_regions = torch.stack(
        [shares[..., steps_in(regions, region)].sum(-1) for region in REGIONS], -1
    )
    rows = [_mean_rows(on_regions.movedim(-1, 0), steps_in(regions, region)) for region in REGIONS]
    return torch.stack(rows).movedim((0, 1), (-2, -1))


def block_means(
    maps: Float[Tensor, "*lead step step"],
    counted: Bool[Tensor, "*layer step step"],
    regions: Sequence[Region],
) -> Float[Tensor, "*lead query_region key_region"]:
    """Mean entry of each block of regions over the step pairs that are counted; NaN without any.

    Args:
        maps: Step maps.
        counted: Pairs that enter the mean, such as the defined ones, of all maps or of each.
        regions: Region of each step.
    """
    member = torch.stack([steps_in(regions, region) for region in REGIONS]).double()
    totals = member @ (maps.double() * counted) @ member.T
    return totals / (member @ counted.double() @ member.T)


def _mean_rows(
    values: Float[Tensor, "*lead step"], rows: Bool[Tensor, "*layer step"]
) -> Float[Tensor, "*lead"]:
    in_any = rows.reshape(-1, rows.shape[-1]).any(0)
    return values.where(rows, torch.nan)[..., in_any].nanmean(-1)
