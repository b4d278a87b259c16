"""Labels of one sequence of a growing batch, token by token."""

import copy
from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from step_saliency.intervene.labels import PADDING, REGION_CODE, step_labels, trace_labels
from step_saliency.segment.frame import PromptReader
from step_saliency.segment.online import StepTracker
from step_saliency.segment.regions import Region
from step_saliency.trace import Trace

Label = tuple[int, int, int]


@runtime_checkable
class Row(Protocol):
    """Labels of one sequence."""

    ids: list[int]

    @property
    def tracker(self) -> StepTracker | None:
        """What finds its steps; None where they are known."""

    def read(self, ids: Sequence[int]) -> list[Label]:
        """Labels of the next tokens."""

    def reopens(self, ids: Sequence[int]) -> bool:
        """Whether these tokens, coming next, belong to a prompt, so that all must be read anew."""

    @property
    def awaits_prompt(self) -> bool:
        """Whether fewer tokens came than its prompt was said to have."""

    @property
    def is_open(self) -> bool:
        """Whether more of its prompt may come, a token at a time."""

    def rewound(self, n_first: int) -> "Row":
        """A row that has read nothing and will read the first tokens of this one, and others."""

    def copied(self) -> "Row":
        """A row that has read the same and goes on by itself."""


class TracedRow:
    """A sequence whose trace is known."""

    def __init__(self, trace: Trace) -> None:
        self.ids: list[int] = []
        self._trace = trace
        self._labels = trace_labels(trace)

    @property
    def tracker(self) -> None:
        return None

    def read(self, ids: Sequence[int]) -> list[Label]:
        begin = len(self.ids)
        known = self._trace.tokens[begin : begin + len(ids)].tolist()
        if list(ids) != known:
            pairs = enumerate(zip(ids, known, strict=False))
            wrong = next((i for i, (id_, other) in pairs if id_ != other), len(known))
            raise ValueError(
                f"the model reads {list(ids)[wrong : wrong + 3]} at position {begin + wrong}, the "
                f"trace of {len(self._trace)} tokens has {known[wrong : wrong + 3]} there"
            )
        self.ids += ids
        return self._labels[begin : begin + len(ids)]

    def reopens(self, ids: Sequence[int]) -> bool:  # noqa: ARG002
        return False

    @property
    def awaits_prompt(self) -> bool:
        return False

    @property
    def is_open(self) -> bool:
        return False

    def rewound(self, n_first: int) -> "TracedRow":  # noqa: ARG002
        return TracedRow(self._trace)

    def copied(self) -> "TracedRow":
        other = copy.copy(self)
        other.ids = list(self.ids)
        return other


class TrackedRow:
    """A sequence whose steps are found as its tokens come."""

    def __init__(
        self,
        tracker: StepTracker,
        reader: Callable[[], PromptReader],
        *,
        question: str | None = None,
        n_prompt: int | None = None,
    ) -> None:
        self.ids: list[int] = []
        self._tracker = tracker
        self._reader = reader
        self._question = question
        self._given = n_prompt
        self._n_prompt = n_prompt or 0
        self._is_open = False
        self._previous = PADDING

    @property
    def tracker(self) -> StepTracker:
        return self._tracker

    @property
    def n_prompt(self) -> int:
        """Tokens of its prompt, as far as they were read: as given, or by the chat template."""
        return self._n_prompt

    def read(self, ids: Sequence[int]) -> list[Label]:
        if self.ids or not ids:
            return self._follow(ids)
        if self._given is None:
            self._n_prompt = self._reader().prompt_length(ids)
            self._is_open = self._reader().is_unfinished(ids)
        prompt = list(ids[: self._n_prompt])
        steps = self._reader().steps(prompt) if self._question is None else None
        self._tracker.start(prompt, question=self._question, prompt_steps=steps)
        self.ids = prompt
        labels = step_labels(self._tracker.starts, self._tracker.regions, len(prompt))
        self._end_step(self._tracker.regions)
        return [*labels, *self._follow(ids[len(prompt) :])]

    def _follow(self, ids: Sequence[int]) -> list[Label]:
        labels = []
        for token in ids:
            event = self._tracker.push(token)
            if event.starts_step:
                self._end_step(self._tracker.regions[: event.step])
            labels.append((event.step, REGION_CODE[event.region], self._previous))
        self.ids += ids
        return labels

    def _end_step(self, regions: Sequence[Region]) -> None:
        """Of the steps that have ended, remember the last one that is no template."""
        real = (i for i in range(len(regions) - 1, -1, -1) if regions[i] is not Region.TEMPLATE)
        self._previous = next(real, PADDING)

    def reopens(self, ids: Sequence[int]) -> bool:
        if self._given is not None:
            return self.awaits_prompt
        if len(ids) == 1 and not self._is_open:
            return False
        tokens = [*self.ids, *ids]
        framed = self._reader().framed_length(tokens)
        if framed is None:
            self._is_open = self._is_open and self._reader().is_unfinished(tokens)
            return self._is_open
        return framed > max(self._n_prompt, len(self.ids))

    @property
    def awaits_prompt(self) -> bool:
        return self._given is not None and len(self.ids) < self._given

    @property
    def is_open(self) -> bool:
        return self.awaits_prompt if self._given is not None else self._is_open

    def rewound(self, n_first: int) -> "TrackedRow":
        n_read = self._n_prompt if n_first >= self._n_prompt else None
        return TrackedRow(
            self._tracker.copy(),
            self._reader,
            question=self._question,
            n_prompt=self._given if self._given is not None else n_read,
        )

    def copied(self) -> "TrackedRow":
        other = copy.copy(self)
        other.ids, other._tracker = list(self.ids), self._tracker.copy()
        return other


def padded_labels(row: Row, ids: Sequence[int], real: Sequence[bool]) -> list[Label]:
    """Labels of the next positions of a row, padding among them."""
    if all(real):
        return row.read(ids)
    labels = iter(row.read([token for token, is_real in zip(ids, real, strict=True) if is_real]))
    return [next(labels) if is_real else (PADDING, PADDING, PADDING) for is_real in real]
