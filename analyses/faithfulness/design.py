"""What is cut in a trace, and how maps are read beside it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

from step_saliency.options import Pool, Rows


@dataclass(frozen=True, kw_only=True)
class Design:
    """Cuts of a trace and readings of its maps.

    Attributes:
        pools: How maps are pooled for the correlations.
        rows: Which predictions are a step's, see `analyses.faithfulness`.
        bands: Cut in the bottom, middle and top third of the layers besides all of them.
        heads: Single heads (layer, head) to cut in.
        with_curves: Measure deletion and insertion curves.
        curve_pools: How maps are pooled for the curves.
        max_rows: Examine so many query steps of a trace, chosen at random.
        max_keys: Examine so many key steps of each, chosen at random.
        batch_size: Cuts computed together.
    """

    pools: Sequence[Pool] = ("mean", "mass", "block_mean", "sum")
    rows: Rows = "target"
    bands: bool = True
    heads: Sequence[tuple[int, int]] = ()
    with_curves: bool = True
    curve_pools: Sequence[Pool] = ("mean", "mass")
    max_rows: int | None = None
    max_keys: int | None = None
    batch_size: int = 16


class DesignOptions(TypedDict, total=False):
    """The fields of `Design`, as keywords."""

    pools: Sequence[Pool]
    rows: Rows
    bands: bool
    heads: Sequence[tuple[int, int]]
    with_curves: bool
    curve_pools: Sequence[Pool]
    max_rows: int | None
    max_keys: int | None
    batch_size: int
