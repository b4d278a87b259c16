"""Decoding by the ``generate`` of transformers: its loop, its cache, its attention.

A logits processor draws each row's token by the row's own random number and leaves it as the one
possible token (greedy: as the best); a stopping criterion ends the call when half of the rows are
done, and the rest goes on in another call with the same cache, so that finished rows cost little.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import (
    DynamicCache,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    StoppingCriteria,
    StoppingCriteriaList,
)

from step_saliency.decoding.rows import Row, StopRules, left_padded
from step_saliency.decoding.sampling import Sampler


@torch.no_grad()
def decode_fast(
    model: PreTrainedModel,
    rows: Sequence[Row],
    sampler: Sampler,
    rules: StopRules,
    session: Any = None,
) -> Iterator[Row]:
    """Fill the rows' responses; yields rows some time after they are done.

    Args:
        model: transformers model.
        rows: Rows of one batch.
        sampler: How tokens are drawn.
        rules: When rows are done.
        session: `FastSession` of the edits in force, if there are any.
    """
    live = list(rows)
    tokens, mask = left_padded([row.prompt for row in live], model.device)
    cache = DynamicCache() if session is not None else DynamicCache(config=model.config)
    if session is not None:
        session.start(tokens, mask.bool())
    while live:
        drawing = _Drawing(live, sampler, rules, session)
        with _plain_settings(model):
            tokens = model.generate(
                tokens,
                attention_mask=mask,
                past_key_values=cache,
                logits_processor=LogitsProcessorList([drawing]),
                stopping_criteria=StoppingCriteriaList([_Enough(drawing)]),
                generation_config=GenerationConfig(
                    max_new_tokens=rules.max_new_tokens, do_sample=False, use_cache=True
                ),
            )
        yield from (row for row in live if row.is_done)
        staying = [i for i, row in enumerate(live) if not row.is_done]
        live = [live[i] for i in staying]
        if live:
            rows_left = torch.tensor(staying, device=tokens.device)
            cache.batch_select_indices(rows_left)
            tokens, mask = tokens[rows_left], mask[rows_left]
            mask = torch.nn.functional.pad(mask, (0, tokens.shape[1] - mask.shape[1]), value=1)
            if session is not None:
                session.keep(rows_left)


@contextmanager
def _plain_settings(model: PreTrainedModel) -> Iterator[None]:
    """Without the checkpoint's own settings, such as a repetition penalty."""
    checkpoints = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = checkpoints


class _Drawing(LogitsProcessor):
    """Each row's next token: drawn, added to the row, and left as the only one that is possible."""

    def __init__(
        self, rows: Sequence[Row], sampler: Sampler, rules: StopRules, session: Any
    ) -> None:
        self.rows = rows
        self.sampler = sampler
        self.rules = rules
        self.session = session
        self.is_over = False

    def __call__(
        self,
        input_ids: Int[Tensor, "batch pos"],  # noqa: ARG002
        scores: Float[Tensor, "batch vocab"],
    ) -> Float[Tensor, "batch vocab"]:
        uniforms = [0.0 if row.is_done else row.draw() for row in self._drawing_rows()]
        drawn = self.sampler(scores, uniforms)
        was_live = [not row.is_done for row in self.rows]
        for row, token, is_live in zip(self.rows, drawn.tolist(), was_live, strict=True):
            if is_live:
                row.append(token, self.rules)
        if self.session is not None:
            self.session.push(drawn, was_live)
        n_done = sum(row.is_done for row in self.rows)
        too_long = any(self._is_full(row) for row in self.rows)
        self.is_over = 2 * n_done >= len(self.rows) or too_long
        if not self.sampler.is_random:
            return scores  # generate takes the best of them itself
        return scores.fill_(-torch.inf).scatter_(1, drawn.unsqueeze(1), 0.0)

    def _drawing_rows(self) -> Sequence[Row]:
        return self.rows if self.sampler.is_random else ()

    def _is_full(self, row: Row) -> bool:
        """Whether a further pass would give the row a position that the model does not have."""
        return row.is_done and len(row.prompt) + len(row.response) >= self.rules.context


class _Enough(StoppingCriteria):
    """Ends a call when half of its rows are done."""

    def __init__(self, drawing: _Drawing) -> None:
        self.drawing = drawing

    def __call__(
        self, input_ids: Int[Tensor, "batch pos"], _scores: Any, **_kwargs: Any
    ) -> Bool[Tensor, "batch"]:
        over = self.drawing.is_over
        return torch.full((len(input_ids),), over, device=input_ids.device)
