"""Reading a TransformerLens object over a cache, so that every hook on it is in force."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from step_saliency.decoding.caches import HookedCache
from step_saliency.decoding.readers import TransformersReader, unembedding_at_once
from step_saliency.decoding.rows import left_padded
from step_saliency.models.facts import backend_of, device_of, n_layers


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

    can_join = True

    def __init__(self, model: Any, batch_size: int = 1) -> None:
        from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache

        self.model = model
        self.device = device_of(model)
        cache = TransformerLensKeyValueCache.init_cache(model.cfg, self.device, batch_size)
        self.cache = HookedCache(cache)

    def __len__(self) -> int:
        """Positions read, padding included."""
        return len(self.cache)

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

    def read_prompts(self, prompts: Sequence[Sequence[int]]) -> Float[Tensor, "batch vocab"]:
        """Begin a batch of prompts; hooks see all of each."""
        tokens, mask = left_padded(prompts, self.device)
        return self.read(tokens, mask, only_last=True)[:, -1]

    def keep(self, rows: Int[Tensor, "row"] | Sequence[int]) -> None:
        """Go on with these rows of the batch only."""
        self.cache.keep(torch.as_tensor(rows, dtype=torch.long).tolist())

    def beside(self, batch_size: int) -> "HookedReader":
        """A reader of another batch."""
        return HookedReader(self.model, batch_size)

    def join(self, other: "HookedReader") -> None:
        """Add the rows of another batch behind these."""
        self.cache.join(other.cache)

    def trim(self, n_first: int) -> None:
        """Forget the first positions, which are padding in every row."""
        self.cache.trim(n_first)


class BridgeReader(TransformersReader):
    """A TransformerBridge over a cache of transformers; its hooks see all of each prompt."""

    _shares_prompts = False

    def __init__(self, model: Any, *, keep_all: bool) -> None:
        super().__init__(model.original_model, keep_all=keep_all)
        self.bridge = model

    def _logits(
        self, tokens: Int[Tensor, "batch pos"], **options: Any
    ) -> Float[Tensor, "batch out vocab"]:
        with unembedding_at_once(self.model, tokens.shape[1]):
            logits, self.cache = self.bridge(tokens, return_type="logits_and_cache", **options)
        result: Float[Tensor, "batch out vocab"] = logits
        return result

    def beside(self, batch_size: int) -> "BridgeReader":  # noqa: ARG002
        """A reader of another batch."""
        return BridgeReader(self.bridge, keep_all=self.keep_all)
