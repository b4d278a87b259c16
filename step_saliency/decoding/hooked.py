"""Decoding by the TransformerLens object itself, so that every hook on it is in force.

One forward pass a token over left-padded rows and a key-value cache. Rows that are done leave the
batch. This loop is the reference for `step_saliency.decoding.fast`.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache

from step_saliency.decoding.rows import Row, StopRules, left_padded
from step_saliency.decoding.sampling import Sampler
from step_saliency.models.facts import backend_of, device_of, n_layers


@torch.no_grad()
def decode_with_hooks(
    model: Any,
    rows: Sequence[Row],
    sampler: Sampler,
    rules: StopRules,
    tell_kept: Callable[[Sequence[int]], None] | None = None,
) -> Iterator[Row]:
    """Fill the rows' responses; yields each row when it is done.

    Args:
        model: HookedTransformer or TransformerBridge.
        rows: Rows of one batch.
        sampler: How tokens are drawn.
        rules: When rows are done.
        tell_kept: Told which rows of the batch stay.
    """
    live = list(rows)
    decoder = _decoder(model, len(live), keep_all=tell_kept is not None)
    tokens, mask = left_padded([row.prompt for row in live], device_of(model))
    while live:
        logits = decoder.next_logits(tokens, mask)
        chosen = sampler(logits, [row.draw() for row in live] if sampler.is_random else ())
        for row, token in zip(live, chosen.tolist(), strict=True):
            row.append(token, rules)
        yield from (row for row in live if row.is_done)
        staying = [i for i, row in enumerate(live) if not row.is_done]
        if len(staying) < len(live):
            live = [live[i] for i in staying]
            chosen = chosen[staying]
            if live:
                decoder.keep(torch.tensor(staying, device=chosen.device))
                if tell_kept is not None:
                    tell_kept(staying)
        tokens, mask = chosen.unsqueeze(-1), torch.ones_like(chosen).unsqueeze(-1)


def _decoder(model: Any, batch_size: int, *, keep_all: bool) -> "_HookedDecoder | _BridgeDecoder":
    if backend_of(model) == "hooked":
        return _HookedDecoder(model, batch_size)
    return _BridgeDecoder(model, keep_all=keep_all)


class _HookedDecoder:
    """Cached decoding with a HookedTransformer; only the last position is unembedded."""

    def __init__(self, model: Any, batch_size: int) -> None:
        from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache

        self.model = model
        self.cache = TransformerLensKeyValueCache.init_cache(
            model.cfg, device_of(model), batch_size
        )

    def next_logits(
        self, tokens: Int[Tensor, "batch pos"], mask: Int[Tensor, "batch pos"]
    ) -> Float[Tensor, "batch vocab"]:
        resid = self.model(
            tokens,
            past_kv_cache=self.cache,
            attention_mask=mask,
            stop_at_layer=n_layers(self.model),
        )[:, -1:]
        if self.model.cfg.normalization_type is not None:
            resid = self.model.ln_final(resid)
        logits = self.model.unembed(resid)[:, -1]
        cap = self.model.cfg.output_logits_soft_cap
        return cap * (logits / cap).tanh() if cap > 0 else logits

    def keep(self, rows: Int[Tensor, "row"]) -> None:
        for entry in self.cache.entries:
            entry.past_keys = entry.past_keys[rows]
            entry.past_values = entry.past_values[rows]
        self.cache.previous_attention_mask = self.cache.previous_attention_mask[rows]


class _BridgeDecoder:
    """Cached decoding with a TransformerBridge, over the cache of transformers.

    With ``keep_all`` layers with a sliding window keep what falls out of it, so that interventions
    see all positions; what the layer attends to is the same.
    """

    def __init__(self, model: Any, *, keep_all: bool) -> None:
        self.model = model
        self.cache: Any = DynamicCache() if keep_all else None
        self.mask: Int[Tensor, "batch pos"] | None = None
        accepted = inspect.signature(model.original_model.forward).parameters
        self.options = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}

    def next_logits(
        self, tokens: Int[Tensor, "batch pos"], mask: Int[Tensor, "batch pos"]
    ) -> Float[Tensor, "batch vocab"]:
        self.mask = mask if self.mask is None else torch.cat([self.mask, mask], dim=-1)
        positions = (self.mask.cumsum(-1) - 1).clamp(min=0)[:, -tokens.shape[1] :]
        logits, self.cache = self.model(
            tokens,
            return_type="logits_and_cache",
            attention_mask=self.mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            **self.options,
        )
        return logits[:, -1]

    def keep(self, rows: Int[Tensor, "row"]) -> None:
        assert self.mask is not None
        self.cache.batch_select_indices(rows)
        self.mask = self.mask[rows]
