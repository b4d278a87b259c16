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
    on_keep: Callable[[Sequence[int]], None] | None = None,
) -> Iterator[Row]:
    """Fill the rows' responses; yields each row when it is done.

    Args:
        model: HookedTransformer or TransformerBridge.
        rows: Rows of one batch.
        sampler: How tokens are drawn.
        rules: When rows are done.
        on_keep: Called with the rows of the batch that stay, when others leave it.
    """
    live = list(rows)
    reader = cached_reader(model, len(live), keep_all=on_keep is not None)
    tokens, mask = left_padded([row.prompt for row in live], device_of(model))
    while live:
        logits = reader.read(tokens, mask, only_last=True)[:, -1]
        drawn = sampler(logits, [row.draw() for row in live] if sampler.is_random else ())
        for row, token in zip(live, drawn.tolist(), strict=True):
            row.append(token, rules)
        yield from (row for row in live if row.is_done)
        staying = [i for i, row in enumerate(live) if not row.is_done]
        if len(staying) < len(live):
            live = [live[i] for i in staying]
            drawn = drawn[staying]
            if live:
                reader.keep(torch.tensor(staying, device=drawn.device))
                if on_keep is not None:
                    on_keep(staying)
        tokens = drawn.unsqueeze(-1)
        mask = torch.ones_like(tokens)


def cached_reader(
    model: Any, batch_size: int = 1, *, keep_all: bool = False
) -> "HookedReader | BridgeReader":
    """A model that is read over a cache of its own, some positions at a time.

    Args:
        model: HookedTransformer or TransformerBridge.
        batch_size: Rows that are read together.
        keep_all: Keep what falls out of a sliding window too, so that interventions see all
            positions; what a layer attends to is the same.
    """
    if backend_of(model) == "hooked":
        return HookedReader(model, batch_size)
    return BridgeReader(model, keep_all=keep_all)


class HookedReader:
    """A HookedTransformer over its own cache, which keeps all positions."""

    def __init__(self, model: Any, batch_size: int) -> None:
        from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache

        self.model = model
        self.cache = TransformerLensKeyValueCache.init_cache(
            model.cfg, device_of(model), batch_size
        )

    def read(
        self,
        tokens: Int[Tensor, "batch pos"],
        mask: Int[Tensor, "batch pos"] | None = None,
        *,
        only_last: bool = False,
    ) -> Float[Tensor, "batch out vocab"]:
        """Logits at these positions, or at the last of them.

        Args:
            tokens: What follows the tokens read so far.
            mask: 0 at padding; there is none by default.
            only_last: Whether the last position is enough.
        """
        seen = {
            "past_kv_cache": self.cache,
            "attention_mask": torch.ones_like(tokens) if mask is None else mask,
        }
        if not only_last:
            logits: Float[Tensor, "batch out vocab"] = self.model(
                tokens, return_type="logits", **seen
            )
            return logits
        resid = self.model(tokens, stop_at_layer=n_layers(self.model), **seen)
        return self._unembedded(resid[:, -1:])

    def _unembedded(
        self, resid: Float[Tensor, "batch pos d_model"]
    ) -> Float[Tensor, "batch pos vocab"]:
        if self.model.cfg.normalization_type is not None:
            resid = self.model.ln_final(resid)
        logits = self.model.unembed(resid)
        cap = self.model.cfg.output_logits_soft_cap
        return cap * (logits / cap).tanh() if cap > 0 else logits

    def keep(self, rows: Int[Tensor, "row"]) -> None:
        """Go on with these rows of the batch only."""
        for entry in self.cache.entries:
            entry.past_keys = entry.past_keys[rows]
            entry.past_values = entry.past_values[rows]
        self.cache.previous_attention_mask = self.cache.previous_attention_mask[rows]


class BridgeReader:
    """A TransformerBridge over the cache of transformers."""

    def __init__(self, model: Any, *, keep_all: bool) -> None:
        self.model = model
        self.cache: Any = DynamicCache() if keep_all else None
        self.mask: Int[Tensor, "batch pos"] | None = None
        accepted = inspect.signature(model.original_model.forward).parameters
        self.only_last = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}

    def read(
        self,
        tokens: Int[Tensor, "batch pos"],
        mask: Int[Tensor, "batch pos"] | None = None,
        *,
        only_last: bool = False,
    ) -> Float[Tensor, "batch out vocab"]:
        """As `HookedReader.read`; where the model cannot tell the last one, at all positions."""
        mask = torch.ones_like(tokens) if mask is None else mask
        self.mask = mask if self.mask is None else torch.cat([self.mask, mask], dim=-1)
        positions = (self.mask.cumsum(-1) - 1).clamp(min=0)[:, -tokens.shape[1] :]
        logits, self.cache = self.model(
            tokens,
            return_type="logits_and_cache",
            attention_mask=self.mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            **(self.only_last if only_last else {}),
        )
        result: Float[Tensor, "batch out vocab"] = logits
        return result

    def keep(self, rows: Int[Tensor, "row"]) -> None:
        """Go on with these rows of the batch only."""
        assert self.mask is not None
        self.cache.batch_select_indices(rows)
        self.mask = self.mask[rows]
