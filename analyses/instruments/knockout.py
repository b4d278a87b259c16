"""Cutting attention edges, and reading what the model then predicts.

A cut takes the attention from queries to keys away: scores[query, key] = -inf before the softmax,
so that the row's mass goes to what is left. A position always keeps the edge to itself. Many cuts
of one trace run as one batch, each row with its own cut.

When it misleads: cutting puts the model into states that it never saw in training, and what is left
of a row is scaled up; a small effect can also mean that the same content came another way.
"""

import copy
import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from step_saliency.models.facts import backend_of, device_of, n_layers, window
from step_saliency.models.hooking import NamedHook, live_names


@dataclass(frozen=True)
class Cut:
    """Edges that are taken away together.

    Attributes:
        queries: Positions that no longer look.
        keys: Positions that they no longer look at.
        layers: Layers in which; all by default.
        heads: Heads of these layers; all by default.
    """

    queries: tuple[int, ...]
    keys: tuple[int, ...]
    layers: tuple[int, ...] | None = None
    heads: tuple[int, ...] | None = None


def cut_scores(
    scores: Float[Tensor, "batch head query key"], cut: Bool[Tensor, "batch #head query key"]
) -> Float[Tensor, "batch head query key"]:
    """Scores without the cut edges; a position keeps the edge to itself.

    The queries are the last positions of the keys.
    """
    n_queries, n_keys = scores.shape[-2:]
    own = torch.eye(n_keys, dtype=torch.bool, device=cut.device)[-n_queries:]
    return scores.masked_fill(cut & ~own, -torch.inf)


def cut_hooks(model: Any, cuts: Sequence[Cut], n_tokens: int) -> list[NamedHook]:
    """Hooks under which row b of a batch runs with ``cuts[b]``.

    Raises:
        ValueError: the model's scores cannot be hooked.
    """
    device = device_of(model)
    edges = torch.zeros(len(cuts), 1, n_tokens, n_tokens, dtype=torch.bool, device=device)
    for row, cut in enumerate(cuts):
        if cut.queries and cut.keys:
            edges[row, 0, torch.tensor(cut.queries)[:, None], torch.tensor(cut.keys)] = True
    hooks = []
    for layer in range(n_layers(model)):
        acts = [cut.layers is None or layer in cut.layers for cut in cuts]
        if any(acts):
            rows = torch.tensor(acts, device=device)[:, None, None, None]
            hooks.append(_cut_hook(layer, edges & rows, [cut.heads for cut in cuts]))
    live_names(model, [name for name, _ in hooks])
    return hooks


def _cut_hook(
    layer: int,
    edges: Bool[Tensor, "batch 1 query key"],
    heads: Sequence[tuple[int, ...] | None],
) -> NamedHook:
    def cut(
        scores: Float[Tensor, "batch head query key"], hook: Any
    ) -> Float[Tensor, "batch head query key"]:
        mask = edges[..., -scores.shape[-2] :, :]
        if any(some is not None for some in heads):
            mask = mask & _head_mask(heads, scores.shape[1]).to(edges.device)
        return cut_scores(scores, mask)

    return f"blocks.{layer}.attn.hook_attn_scores", cut


def _head_mask(
    heads: Sequence[tuple[int, ...] | None], n_heads: int
) -> Bool[Tensor, "batch head 1 1"]:
    mask = torch.zeros(len(heads), n_heads, 1, 1, dtype=torch.bool)
    for row, some in enumerate(heads):
        mask[row, list(range(n_heads) if some is None else some)] = True
    return mask


class Prefix:
    """Keys and values of the first positions of a sequence, computed once for many batches.

    What is cut at later queries leaves them as they are.
    """

    @classmethod
    def shared(cls, model: Any, tokens: Int[Tensor, "pos"]) -> "Prefix | None":
        """The prefix, or None for no tokens, or if the model's cache drops keys that it left."""
        windowed = any(window(model, layer) is not None for layer in range(n_layers(model)))
        drops = windowed and backend_of(model) == "bridge"
        return None if drops or not len(tokens) else cls(model, tokens)

    def __init__(self, model: Any, tokens: Int[Tensor, "pos"]) -> None:
        self.length = len(tokens)
        tokens = tokens[None].to(device_of(model))
        mask = torch.ones_like(tokens)
        self._is_hooked = backend_of(model) == "hooked"
        with torch.no_grad():
            if self._is_hooked:
                from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache

                self._cache = TransformerLensKeyValueCache.init_cache(model.cfg, tokens.device, 1)
                depth = n_layers(model)
                model(tokens, attention_mask=mask, past_kv_cache=self._cache, stop_at_layer=depth)
            else:
                options = {"return_type": "logits_and_cache", "use_cache": True}
                self._cache = model(tokens, attention_mask=mask, **_keep(model, 1), **options)[1]

    def expanded(self, n_rows: int) -> Any:
        """A cache for a batch, to be used once."""
        if not self._is_hooked:
            cache = copy.deepcopy(self._cache)
            cache.batch_repeat_interleave(n_rows)
            return cache
        cache = copy.copy(self._cache)
        cache.previous_attention_mask = cache.previous_attention_mask.expand(n_rows, -1)
        cache.entries = [copy.copy(entry) for entry in cache.entries]
        for entry in cache.entries:
            entry.past_keys = entry.past_keys.expand(n_rows, -1, -1, -1)
            entry.past_values = entry.past_values.expand(n_rows, -1, -1, -1)
        return cache


