"""What each token of a request is, step and region, and what edits do to it."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from step_saliency.intervene.groups import KeyGroup, key_groups
from step_saliency.intervene.labels import REGION_CODE, WRITTEN, StepLabels
from step_saliency.intervene.oeb.edit import OddsEqualBridge
from step_saliency.intervene.rows import Label, TrackedRow
from step_saliency.intervene.stepflow import StepFlow
from step_saliency.segment.regions import Region

BRIDGE_OF = {
    REGION_CODE[Region.THINKING]: REGION_CODE[Region.QUESTION],
    REGION_CODE[Region.SUMMARY]: REGION_CODE[Region.THINKING],
}
"""Region of the bridge for queries of a region."""


class Injection(NamedTuple):
    """Momentum that a token gets.

    Attributes:
        query: Which of the positions of the pass gets it.
        previous: Positions of the step that it is the mean of.
    """

    query: int
    previous: range


class RequestSteps:
    """Labels of one request, whatever parts it is computed in, and however often.

    Prompts come in chunks or out of a prefix cache, and what was preempted is computed anew: tokens
    are read once, in order, and the labels of a pass are those of the positions that it computes.

    Args:
        flow: What is done to the request.
        row: Reads its tokens.
        prompt: Its prompt.
    """

    def __init__(self, flow: StepFlow, row: TrackedRow, prompt: Sequence[int]) -> None:
        self.flow = flow
        self._labels: list[Label] = row.read(list(prompt))
        self._row = row
        self._starts: dict[int, int] = {}
        self._regions: dict[int, int] = {}
        for position, label in enumerate(self._labels):
            self._note(position, label)
        self._n_computed = 0

    def read(self, start: int, tokens: Sequence[int]) -> None:
        """Tokens of a pass that begins at a position; those known already are skipped.

        Raises:
            ValueError: positions between the last known and ``start`` were never shown.
        """
        known = len(self._labels)
        if start > known:
            raise ValueError(
                f"the engine computes position {start} of a request of which {known} tokens are "
                "known; its cache holds what was not read here"
            )
        if start + len(tokens) <= known:
            return
        for position, label in enumerate(self._row.read(tokens[known - start :]), known):
            self._note(position, label)
            self._labels.append(label)

    def _note(self, position: int, label: Label) -> None:
        """Where a step begins, and its region as it is known by now."""
        step, region, _ = label
        self._starts.setdefault(step, position)
        self._regions[step] = region

    def computed(self, stop: int) -> int:
        """Note that positions up to ``stop`` are computed; returns what was noted before."""
        before = self._n_computed
        self._n_computed = max(before, stop)
        return before

    def bridge_acts(self, start: int, stop: int) -> bool:
        """Whether positions ``start`` to ``stop`` may be moved by a bridge."""
        if self.flow.oeb is None:
            return False
        return any(label[1] in WRITTEN for label in self._labels[start:stop])

    def members(self, start: int, stop: int) -> Bool[Tensor, "query key 2"]:
        """Which keys are in the bridge (0) or the current part (1) of a query.

        Args:
            start: Position of the first query.
            stop: Position after the last; keys are all before it.
        """
        assert self.flow.oeb is not None
        return self._of_keys(self.flow.oeb, stop, stop - start)

    def part(self, n_keys: int) -> tuple[int, int]:
        """Region and step of the last of so many keys: as long as it stays, so do the members."""
        assert self.flow.oeb is not None
        step, region, _ = self._labels[n_keys - 1]
        return region, step if self.flow.oeb.current == "step" else 0

    def newest_members(self, n_keys: int) -> Float[np.ndarray, "2 key"]:
        """1 where a key is in the bridge (0) or the current part (1) of the last of so many.

        What `members` says of one query, step by step instead of key by key. That query is of a
        region that the model writes.
        """
        assert self.flow.oeb is not None
        own, region, _ = self._labels[n_keys - 1]
        members = np.zeros((2, n_keys), dtype=np.float32)
        by_step = self.flow.oeb.current == "step"
        for step, start, stop in self._steps_up_to(own, n_keys):
            of_step = region if step == own else self._regions[step]
            if step == own or (of_step == region and not by_step):
                members[1, start:stop] = 1
            elif of_step == BRIDGE_OF[region]:
                members[0, start:stop] = 1
        return members

    def _steps_up_to(self, last: int, n_keys: int) -> Iterator[tuple[int, int, int]]:
        """Each step up to one, its first position and the one after its last."""
        starts = [(step, start) for step, start in self._starts.items() if step <= last]
        for (step, start), (_, stop) in pairwise([*starts, (last, n_keys)]):
            yield step, start, stop

    def _of_keys(
        self, edit: OddsEqualBridge, n_keys: int, n_queries: int
    ) -> Bool[Tensor, "query key 2"]:
        labels = StepLabels(*torch.tensor(self._labels[:n_keys]).unsqueeze(0).unbind(-1))
        groups = key_groups(labels, n_queries=n_queries, bridge=edit.bridge, current=edit.current)[
            0
        ]
        return torch.stack([groups == KeyGroup.BRIDGE, groups == KeyGroup.CURRENT], -1)

    def injections(self, start: int, stop: int) -> list[Injection]:
        """Momentum for positions ``start`` to ``stop``."""
        edit = self.flow.smi
        if edit is None or edit.alpha == 0:
            return []
        plans = []
        for position in range(start, stop):
            step, region, previous = self._labels[position]
            begins = self._starts[step] == position
            if begins and region in WRITTEN and previous >= 0:
                whole = self._positions_of(previous)
                plans.append(Injection(position - start, whole[-(edit.window or len(whole)) :]))
        return plans

    def _positions_of(self, step: int) -> range:
        """Positions of a step that has ended."""
        stop = min(start for later, start in self._starts.items() if later > step)
        return range(self._starts[step], stop)
