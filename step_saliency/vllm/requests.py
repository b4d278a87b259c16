"""What each token of a request is, step and region, and what edits do to it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from step_saliency.intervene.groups import KeyGroup, key_groups
from step_saliency.intervene.labels import WRITTEN, StepLabels
from step_saliency.intervene.oeb.edit import OddsEqualBridge
from step_saliency.intervene.rows import Label, TrackedRow
from step_saliency.intervene.stepflow import StepFlow


@dataclass(frozen=True, eq=False)
class Injection:
    """Momentum that a token gets.

    Attributes:
        query: Which of the positions of the pass gets it.
        previous: Positions of the step that it is the mean of.
    """

    query: int
    previous: tuple[int, ...]


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
        self._starts = _starts(self._labels)
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
        new = self._row.read(list(tokens)[known - start :]) if start + len(tokens) > known else []
        for label in new:
            self._starts.setdefault(label[0], len(self._labels))
            self._labels.append(label)

    def computed(self, stop: int) -> int:
        """Note that positions up to ``stop`` are computed; returns what was noted before."""
        before = self._n_computed
        self._n_computed = max(before, stop)
        return before

    def bridge_acts(self, start: int, stop: int) -> bool:
        """Whether positions ``start`` to ``stop`` may be moved by a bridge."""
        if self.flow.oeb is None:
            return False
        return any(region in WRITTEN for _, region, _ in self._labels[start:stop])

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

    def is_written(self, n_keys: int) -> bool:
        """Whether the last of so many keys is of a region that the model writes."""
        return self._labels[n_keys - 1][1] in WRITTEN

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
        if edit is None:
            return []
        plans = []
        for position in range(start, stop):
            step, region, previous = self._labels[position]
            begins = self._starts[step] == position
            if begins and region in WRITTEN and previous >= 0:
                positions = self._positions_of(previous, position)
                window = positions if edit.window is None else positions[-edit.window :]
                plans.append(Injection(position - start, window))
        return plans

    def _positions_of(self, step: int, before: int) -> tuple[int, ...]:
        first = self._starts[step]
        steps = range(first, before)
        return tuple(k for k in steps if self._labels[k][0] == step)


def _starts(labels: Sequence[Label]) -> dict[int, int]:
    starts: dict[int, int] = {}
    for position, (step, _, _) in enumerate(labels):
        starts.setdefault(step, position)
    return starts
