"""What is each position of a growing batch? Labels from token ids, as they come.

Every row has a `StepTracker` (or a trace whose steps are known) that is fed its tokens once. What a
pass brings is told from two numbers, the tokens that it embeds and the keys that it attends to:

    keys = new tokens                    a new batch
    keys = seen + new tokens             the batch goes on
    new tokens < keys < seen + new       the cache was cropped, and goes on from what is left
    one token more, read anew            decoding without a cache: the batch goes on

so that it does not matter how a model is driven. Which positions are padding is for the caller to
say, by what the model masks; no token id means padding by itself.

When it misleads: rows of a cache that change places (beam search) look like rows that go on.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from step_saliency.intervene.expected import ExpectedRows
from step_saliency.intervene.labels import (
    PADDING,
    REGION_CODE,
    StepLabels,
    step_labels,
    trace_labels,
)
from step_saliency.segment.frame import PromptReader
from step_saliency.segment.online import StepTracker
from step_saliency.trace import Region, Trace

Label = tuple[int, int, int]


@runtime_checkable
class Row(Protocol):
    """Labels of one sequence."""

    ids: list[int]

    def read(self, ids: Sequence[int]) -> list[Label]:
        """Labels of the next tokens."""

    def reopens(self, ids: Sequence[int]) -> bool:
        """Whether these tokens, coming next, belong to a prompt, so that all must be read anew."""

    def rewound(self, n_kept: int) -> "Row":
        """A row that has read nothing and will read the first tokens of this one, and others."""


class TracedRow:
    """A sequence whose trace is known."""

    def __init__(self, trace: Trace) -> None:
        self.ids: list[int] = []
        self._trace = trace
        self._labels = trace_labels(trace)

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

    def rewound(self, n_kept: int) -> "TracedRow":  # noqa: ARG002
        return TracedRow(self._trace)


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
        self._previous = PADDING

    def read(self, ids: Sequence[int]) -> list[Label]:
        if self.ids or not ids:
            return self._follow(ids)
        if self._given is None:
            self._n_prompt = self._reader().prompt_length(ids)
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
            return len(self.ids) < self._given
        framed = self._reader().framed_length([*self.ids, *ids])
        return framed is not None and framed > max(self._n_prompt, len(self.ids))

    def rewound(self, n_kept: int) -> "TrackedRow":
        kept = self._n_prompt if n_kept >= self._n_prompt else None
        return TrackedRow(
            self._tracker.copy(),
            self._reader,
            question=self._question,
            n_prompt=self._given if self._given is not None else kept,
        )


class StepStream:
    """Labels of a batch that grows.

    Args:
        tokenizer: The tokenizer of the model; not needed with traces.
        traces: Traces that the rows are read from: one for all rows, or one a row.
        n_prompt: Prompt tokens, without padding, of every row or of each; by default read from the
            chat template.

    Raises:
        ValueError: neither a tokenizer nor traces.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        traces: Sequence[Trace] | None = None,
        n_prompt: int | Sequence[int] | None = None,
    ) -> None:
        if tokenizer is None and traces is None:
            raise ValueError("the model has no tokenizer to find steps with; give their traces")
        self._tokenizer = tokenizer
        self._traces = None if traces is None else list(traces)
        self._reader: PromptReader | None = None
        self._rows: list[Row] = []
        self._width = 0
        self.newest: list[list[Label]] = []
        self._columns: Int[Tensor, "label batch key"] = torch.empty(3, 0, 0, dtype=torch.long)
        self._token_ids: Int[Tensor, "batch key"] = torch.empty(0, 0, dtype=torch.long)
        self.expect(ExpectedRows(n_prompt=n_prompt))

    def expect(self, rows: ExpectedRows) -> None:
        """Say what is known of the next batch, and of those after it until said otherwise.

        Raises:
            ValueError: an unknown format or splitter, or one that is not causal.
        """
        self._expected = rows
        self._blank = (
            StepTracker(self._tokenizer, format=rows.format, splitter=rows.splitter)
            if self._traces is None
            else None
        )

    def advance(
        self, tokens: Int[Tensor, "batch new"], real: Bool[Tensor, "batch new"], *, n_keys: int
    ) -> StepLabels:
        """Labels of all positions once a pass brings these tokens.

        Args:
            tokens: Token ids of the pass.
            real: Which of them are no padding.
            n_keys: Positions that the last of them could attend to, padding and cache included.

        Raises:
            ValueError: the cache holds positions that were not seen here, or other rows; tokens
                that are not those of the trace.
        """
        if tokens.shape[1] == n_keys and not self._is_reread(tokens):
            self._begin(len(tokens))
        elif tokens.shape[1] == n_keys:
            tokens, real = tokens[:, -1:], real[:, -1:]
        kept = n_keys - tokens.shape[1]
        self._check_growth(len(tokens), kept)
        if kept < self._width or self._reopens(tokens, real):
            tokens, real = self._rewind(kept, tokens, real)
        self._append(tokens, real)
        step, region, previous = self._columns[:, :, : self._width]
        return StepLabels(step, region, previous)

    @property
    def n_rows(self) -> int:
        """Rows of the batch; 0 before there is one."""
        return len(self._rows)

    def _is_reread(self, tokens: Int[Tensor, "batch new"]) -> bool:
        """Whether these are the tokens so far and one more: decoding without a cache."""
        if tokens.shape != (len(self._rows), self._width + 1) or not self._width:
            return False
        return torch.equal(tokens[:, :-1].cpu(), self._token_ids[:, : self._width])

    def _begin(self, batch: int) -> None:
        self._rows = [self._new_row(row, batch) for row in range(batch)]
        self._width = 0

    def _new_row(self, row: int, batch: int) -> Row:
        if self._traces is not None:
            return TracedRow(_of_row(self._traces, row, batch, "traces"))
        assert self._blank is not None
        question = None
        if self._expected.questions is not None:
            question = _of_row(self._expected.questions, row, batch, "questions")
        n_prompt = self._expected.n_prompt
        if n_prompt is not None and not isinstance(n_prompt, int):
            n_prompt = _of_row(n_prompt, row, batch, "n_prompt")
        return TrackedRow(
            self._blank.copy(), self._prompt_reader, question=question, n_prompt=n_prompt
        )

    def _prompt_reader(self) -> PromptReader:
        if self._reader is None:
            self._reader = PromptReader(self._tokenizer)
        return self._reader

    def _check_growth(self, batch: int, kept: int) -> None:
        if kept > self._width or kept < 0:
            raise ValueError(
                f"the model attends to {kept} earlier positions, of which {self._width} were read "
                "here: fill its cache inside of the context too"
            )
        if batch != len(self._rows):
            raise ValueError(
                f"the batch has {batch} rows, before it had {len(self._rows)}; where rows leave a "
                "batch, say so with session.keep(rows)"
            )

    def _reopens(self, tokens: Int[Tensor, "batch new"], real: Bool[Tensor, "batch new"]) -> bool:
        if tokens.shape[1] == 1 or not self._width:
            return False
        rows = zip(self._rows, tokens, real, strict=True)
        return any(row.reopens(ids[is_real].tolist()) for row, ids, is_real in rows)

    def _rewind(
        self, kept: int, tokens: Int[Tensor, "batch new"], real: Bool[Tensor, "batch new"]
    ) -> tuple[Int[Tensor, "batch key"], Bool[Tensor, "batch key"]]:
        """Forget all labels; tokens kept and new, to be read together."""
        was_real = self._columns[0, :, :kept] >= 0
        n_kept = was_real.sum(-1).tolist()
        changed = self._reopens(tokens, real)
        self._rows = [
            row.rewound(0 if changed else n) for row, n in zip(self._rows, n_kept, strict=True)
        ]
        self._width = 0
        seen = self._token_ids[:, :kept].to(tokens.device)
        return torch.cat([seen, tokens], -1), torch.cat([was_real.to(real.device), real], -1)

    def _append(self, tokens: Int[Tensor, "batch new"], real: Bool[Tensor, "batch new"]) -> None:
        rows = zip(self._rows, tokens.tolist(), real.tolist(), strict=True)
        labels = self.newest = [_labels_of(row, ids, is_real) for row, ids, is_real in rows]
        start, stop = self._width, self._width + tokens.shape[1]
        self._reserve(len(self._rows), stop, tokens.device)
        new = torch.tensor(labels, dtype=torch.long, device=tokens.device)
        self._columns[:, :, start:stop] = new.permute(2, 0, 1)
        self._token_ids[:, start:stop] = tokens.cpu()
        self._width = stop

    def _reserve(self, batch: int, width: int, device: torch.device) -> None:
        held = self._columns
        fits = held.shape[1] == batch and held.shape[2] >= width and held.device == device
        if fits and not held.is_inference():
            return
        with torch.inference_mode(False):
            columns = torch.full((3, batch, 2 * width), PADDING, device=device)
            token_ids = torch.zeros(batch, 2 * width, dtype=torch.long)
        if self._width:
            columns[:, :, : self._width] = held[:, :, : self._width]
            token_ids[:, : self._width] = self._token_ids[:, : self._width]
        self._columns, self._token_ids = columns, token_ids

    def keep(self, rows: Int[Tensor, "row"] | Sequence[int]) -> None:
        """The batch goes on with these rows only, in this order."""
        chosen = torch.as_tensor(rows, dtype=torch.long).cpu()
        self._rows = [self._rows[row] for row in chosen.tolist()]
        self._columns = self._columns[:, chosen.to(self._columns.device)]
        self._token_ids = self._token_ids[chosen]


def _labels_of(row: Row, ids: Sequence[int], real: Sequence[bool]) -> list[Label]:
    """Labels of the next positions of a row, padding among them."""
    labels = iter(row.read([token for token, is_real in zip(ids, real, strict=True) if is_real]))
    return [next(labels) if is_real else (PADDING, PADDING, PADDING) for is_real in real]


def _of_row(values: Sequence[Any], row: int, batch: int, name: str) -> Any:
    if len(values) == batch:
        return values[row]
    if len(values) == 1 and name == "traces":
        return values[0]
    raise ValueError(f"{len(values)} {name} for a batch of {batch} rows; give one a row")
