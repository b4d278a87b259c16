"""What is each position of a growing batch? Labels from token ids, as they come.

Every row has a `StepTracker` (or a trace whose steps are known) that is fed its tokens once. What a
pass brings is told from two numbers, the tokens that it embeds and the keys that it attends to:

    keys = new tokens                    a new batch
    keys = seen + new tokens             the batch goes on
    new tokens < keys < seen + new       the cache was cropped, and goes on from what is left
    one token more, read anew            decoding without a cache: the batch goes on

so that it does not matter how a model is driven. Which positions are padding is for the caller to
say, by what the model masks; no token id means padding by itself.

When it misleads: rows of a cache that change places (beam search) look like rows that go on,
unless `keep` says so; a session hears of it from the caches of transformers.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from step_saliency.intervene.columns import Columns
from step_saliency.intervene.expected import ExpectedRows
from step_saliency.intervene.labels import PADDING, StepLabels
from step_saliency.intervene.rows import Label, Row, TracedRow, TrackedRow, padded_labels
from step_saliency.segment.frame import PromptReader
from step_saliency.segment.online import StepTracker
from step_saliency.segment.pieces import TokenTable
from step_saliency.trace import Trace


class StepStream:
    """Labels of a batch that grows.

    Args:
        tokenizer: The tokenizer of the model; not needed with traces.
        traces: Traces that the rows are read from: one for all rows, or one a row.
        n_prompt: Prompt tokens, without padding, of every row or of each; by default read from the
            chat template.

    Attributes:
        expected: What is known of the next batch.

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
        self._table: TokenTable | None = None
        self._traces = None if traces is None else list(traces)
        self._reader: PromptReader | None = None
        self._begin(0)
        self.expect(ExpectedRows(n_prompt=n_prompt))

    def beside(self, rows: ExpectedRows) -> "StepStream":
        """The stream of another batch of the same model, of which nothing is read yet."""
        other = copy.copy(self)
        other._begin(0)
        other.expect(rows)
        return other

    def expect(self, rows: ExpectedRows) -> None:
        """Say what is known of the next batch, and of those after it until said otherwise.

        Raises:
            ValueError: an unknown format or splitter, or one that is not causal.
        """
        self.expected = rows
        self._blank = self._new_tracker(rows) if self._traces is None else None

    def _new_tracker(self, rows: ExpectedRows) -> StepTracker:
        if self._table is None:
            self._table = TokenTable.of(self._tokenizer)
        return StepTracker(self._table, format=rows.format, splitter=rows.splitter)

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
        n_past = n_keys - tokens.shape[1]
        self._check_growth(len(tokens), n_past)
        if n_past < self._width or self._reopens(tokens, real):
            tokens, real = self._rewind(n_past, tokens, real)
        self._append(tokens, real)
        return self.labels

    @property
    def trackers(self) -> list[StepTracker | None]:
        """What finds the steps of each row; None where they are known."""
        return [row.tracker for row in self._rows]

    @property
    def awaits_prompt(self) -> bool:
        """Whether a row has read fewer tokens than its prompt was said to have."""
        return any(row.awaits_prompt for row in self._rows)

    @property
    def token_ids(self) -> Int[Tensor, "batch key"] | None:
        """Tokens of all positions so far, padding included; None before the first."""
        return None if self._token_ids.is_empty else self._token_ids.view

    @property
    def labels(self) -> StepLabels:
        """Labels of all positions so far."""
        return StepLabels(*self._labels.view)

    @property
    def _width(self) -> int:
        return len(self._labels)

    def _is_reread(self, tokens: Int[Tensor, "batch new"]) -> bool:
        """Whether these are the tokens so far and one more: decoding without a cache."""
        if tokens.shape != (len(self._rows), self._width + 1) or not self._width:
            return False
        return torch.equal(tokens[:, :-1].cpu(), self._token_ids.view)

    def _begin(self, batch: int) -> None:
        self._rows: list[Row] = [self._new_row(row, batch) for row in range(batch)]
        self.newest: list[list[Label]] = [[] for _ in range(batch)]
        self._forget()

    def _forget(self) -> None:
        self._labels = Columns(rows=1, positions=2, padding=PADDING)
        self._token_ids = Columns()

    def _new_row(self, row: int, batch: int) -> Row:
        if self._traces is not None:
            return TracedRow(_of_row(self._traces, row, batch, "traces"))
        assert self._blank is not None
        question = None
        if self.expected.questions is not None:
            question = _of_row(self.expected.questions, row, batch, "questions")
        n_prompt = self.expected.n_prompt
        if n_prompt is not None and not isinstance(n_prompt, int):
            n_prompt = _of_row(n_prompt, row, batch, "n_prompt")
        return TrackedRow(
            self._blank.unstarted(), self._prompt_reader, question=question, n_prompt=n_prompt
        )

    def _prompt_reader(self) -> PromptReader:
        if self._reader is None:
            self._reader = PromptReader(self._tokenizer)
        return self._reader

    def _check_growth(self, batch: int, n_past: int) -> None:
        if n_past > self._width or n_past < 0:
            raise ValueError(
                f"the model attends to {n_past} earlier positions, of which {self._width} were "
                "read here: fill its cache inside of the context too"
            )
        if batch != len(self._rows):
            raise ValueError(
                f"the batch has {batch} rows, before it had {len(self._rows)}; where rows leave a "
                "batch, say so with session.keep(rows)"
            )

    def _reopens(self, tokens: Int[Tensor, "batch new"], real: Bool[Tensor, "batch new"]) -> bool:
        is_single = tokens.shape[1] == 1
        if not self._width or (is_single and not any(row.is_open for row in self._rows)):
            return False
        rows = zip(self._rows, tokens, real, strict=True)
        return any(row.reopens(ids[is_real].tolist()) for row, ids, is_real in rows)

    def _rewind(
        self, n_past: int, tokens: Int[Tensor, "batch new"], real: Bool[Tensor, "batch new"]
    ) -> tuple[Int[Tensor, "batch key"], Bool[Tensor, "batch key"]]:
        """Forget all labels; tokens kept and new, to be read together."""
        was_real = self._labels.view[0, :, :n_past] >= 0
        seen = self._token_ids.view[:, :n_past].to(tokens.device)
        n_read = was_real.sum(-1).tolist()
        changed = self._reopens(tokens, real)
        self._rows = [
            row.rewound(0 if changed else n) for row, n in zip(self._rows, n_read, strict=True)
        ]
        self._forget()
        return torch.cat([seen, tokens], -1), torch.cat([was_real.to(real.device), real], -1)

    def _append(self, tokens: Int[Tensor, "batch new"], real: Bool[Tensor, "batch new"]) -> None:
        ids, are_real = tokens.tolist(), real.tolist()
        self.newest = list(map(padded_labels, self._rows, ids, are_real))
        new = torch.tensor(self.newest, dtype=torch.long, device=tokens.device)
        self._labels.append(new.permute(2, 0, 1))
        self._token_ids.append(tokens.to("cpu", copy=True))

    def keep(self, rows: Int[Tensor, "row"] | Sequence[int]) -> None:
        """The batch goes on with these rows only, in this order; one may come several times."""
        kept = torch.as_tensor(rows, dtype=torch.long).tolist()
        again = [row in kept[:place] for place, row in enumerate(kept)]
        self._rows = [
            self._rows[row].copied() if is_copy else self._rows[row]
            for row, is_copy in zip(kept, again, strict=True)
        ]
        self.newest = [self.newest[row] for row in kept]
        self._labels.keep(kept)
        self._token_ids.keep(kept)

    def join(self, other: "StepStream") -> None:
        """Add the rows of another batch behind these."""
        self._rows += other._rows
        self.newest += other.newest
        self._labels.join(other._labels)
        self._token_ids.join(other._token_ids)

    def trim(self, n_first: int) -> None:
        """Forget the first positions, which are padding in every row."""
        self._labels.trim(n_first)
        self._token_ids.trim(n_first)


def _of_row(values: Sequence[Any], row: int, batch: int, name: str) -> Any:
    if len(values) == batch:
        return values[row]
    if len(values) == 1 and name == "traces":
        return values[0]
    raise ValueError(f"{len(values)} {name} for a batch of {batch} rows; give one a row")
