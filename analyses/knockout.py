"""Cutting attention edges, and reading what the model then predicts.

A cut takes the attention from queries to keys away: scores[query, key] = -inf before the softmax,
so that the row's mass goes to what is left. A position always keeps the edge to itself. Many cuts
of one trace run as one batch, each row with its own cut.

When it misleads: cutting puts the model into states that it never saw in training, and what is left
of a row is scaled up; a small effect can also mean that the same content came another way.
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from step_saliency.models.facts import backend_of, device_of, n_layers
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
    """Scores without the cut edges; a position keeps the edge to itself."""
    own = torch.eye(cut.shape[-1], dtype=torch.bool, device=cut.device)
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
        chosen = [cut.layers is None or layer in cut.layers for cut in cuts]
        if any(chosen):
            rows = torch.tensor(chosen, device=device)[:, None, None, None]
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
        wanted = edges
        if any(some is not None for some in heads):
            wanted = edges & _head_mask(heads, scores.shape[1]).to(edges.device)
        return cut_scores(scores, wanted)

    return f"blocks.{layer}.attn.hook_attn_scores", cut


def _head_mask(
    heads: Sequence[tuple[int, ...] | None], n_heads: int
) -> Bool[Tensor, "batch head 1 1"]:
    mask = torch.zeros(len(heads), n_heads, 1, 1, dtype=torch.bool)
    for row, some in enumerate(heads):
        mask[row, list(range(n_heads) if some is None else some)] = True
    return mask


@torch.no_grad()
def logits_at(
    model: Any,
    tokens: Int[Tensor, "batch pos"],
    positions: Sequence[int],
    hooks: Sequence[NamedHook] = (),
) -> Float[Tensor, "batch query vocab"]:
    """Logits at a few positions, under hooks; the others are not unembedded if it can be helped."""
    tokens = tokens.to(device_of(model))
    chosen = torch.tensor(list(positions), device=tokens.device)
    mask = torch.ones_like(tokens)
    with model.hooks(fwd_hooks=list(hooks)):
        if backend_of(model) == "hooked":
            depth = n_layers(model)
            resid = model(tokens, attention_mask=mask, stop_at_layer=depth)[:, chosen]
            logits: Tensor = model(resid, start_at_layer=depth, return_type="logits")
            return logits
        keeps = "logits_to_keep" in inspect.signature(model.original_model.forward).parameters
        only = {"logits_to_keep": chosen} if keeps else {}
        logits = model(tokens, attention_mask=mask, return_type="logits", **only)
        return logits if keeps else logits[:, chosen]


def cut_logits(
    model: Any,
    tokens: Int[Tensor, "pos"],
    cuts: Sequence[Cut],
    positions: Sequence[int],
    *,
    batch_size: int = 16,
) -> Float[Tensor, "cut query vocab"]:
    """Logits at some positions under each cut, on the CPU."""
    pieces = []
    for start in range(0, len(cuts), batch_size):
        batch = cuts[start : start + batch_size]
        hooks = cut_hooks(model, batch, len(tokens))
        pieces.append(logits_at(model, tokens.expand(len(batch), -1), positions, hooks).cpu())
    return torch.cat(pieces)
