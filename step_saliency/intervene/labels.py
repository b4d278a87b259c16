"""What is each position to the one that is being computed: same step, bridge, or neither?

Every position has a step, the region of that step, and the last step before it that is no template:

    step[k]       index of the step that position k is in; -1 where it is padding
    region[k]     REGION_CODE of that step as it was known when token k came; -1 at padding
    previous[k]   last step before step[k] whose region is not template; -1 without one

A region can become known a few tokens into its step (an announced answer), so the region of key k
for query t is ``region[t]`` in the query's own step, else that of the last token of ``step[k]``.
Both depend on tokens up to t alone: a trace that is decoded token by token and one that is run in a
single pass have the same labels.

When it misleads: labels made from finished traces know the region of such a step from its first
token on, labels that are read while decoding do not.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from step_saliency.intervene.choices import PADDING_SIDES, PaddingSide
from step_saliency.options import check_option
from step_saliency.segment.regions import Region
from step_saliency.trace import Trace

REGION_CODE: Mapping[Region, int] = MappingProxyType(
    {Region.TEMPLATE: 0, Region.QUESTION: 1, Region.THINKING: 2, Region.SUMMARY: 3}
)
WRITTEN: frozenset[int] = frozenset({REGION_CODE[Region.THINKING], REGION_CODE[Region.SUMMARY]})
"""Codes of the regions that the model writes: thinking and summary."""
PADDING = -1

LabelRow = Sequence[tuple[int, int, int]]
"""Step, region code and previous step of each position of one sequence."""


@dataclass(frozen=True, eq=False)
class StepLabels:
    """What every position so far is.

    Attributes:
        step: Step of each position, -1 at padding.
        region: Code of its region, as it was known when the token came.
        previous: Last step before it that is no template, -1 without one.
    """

    step: Int[Tensor, "batch key"]
    region: Int[Tensor, "batch key"]
    previous: Int[Tensor, "batch key"]

    @classmethod
    def from_traces(
        cls,
        traces: Sequence[Trace],
        *,
        padding_side: PaddingSide = "left",
        length: int | None = None,
    ) -> "StepLabels":
        """Labels of a batch of traces.

        Args:
            traces: One trace a row.
            padding_side: Where shorter rows are padded.
            length: Number of positions; by default that of the longest trace.

        Raises:
            ValueError: there is no trace, or one is longer than ``length``.
        """
        check_option("padding_side", padding_side, PADDING_SIDES)
        rows = [trace_labels(trace) for trace in traces]
        if not rows:
            raise ValueError("labels need at least one sequence, got none")
        longest = max(len(row) for row in rows)
        if length is not None and longest > length:
            raise ValueError(f"a sequence has {longest} tokens, which is more than {length}")
        padded = [_padded(row, length or longest, padding_side) for row in rows]
        return cls(*torch.tensor(padded).unbind(-1))

    def to(self, device: torch.device) -> "StepLabels":
        """The same labels on a device; itself if they are there."""
        return self if self.step.device == device else self.each(lambda label: label.to(device))

    def up_to(self, length: int) -> "StepLabels":
        """The labels of the first positions; itself if these are all."""
        return self if length == len(self) else self.each(lambda label: label[:, :length])

    def each(
        self, change: Callable[[Int[Tensor, "batch key"]], Int[Tensor, "row pos"]]
    ) -> "StepLabels":
        """Labels of which step, region and previous step are changed in the same way."""
        return StepLabels(*map(change, self.tensors))

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """Steps, regions and previous steps."""
        return self.step, self.region, self.previous

    def __len__(self) -> int:
        """Number of positions, padding included."""
        return self.step.shape[1]

    def in_region(self, *regions: Region | str) -> Bool[Tensor, "batch key"]:
        """Whether each position is in one of some regions, as they were known when it came.

        Args:
            regions: ``Region.THINKING`` or its name, ``"thinking"``, and so on.
        """
        codes = [REGION_CODE[Region(region)] for region in regions]
        return torch.isin(self.region, torch.tensor(codes, device=self.region.device))

    @property
    def position(self) -> Int[Tensor, "batch key"]:
        """Position of each token in its own sequence, without padding; -1 at padding."""
        return own_positions(self.step)

    @property
    def starts(self) -> Bool[Tensor, "batch key"]:
        """Whether a position is the first of its step."""
        before = torch.nn.functional.pad(self.step.cummax(-1).values, (1, 0), value=PADDING)
        return self.step > before[:, :-1]

    @property
    def settled(self) -> Int[Tensor, "batch key"]:
        """Region of each position's step at the last token of that step so far."""
        n_keys = self.step.shape[1]
        places = torch.arange(n_keys, device=self.step.device).expand_as(self.step)
        step = self.step.clamp(min=0)
        last = torch.zeros_like(step).scatter_reduce(
            1, step, torch.where(self.step >= 0, places, 0), "amax"
        )
        return torch.where(self.step >= 0, self.region.gather(1, last.gather(1, step)), PADDING)


def own_positions(step: Int[Tensor, "batch key"]) -> Int[Tensor, "batch key"]:
    """Position of each token in its own sequence, from its step; -1 at padding."""
    real = step >= 0
    return torch.where(real, real.cumsum(-1) - 1, PADDING)


def _padded(row: LabelRow, length: int, side: PaddingSide) -> list[tuple[int, int, int]]:
    padding = [(PADDING, PADDING, PADDING)] * (length - len(row))
    return [*padding, *row] if side == "left" else [*row, *padding]


def step_labels(
    starts: Sequence[int], regions: Sequence[Region], n_tokens: int
) -> list[tuple[int, int, int]]:
    """Step, region code and previous step of each position of a sequence whose steps are known."""
    rows: list[tuple[int, int, int]] = []
    previous = PADDING
    for step, (start, region) in enumerate(zip(starts, regions, strict=True)):
        stop = starts[step + 1] if step + 1 < len(starts) else n_tokens
        rows += [(step, REGION_CODE[region], previous)] * (stop - start)
        previous = previous if region is Region.TEMPLATE else step
    return rows


def trace_labels(trace: Trace) -> list[tuple[int, int, int]]:
    """Step, region code and previous step of each position of a trace."""
    return step_labels(trace.starts, trace.regions, len(trace))
