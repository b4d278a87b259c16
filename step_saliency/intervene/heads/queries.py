"""Which queries does an edit act on? Those of some regions, of some steps, or all."""

from collections.abc import Collection, Sequence, Set

from jaxtyping import Bool
from torch import Tensor

from step_saliency.intervene.groups import in_steps
from step_saliency.intervene.labels import REGION_CODE, StepLabels
from step_saliency.intervene.once import once_per_labels
from step_saliency.intervene.places import checked_steps
from step_saliency.segment.regions import Region


def check_queries(regions: Sequence[str] | None, steps: Sequence[int] | None) -> None:
    """Raise ValueError for regions or steps that no query can be in."""
    if regions is not None:
        if isinstance(regions, str) or not isinstance(regions, Collection) or not regions:
            raise ValueError(f"regions={regions!r} must be a list of regions, such as ['thinking']")
        for region in regions:
            Region(region)
    if steps is not None:
        checked_steps("steps", steps)


def queries_in(
    labels: StepLabels,
    n_queries: int,
    *,
    regions: Sequence[str] | None = None,
    steps: Sequence[int] | None = None,
) -> Bool[Tensor, "batch query"]:
    """Which of the last positions are in the regions and in the steps; None allows all.

    Args:
        labels: What every position so far is.
        n_queries: The queries are the last positions, this many.
        regions: Names of regions.
        steps: Indices of steps.
    """
    queries = labels.step >= 0
    if regions is not None:
        queries = queries & labels.in_region(*regions)
    if steps is not None:
        queries = queries & in_steps(labels, steps)
    return queries[:, len(labels) - n_queries :]


@once_per_labels
def edited_queries(
    labels: StepLabels,
    n_queries: int,
    regions: Sequence[str] | None,
    steps: Sequence[int] | None,
) -> Bool[Tensor, "batch query"] | None:
    """As `queries_in`; None where there is none."""
    queries = queries_in(labels, n_queries, regions=regions, steps=steps)
    return queries if queries.any() else None


def acts_in(regions: Sequence[str] | None, codes: Set[int]) -> bool:
    """Whether queries of regions with these codes can be chosen."""
    return regions is None or any(REGION_CODE[Region(name)] in codes for name in regions)
