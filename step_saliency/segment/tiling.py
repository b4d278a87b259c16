"""Steps that tile tokens without gap or overlap: made from their starts, and checked."""

from collections.abc import Sequence
from itertools import pairwise

from step_saliency.options import is_whole
from step_saliency.segment.regions import Region, Step


def steps_at(
    starts: Sequence[int], regions: Sequence[str], texts: Sequence[str] | None, n_tokens: int
) -> tuple[Step, ...]:
    """Steps that begin at these positions.

    Args:
        starts: First position of each step, strictly increasing, the first of them 0.
        regions: Region of each step.
        texts: Text of each step; empty by default.
        n_tokens: Where the last step stops.

    Raises:
        ValueError: starts out of order or out of range; lengths that differ; an unknown region.
    """
    starts = list(starts)  # a column of pandas counts by its labels
    check_starts(starts, n_tokens)
    texts = [""] * len(starts) if texts is None else texts
    if not len(starts) == len(regions) == len(texts):
        raise ValueError(
            f"{len(starts)} starts, {len(regions)} regions and {len(texts)} texts; "
            "each step needs one of each"
        )
    stops = [*starts[1:], n_tokens]
    return tuple(
        Step(int(start), int(stop), Region(region), text)
        for start, stop, region, text in zip(starts, stops, regions, texts, strict=True)
    )


def check_starts(starts: Sequence[int], n_tokens: int) -> None:
    """Raise ValueError for starts that are out of order or out of range."""
    if len(starts) == 0:
        raise ValueError("starts is empty; the first step starts at 0")
    wrong = [start for start in starts if not is_whole(start)]
    if wrong:
        raise ValueError(f"starts must be whole numbers, got {wrong[0]!r}")
    if starts[0] != 0:
        raise ValueError(f"the first step must start at 0, got {starts[0]}")
    for before, after in pairwise(starts):
        if after <= before:
            raise ValueError(f"starts must strictly increase, got {after} after {before}")
    if starts[-1] >= n_tokens:
        raise ValueError(f"start {starts[-1]} is out of range for {n_tokens} tokens")


def check_tiling(steps: Sequence[Step], n_tokens: int) -> None:
    """Raise ValueError for steps that leave a gap, overlap or do not reach the end."""
    position = 0
    for index, step in enumerate(steps):
        if step.start != position:
            fault = "overlaps the step before" if step.start < position else "leaves a gap"
            raise ValueError(
                f"step {index} starts at {step.start} and {fault}; it must start at {position}"
            )
        if step.stop <= step.start:
            raise ValueError(f"step {index} is empty: start {step.start}, stop {step.stop}")
        position = step.stop
    if position != n_tokens:
        raise ValueError(f"steps end at {position}, but the trace has {n_tokens} tokens")
