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

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from types import MappingProxyType
from typing import Any, Literal, TypeVar

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from step_saliency.options import check_option
from step_saliency.segment.online import StepTracker
from step_saliency.trace import Region, Trace

REGION_CODE: Mapping[Region, int] = MappingProxyType(
    {Region.TEMPLATE: 0, Region.QUESTION: 1, Region.THINKING: 2, Region.SUMMARY: 3}
)
WRITTEN: frozenset[int] = frozenset({2, 3})
"""Codes of the regions that the model writes: thinking and summary."""
PADDING = -1
BRIDGES = ("auto", "question", "thinking")
CURRENTS = ("region", "step")

_QUESTION, _THINKING, _SUMMARY = (
    REGION_CODE[region] for region in (Region.QUESTION, Region.THINKING, Region.SUMMARY)
)
_Made = TypeVar("_Made")
LabelRow = Sequence[tuple[int, int, int]]
"""Step, region code and previous step of each position of one sequence."""


class KeyGroup(IntEnum):
    """What a key is to a query."""

    OTHER = 0
    CURRENT = 1
    BRIDGE = 2


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
    _made: dict[Hashable, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def from_traces(
        cls,
        traces: Sequence[Trace],
        *,
        padding_side: Literal["left", "right"] = "left",
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
        return cls._padded([trace_labels(trace) for trace in traces], padding_side, length)

    @classmethod
    def from_trackers(
        cls,
        trackers: Sequence[StepTracker],
        *,
        padding_side: Literal["left", "right"] = "left",
        length: int | None = None,
    ) -> "StepLabels":
        """Labels of a batch of trackers, with the regions that are known by now.

        Args:
            trackers: One tracker a row.
            padding_side: Where shorter rows are padded.
            length: Number of positions; by default that of the longest row.

        Raises:
            ValueError: there is no tracker, or one has more tokens than ``length``.
        """
        rows = [step_labels(t.starts, t.regions, len(t)) for t in trackers]
        return cls._padded(rows, padding_side, length)

    @classmethod
    def _padded(
        cls, rows: Sequence[LabelRow], padding_side: str, length: int | None
    ) -> "StepLabels":
        check_option("padding_side", padding_side, ("left", "right"))
        if not rows:
            raise ValueError("labels need at least one sequence, got none")
        longest = max(len(row) for row in rows)
        if length is not None and longest > length:
            raise ValueError(f"a sequence has {longest} tokens, which is more than {length}")
        padding = [[(PADDING,) * 3] * ((length or longest) - len(row)) for row in rows]
        padded = [
            [*pad, *row] if padding_side == "left" else [*row, *pad]
            for row, pad in zip(rows, padding, strict=True)
        ]
        step, region, previous = torch.tensor(padded).unbind(-1)
        return cls(step, region, previous)

    def to(self, device: torch.device) -> "StepLabels":
        """The same labels on a device; itself if they are there."""
        if self.step.device == device:
            return self
        return StepLabels(self.step.to(device), self.region.to(device), self.previous.to(device))

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """Steps, regions and previous steps."""
        return self.step, self.region, self.previous

    def __len__(self) -> int:
        """Number of positions, padding included."""
        return self.step.shape[1]

    @property
    def position(self) -> Int[Tensor, "batch key"]:
        """Position of each token in its own sequence, without padding; -1 at padding."""
        real = self.step >= 0
        return torch.where(real, real.cumsum(-1) - 1, PADDING)

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

    def made(self, key: Hashable, make: Callable[[], _Made]) -> _Made:
        """What ``make`` returns, made once for these labels: layers of one pass share it."""
        if key not in self._made:
            self._made[key] = make()
        made: _Made = self._made[key]
        return made


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


def check_groups(bridge: str | Sequence[int], current: str) -> None:
    """Raise ValueError for a bridge or a current part that `key_groups` does not take."""
    check_option("current", current, CURRENTS)
    if isinstance(bridge, str):
        check_option("bridge", bridge, BRIDGES)
    elif not bridge or any(step < 0 for step in bridge):
        raise ValueError(f"bridge={list(bridge)} must name steps by index, 0 or above")


def key_groups(
    labels: StepLabels,
    *,
    n_queries: int,
    bridge: str | Sequence[int] = "auto",
    current: str = "region",
) -> Int[Tensor, "batch query key"]:
    """What each key is to each query: `KeyGroup` codes.

    Template, padding and keys after the query are OTHER. A key that is both in the bridge and
    current is current. All keys of a query that is in neither thinking nor summary are OTHER.

    Args:
        labels: What every position so far is.
        n_queries: The queries are the last positions, this many.
        bridge: ``"question"``; ``"thinking"``; ``"auto"``, the question while thinking and the
            thinking while summarising; or indices of steps.
        current: ``"region"``, all of the query's region so far, or ``"step"``, the query's step.

    Raises:
        ValueError: an unknown bridge or current part.
    """
    check_groups(bridge, current)
    key = "groups", n_queries, bridge if isinstance(bridge, str) else tuple(bridge), current
    return labels.made(key, lambda: _key_groups(labels, n_queries, bridge, current))


def _key_groups(
    labels: StepLabels, n_queries: int, bridge: str | Sequence[int], current: str
) -> Int[Tensor, "batch query key"]:
    n_keys = len(labels)
    last = slice(n_keys - n_queries, None)
    query_step, query_region = labels.step[:, last, None], labels.region[:, last, None]
    same_step = labels.step[:, None] == query_step
    key_region = torch.where(same_step, query_region, labels.settled[:, None])
    places = torch.arange(n_keys, device=labels.step.device)
    acts = (query_region == _THINKING) | (query_region == _SUMMARY)
    counts = acts & (key_region > 0) & (places <= places[last, None])
    is_current = same_step if current == "step" else key_region == query_region
    in_bridge = _in_bridge(labels, bridge, query_region, key_region)
    groups = torch.where(in_bridge, int(KeyGroup.BRIDGE), int(KeyGroup.OTHER))
    groups = torch.where(is_current, int(KeyGroup.CURRENT), groups)
    return torch.where(counts, groups, int(KeyGroup.OTHER)).to(torch.int8)


def _in_bridge(
    labels: StepLabels,
    bridge: str | Sequence[int],
    query_region: Int[Tensor, "batch query 1"],
    key_region: Int[Tensor, "batch query key"],
) -> Bool[Tensor, "batch #query key"]:
    if not isinstance(bridge, str):
        chosen = torch.tensor(list(bridge), device=labels.step.device)
        return torch.isin(labels.step, chosen)[:, None]
    if bridge == "auto":
        wanted = torch.where(query_region == _THINKING, _QUESTION, _THINKING)
        return key_region == wanted
    return key_region == REGION_CODE[Region(bridge)]


def hashed(*parts: Int[Tensor, "..."] | int) -> Int[Tensor, "..."]:
    """A number from 0 to 2^62 - 1 that looks random and depends on ``parts`` alone, broadcast.

    The same on every device and in every pass, unlike draws from a generator.
    """
    state = torch.tensor(0, dtype=torch.long)
    for part in parts:
        mixed = torch.as_tensor(part, dtype=torch.long) * -7046029254386353131
        state = _scrambled(state.to(mixed.device) + mixed + 0x632BE59BD9B4E019)
    return state & (2**62 - 1)


def _scrambled(state: Int[Tensor, "..."]) -> Int[Tensor, "..."]:
    """The finaliser of splitmix64, on numbers that wrap."""
    state = (state ^ ((state >> 30) & (2**34 - 1))) * -4658895280553007687
    state = (state ^ ((state >> 27) & (2**37 - 1))) * -7723592293110705685
    return state ^ ((state >> 31) & (2**33 - 1))
