"""The same edits inside transformers' own attention: no hook points, no scores of all pairs.

A registered attention function gets the queries of a pass with the keys and values of all cached
positions. Where no edit of the layer can act, it hands them to SDPA. Where an odds-equal bridge
acts on single queries, the attention row p is re-weighted group by group, since a shift of the
scores by s_B on the bridge B and s_S on the current part S changes nothing but their softmax sums:

    q[k] = p[k] * f_B  (k in B),   p[k] * f_S  (k in S),   p[k]  (else)

with factors f from the three sums alone (`odds_equal_factors`). Other edits of scores get the
scores of a block of queries at a time. Edits of head outputs act on what attention returns, edits
of residuals on what a decoder layer returns.

When it misleads: an architecture whose attention or residual does more than this seam shows (as
none in `saliency.attention` does) would be edited elsewhere than by hooks.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from step_saliency.intervene.edit import Edit, EditContext
from step_saliency.intervene.effects import Effects
from step_saliency.intervene.labels import PADDING, REGION_CODE, StepLabels
from step_saliency.models.registry import (
    attention_implementation,
    bridged_attention,
    decoder_layers,
    replaced_methods,
    unbridged_forward,
)
from step_saliency.segment.online import StepTracker
from step_saliency.trace import Region

REGISTERED_NAME = "step_saliency_edits"
"""Name of attention with edits in transformers' attention registry."""

SCORES_AT_A_TIME = 2**24
"""Entries of the scores that are formed together."""

OUTPUT_PROJECTIONS = ("o_proj", "c_proj", "dense", "out_proj", "wo")