def _keep(model: Any, positions: int | Int[Tensor, "query"]) -> dict[str, Any]:
    """Option by which a bridge unembeds some positions only, if its model has one."""
    known = inspect.signature(model.original_model.forward).parameters
    return {"logits_to_keep": positions} if "logits_to_keep" in known else {}


@torch.no_grad()
def logits_at(
    model: Any,
    tokens: Int[Tensor, "batch pos"],
    positions: Sequence[int],
    hooks: Sequence[NamedHook] = (),
    *,
    prefix: Prefix | None = None,
) -> Float[Tensor, "batch query vocab"]:
    """`logits_with_graph` without gradients."""
    return logits_with_graph(model, tokens, positions, hooks, prefix=prefix)


def logits_with_graph(
    model: Any,
    tokens: Int[Tensor, "batch pos"],
    positions: Sequence[int],
    hooks: Sequence[NamedHook] = (),
    *,
    prefix: Prefix | None = None,
) -> Float[Tensor, "batch query vocab"]:
    """Logits at a few positions, under hooks; the others are not unembedded if it can be helped.

    Args:
        model: HookedTransformer or TransformerBridge.
        tokens: Whole sequences.
        positions: Where logits are read.
        hooks: Forward hooks.
        prefix: What the model made of the first tokens, which are then left out; the hooks see
            the others alone.
    """
    tokens = tokens.to(device_of(model))
    start = 0 if prefix is None else prefix.length
    cache = None if prefix is None else prefix.expanded(len(tokens))
    places = torch.tensor(list(positions), device=tokens.device) - start
    with model.hooks(fwd_hooks=list(hooks)):
        if backend_of(model) == "hooked":
            depth, rest = n_layers(model), tokens[:, start:]
            mask = torch.ones_like(rest)
            resid = model(rest, attention_mask=mask, past_kv_cache=cache, stop_at_layer=depth)
            logits: Tensor = model(resid[:, places], start_at_layer=depth, return_type="logits")
            return logits
        return _bridge_logits(model, tokens, places, start, cache)


def _bridge_logits(
    model: Any,
    tokens: Int[Tensor, "batch pos"],
    places: Int[Tensor, "query"],
    start: int,
    cache: Any,
) -> Float[Tensor, "batch query vocab"]:
    options: dict[str, Any] = {"return_type": "logits"}
    if cache is not None:
        options = {"return_type": "logits_and_cache", "past_key_values": cache, "use_cache": True}
        positions = torch.arange(start, tokens.shape[1], device=tokens.device)
        options["position_ids"] = positions.expand(len(tokens), -1)
    keep = _keep(model, places)
    output = model(tokens[:, start:], attention_mask=torch.ones_like(tokens), **keep, **options)
    logits: Tensor = output if cache is None else output[0]
    return logits if keep else logits[:, places]


def cut_logits(
    model: Any,
    tokens: Int[Tensor, "pos"],
    cuts: Sequence[Cut],
    positions: Sequence[int],
    *,
    batch_size: int = 16,
) -> Iterator[Float[Tensor, "query vocab"]]:
    """Logits at some positions under each cut, in their order.

    Positions before the first cut query and the first that is read are computed once for all.
    """
    if not cuts:
        return
    first = min(
        *(min(cut.queries, default=len(tokens)) for cut in cuts), min(positions), len(tokens)
    )
    prefix = Prefix.shared(model, tokens[:first])
    for start in range(0, len(cuts), batch_size):
        batch = cuts[start : start + batch_size]
        hooks = cut_hooks(model, batch, len(tokens))
        rows = tokens.expand(len(batch), -1)
        yield from logits_at(model, rows, positions, hooks, prefix=prefix)


def divergence(
    clean: Float[Tensor, "query vocab"], other: Float[Tensor, "query vocab"]
) -> Float[Tensor, "query"]:
    """KL(clean || other) of the predictions at each position, in nats."""
    before, after = clean.double().log_softmax(-1), other.double().log_softmax(-1)
    return (before.exp() * (before - after)).sum(-1)
