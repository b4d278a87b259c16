"""One call of an attention function, and what attention itself gives of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers.integrations.sdpa_attention import sdpa_attention_forward

SCORES_AT_A_TIME = 2**24
"""Entries of the scores that are formed together."""
WIDENED_AT_A_TIME = 2**19
"""Numbers of half precision that are widened together."""
CUDA_SUMS_STAY = hasattr(torch.ops.aten.bmm, "dtype") and torch.version.hip is None
"""Whether products of half precision on CUDA can give the sums of float32 that they are made by."""


@dataclass(frozen=True, eq=False)
class AttentionCall:
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
        scale = self.options.get("scaling")
        return float(self.query.shape[-1] ** -0.5 if scale is None else scale)

    @property
    def sinks(self) -> Float[Tensor, "head"] | None:
        sinks: Tensor | None = self.options.get("s_aux")
        return sinks

    def plain(self) -> Float[Tensor, "batch query head d_value"]:
        """What the model's own attention gives."""
        if beyond_sdpa(self.options):
            return self.blockwise(lambda scores, _: scores)
        return sdpa(self.module, self.query, self.key, self.value, self.mask, self.options)

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
        """Masked scores of some queries with the keys up to the last of them, in float32 at least.

        In half precision scores of 50 would be rounded by up to an eighth, and weights with them.
        """
        n_queries = self.query.shape[2]
        stop = self.key.shape[2] - n_queries + queries.stop
        q = grouped(self.query[:, :, queries], self.key.shape[1])
        keys = self.key[:, :, :stop].mT.flatten(0, 1)
        scores = exact_product(q.flatten(0, 1), keys).mul_(self.scale).view(*q.shape[:3], stop)
        scores = self._capped(scores.unflatten(2, (-1, queries.stop - queries.start)).flatten(1, 2))
        if self.mask is not None:
            return masked(scores, self.mask[:, :, queries, :stop])
        if queries.stop - queries.start == 1:
            return scores
        return masked(scores, _causal(queries.stop - queries.start, stop, scores.device))

    def single_pattern(
        self, bias: Float[Tensor, "rows 1 key"] | None
    ) -> Float[Tensor, "batch head key"]:
        """Attention weights of single queries; heads that share keys are rows of one product.

        Args:
            bias: Added to the scores; one row for each row of the batch and head of keys.
        """
        keys = self.key.flatten(0, 1).mT
        q = self.query.reshape(len(keys), -1, self.query.shape[-1])
        if bias is not None and self.options.get("softcap") is None and keys.dtype == bias.dtype:
            scores = torch.baddbmm(bias, q, keys, alpha=self.scale)
        else:
            scores = self._capped(exact_product(q, keys).mul_(self.scale))
            scores = scores if bias is None else scores.add_(bias)
        return self.pattern(scores.view(*self.query.shape[:2], -1))

    def single_outputs(
        self, pattern: Float[Tensor, "batch head key"]
    ) -> Float[Tensor, "batch 1 head d_value"]:
        """`head_outputs` of single queries."""
        values = self.value.flatten(0, 1)
        rows = pattern.to(values.dtype).view(len(values), -1, pattern.shape[-1])
        return torch.bmm(rows, values).view(len(pattern), 1, pattern.shape[1], -1)

    def _capped(self, scores: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        cap = self.options.get("softcap")
        return scores if cap is None else (scores / cap).tanh() * cap

    def pattern(
        self, scores: Float[Tensor, "batch head *query key"]
    ) -> Float[Tensor, "batch head *query key"]:
        """Attention weights; with sinks their rows sum to less than one."""
        exact = _exact(scores.dtype)
        if self.sinks is None:
            return scores.softmax(-1, dtype=exact)
        by_head = self.sinks.to(exact).view(-1, *[1] * (scores.ndim - 2))
        sinks = by_head.expand(*scores.shape[:-1], 1)
        return torch.cat([scores.to(exact), sinks], dim=-1).softmax(-1)[..., :-1]

    def head_outputs(
        self, pattern: Float[Tensor, "batch head query key"]
    ) -> Float[Tensor, "batch query head d_value"]:
        """Values summed by the pattern."""
        value = self.value[:, :, : pattern.shape[-1]]
        z = grouped(pattern.to(value.dtype), value.shape[1]) @ value
        return z.unflatten(2, (-1, pattern.shape[2])).flatten(1, 2).transpose(1, 2)


def _exact(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def exact_product(
    rows: Float[Tensor, "batch row inner"], columns: Float[Tensor, "batch inner column"]
) -> Float[Tensor, "batch row column"]:
    """Products in float32 at least.

    Where half precision has to be widened first, that is done for some at a time, which stay in
    the processor's cache.
    """
    exact = _exact(columns.dtype)
    if columns.dtype == exact:
        return torch.bmm(rows, columns)
    if CUDA_SUMS_STAY and columns.device.type == "cuda":
        return torch.bmm(rows, columns, out_dtype=exact)
    n = max(1, WIDENED_AT_A_TIME // columns[0].numel())
    parts = zip(rows.split(n), columns.split(n), strict=True)
    return torch.cat([torch.bmm(a.to(exact), b.to(exact)) for a, b in parts])


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
    if mask.dtype == scores.dtype:
        return scores + mask
    hidden = mask < torch.finfo(mask.dtype).min / 4
    return (scores + mask).masked_fill(hidden, torch.finfo(scores.dtype).min)


def _causal(n_queries: int, n_keys: int, device: torch.device) -> Bool[Tensor, "1 1 query key"]:
    mask = torch.ones(n_queries, n_keys, dtype=torch.bool, device=device)
    return mask.tril(n_keys - n_queries)[None, None]


def sdpa(
    module: nn.Module,
    query: Float[Tensor, "batch head query d_head"],
    key: Float[Tensor, "batch kv_head key d_head"],
    value: Float[Tensor, "batch kv_head key d_value"],
    mask: Tensor | None,
    options: Mapping[str, Any],
) -> Float[Tensor, "batch query head d_value"]:
    """SDPA as transformers calls it.

    On the CPU, single queries of heads that share keys are rows of one matrix: the kernel reads
    keys and values once, and is up to nine times faster in bfloat16.
    """
    is_plain = (mask is None or mask.shape[1] == 1) and not options.get("dropout")
    reads_once = query.device.type == "cpu" or mask is not None
    if query.shape[2] == 1 and is_plain and reads_once:
        rows = grouped(query, key.shape[1])
        seen = None if mask is None else mask.expand(-1, -1, rows.shape[2], -1)
        z = scaled_dot_product_attention(rows, key, value, seen, scale=options.get("scaling"))
        return z.flatten(1, 2).unsqueeze(1)
    by_transformers: Tensor = sdpa_attention_forward(module, query, key, value, mask, **options)[0]
    return by_transformers


def beyond_sdpa(options: Mapping[str, Any]) -> bool:
    """Whether attention has a sink or a soft cap, which SDPA does not know."""
    return options.get("s_aux") is not None or options.get("softcap") is not None