@dataclass(frozen=True)
class _Call:
    """One call of an attention function, as transformers makes it."""

    module: nn.Module
    query: Float[Tensor, "batch head query d_head"]
    key: Float[Tensor, "batch kv_head key d_head"]
    value: Float[Tensor, "batch kv_head key d_value"]
    mask: Tensor | None
    options: dict[str, Any]

    @property
    def layer(self) -> int:
        return int(self.module.layer_idx)  # type: ignore[arg-type]

    @property
    def scale(self) -> float:
        given = self.options.get("scaling")
        return float(self.query.shape[-1] ** -0.5 if given is None else given)

    @property
    def sinks(self) -> Float[Tensor, "head"] | None:
        sinks: Tensor | None = self.options.get("s_aux")
        return sinks

    def plain(self) -> Float[Tensor, "batch query head d_value"]:
        """What the model's own attention gives."""
        if self.sinks is not None or self.options.get("softcap") is not None:
            return self.blockwise(lambda scores, _: scores)
        z: Tensor = sdpa_attention_forward(
            self.module, self.query, self.key, self.value, self.mask, **self.options
        )[0]
        return z

    def blockwise(
        self, edit: Callable[[Float[Tensor, "batch head query key"], slice], Tensor]
    ) -> Float[Tensor, "batch query head d_value"]:
        """Attention with edited scores, formed for a block of queries and the keys up to it.

        Args:
            edit: From the scores of a block, and its place among the queries, to new scores.
        """
        n_queries, n_keys = self.query.shape[2], self.key.shape[2]
        block = max(1, SCORES_AT_A_TIME // (self.query.shape[0] * self.query.shape[1] * n_keys))
        parts = []
        for start in range(0, n_queries, block):
            queries = slice(start, min(start + block, n_queries))
            scores = edit(self.scores(queries), queries)
            parts.append(self.head_outputs(self.pattern(scores)))
        return torch.cat(parts, dim=1)

    def scores(self, queries: slice) -> Float[Tensor, "batch head query key"]:
        """Masked scores of some queries with the keys up to the last of them."""
        n_queries = self.query.shape[2]
        stop = self.key.shape[2] - n_queries + queries.stop
        q = grouped(self.query[:, :, queries], self.key.shape[1])
        scores = (q @ self.key[:, :, :stop].mT) * self.scale
        scores = scores.unflatten(2, (-1, queries.stop - queries.start)).flatten(1, 2)
        cap = self.options.get("softcap")
        if cap is not None:
            scores = (scores / cap).tanh() * cap
        if self.mask is not None:
            return masked(scores, self.mask[:, :, queries, :stop])
        if queries.stop - queries.start == 1:
            return scores
        return masked(scores, _causal(queries.stop - queries.start, stop, scores.device))

    def pattern(
        self, scores: Float[Tensor, "batch head query key"]
    ) -> Float[Tensor, "batch head query key"]:
        """Attention weights; with sinks their rows sum to less than one."""
        exact = torch.promote_types(scores.dtype, torch.float32)
        if self.sinks is None:
            return scores.softmax(-1, dtype=exact)
        sinks = self.sinks.to(exact)[None, :, None, None].expand(*scores.shape[:3], 1)
        return torch.cat([scores.to(exact), sinks], dim=-1).softmax(-1)[..., :-1]

    def head_outputs(
        self, pattern: Float[Tensor, "batch head query key"]
    ) -> Float[Tensor, "batch query head d_value"]:
        """Values summed by the pattern."""
        value = self.value[:, :, : pattern.shape[-1]]
        z = grouped(pattern.to(value.dtype), value.shape[1]) @ value
        return z.unflatten(2, (-1, pattern.shape[2])).flatten(1, 2).transpose(1, 2)


def grouped(
    by_head: Float[Tensor, "batch head query last"], n_kv_heads: int
) -> Float[Tensor, "batch kv_head rows last"]:
    """The heads that share keys and values as rows of one matrix, so that none is repeated."""
    return by_head.unflatten(1, (n_kv_heads, -1)).flatten(2, 3)


def masked(
    scores: Float[Tensor, "batch head query key"], mask: Shaped[Tensor, "#batch #head #query key"]
) -> Float[Tensor, "batch head query key"]:
    """Scores with the lowest number where a boolean mask is False, or with an additive mask."""
    if mask.dtype == torch.bool:
        return scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return scores + mask


def _causal(n_queries: int, n_keys: int, device: torch.device) -> Bool[Tensor, "1 1 query key"]:
    mask = torch.ones(n_queries, n_keys, dtype=torch.bool, device=device)
    return mask.tril(n_keys - n_queries)[None, None]


class GrowingLabels:
    """Labels of rows that grow by one token at a time.

    Args:
        trackers: Started tracker of each row; rows are padded on the left.
    """

    def __init__(self, trackers: Sequence[StepTracker], device: torch.device) -> None:
        self.trackers = list(trackers)
        self.device = device
        made = StepLabels.from_trackers(self.trackers)
        self._length = len(made)
        self._buffer = torch.stack([made.step, made.region, made.previous]).to(device)
        self._previous = [self._previous_step(tracker, len(tracker.starts)) for tracker in trackers]
        codes = {int(code) for code in made.region.unique().tolist()}
        self.regions = frozenset(codes - {PADDING})
        self.starting = self.regions
        self.labels = made.to(device)

    @property
    def n_positions(self) -> int:
        """Positions so far, padding included."""
        return self._length

    def push(self, tokens: Sequence[int | None]) -> None:
        """Take each row's next token; None where the row is done, which is padding from then on."""
        column = [
            (PADDING,) * 3 if token is None else self._label(row, token)
            for row, token in enumerate(tokens)
        ]
        if self._length == self._buffer.shape[-1]:
            room = self._buffer.new_full((*self._buffer.shape[:2], self._length), PADDING)
            self._buffer = torch.cat([self._buffer, room], dim=-1)
        self._buffer[:, :, self._length] = torch.tensor(column, device=self.device).T
        self._length += 1
        self.labels = StepLabels(*self._buffer[:, :, : self._length])

    def _label(self, row: int, token: int) -> tuple[int, int, int]:
        tracker = self.trackers[row]
        event = tracker.push(token)
        if event.starts_step:
            self._previous[row] = self._previous_step(tracker, event.step)
        return event.step, REGION_CODE[event.region], self._previous[row]

    @staticmethod
    def _previous_step(tracker: StepTracker, step: int) -> int:
        regions = tracker.regions[:step]
        return next(
            (i for i in range(len(regions) - 1, -1, -1) if regions[i] is not Region.TEMPLATE),
            PADDING,
        )
