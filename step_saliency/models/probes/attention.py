"""Is every layer alive, finite, and does it see the keys that its window says?"""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from step_saliency.models.facts import backend_of, n_ctx, window, window_of_config
from step_saliency.models.identity import config_of_origin
from step_saliency.models.masks import is_seen, last_rows
from step_saliency.models.probes.examination import Examination
from step_saliency.models.probes.measure import (
    AGREEMENT,
    NAMED,
    Measurement,
    no_fault,
    not_measured,
    precision_of,
)
from step_saliency.models.windows import seen_keys

PATTERN, SCORES = "attn.hook_pattern", "attn.hook_attn_scores"
HEAD_OUTPUT, RESIDUAL = "attn.hook_z", "hook_resid_post"
MOST_KEYS = 8192
"""Longest sequence whose masks are made: a bridge makes them whole."""


def finite_activations(examination: Examination) -> Measurement:
    """Is what every block puts out finite?"""
    shown = examination.observed.activations
    names = [f"blocks.{layer}.{RESIDUAL}" for layer in range(examination.n_layers)]
    layers = [i for i, name in enumerate(names) if name in shown and not _is_finite(shown[name])]
    faults = [f"not finite from layer {layers[0]} on"] if layers else []
    if not faults and not _is_finite(examination.observed.logits):
        faults = ["the logits are not finite"]
    return no_fault(faults, "all blocks and logits are finite")


def _is_finite(tensor: Tensor) -> bool:
    return bool(tensor.isfinite().all())


def live_attention(examination: Examination) -> Measurement:
    """Does every head put something out, matter to the loss, and react to the tokens?"""
    try:
        layers = zip(
            examination.activations(HEAD_OUTPUT),
            examination.activations(PATTERN),
            examination.activations(SCORES),
            examination.gradients(PATTERN),
            strict=True,
        )
    except ValueError as error:
        return not_measured(str(error))
    faults = []
    for layer, (z, pattern, scores, gradient) in enumerate(layers):
        dead = {
            "put out nothing": ~z.any(dim=-1).any(dim=1).any(dim=0),
            "change no prediction": ~_any_entry(gradient),
            "see only the first key": ~_any_entry(pattern[..., 1:]),
            "do not react to the tokens": ~_reacts(scores),
        }
        faults += [_told(layer, heads, what) for what, heads in dead.items() if heads.any()][:1]
    return no_fault(faults, "every head has an output and a gradient, and reacts to the tokens")


def _any_entry(values: Float[Tensor, "batch head query key"]) -> Bool[Tensor, "head"]:
    return values.any(dim=-1).any(dim=-1).any(dim=0)


def _reacts(scores: Float[Tensor, "2 head query key"]) -> Bool[Tensor, "head"]:
    first, second = torch.where(is_seen(scores), scores, 0.0)
    return (first != second).any(dim=-1).any(dim=-1)


def _told(layer: int, heads: Bool[Tensor, "head"], what: str) -> str:
    if heads.all():
        return f"in layer {layer} all heads {what}"
    numbers = heads.nonzero().flatten().tolist()
    return f"in layer {layer} heads {', '.join(map(str, numbers))} {what}"


def transformers_attention(examination: Examination) -> Measurement:
    """Does the attention of a bridge put out what the transformers attention inside it does?

    A bridge rotates, norms and scales queries and keys itself, for its hooks. Where it splits a
    joint projection or has processed weights, the two have weights of their own.
    """
    model = examination.model
    if backend_of(model) == "hooked":
        return no_fault([], "a HookedTransformer has no other")
    if getattr(model, "compatibility_mode", False):
        return no_fault([], "the weights were processed")
    worst, layers = 0.0, []
    limit = max(AGREEMENT[precision_of(model)], AGREEMENT[torch.float32])
    for layer, call in examination.observed.attention_calls.items():
        try:
            own, inner = call.outputs()
        except (RuntimeError, TypeError, ValueError, KeyError, AttributeError, IndexError) as error:
            return not_measured(f"the attention inside cannot be asked: {error}")
        # neither a layer of zeros nor one that is not finite differs: other checks have those
        difference = float(((own - inner).norm() / inner.norm()).nan_to_num(0.0))
        worst = max(worst, difference)
        layers += [layer] if difference > limit else []
    where = f" (in layers {', '.join(map(str, layers[:NAMED]))})" if layers else ""
    note = f"difference between the attention of the bridge and that of transformers{where}"
    return Measurement(worst, limit, not layers, note)


def windows(examination: Examination) -> Measurement:
    """Does every layer see the keys that its window says, within it and beyond?"""
    model = examination.model
    sizes = [window(model, layer) for layer in range(examination.n_layers)]
    faults = [*_by_scores(examination, sizes), *_by_number(model, sizes)]
    faults += _by_checkpoint(model, sizes)
    longest = max((size for size in sizes if size is not None), default=0)
    n_keys = min(n_ctx(model), max(longest + 2, examination.tokens.shape[1]))
    if n_keys > MOST_KEYS:
        note = f"a window of {longest} is longer than what is tried, {MOST_KEYS} keys"
        return no_fault(faults, note)
    for layer, row in enumerate(last_rows(model, n_keys)):
        declared = seen_keys(1, n_keys, sizes[layer])[0]
        if not row.equal(declared):
            faults.append(
                f"layer {layer} sees {int(row.sum())} keys of {n_keys} where its window is "
                f"{sizes[layer]}"
            )
    return no_fault(list(dict.fromkeys(faults)), f"as the config says, up to {n_keys} keys")


def _by_scores(examination: Examination, sizes: list[int | None]) -> list[str]:
    """What scores show of the keys that a layer sees."""
    shown = examination.observed.activations
    faults = []
    for layer, size in enumerate(sizes):
        scores = shown.get(f"blocks.{layer}.{SCORES}")
        if scores is None or not scores.isfinite().any():
            continue
        n_queries, n_keys = scores.shape[-2:]
        declared = seen_keys(n_queries, n_keys, size, device=scores.device)
        if _shows_no_mask(scores, shown.get(f"blocks.{layer}.{PATTERN}")):
            continue
        if not (is_seen(scores) == declared).all():
            faults.append(f"the scores of layer {layer} hide other keys than a window of {size}")
    return faults


def _shows_no_mask(
    scores: Float[Tensor, "batch head query key"],
    pattern: Float[Tensor, "batch head query key"] | None,
) -> bool:
    """Whether a point shows scores without the mask that the pattern obeys: nothing to compare."""
    return pattern is not None and bool(is_seen(scores).all()) and not pattern.triu(1).any()


def _by_number(model: Any, sizes: list[int | None]) -> list[str]:
    """Windows that the attention modules of a bridge hand to transformers' functions."""
    faults = []
    for layer, size in enumerate(sizes):
        inner = getattr(getattr(model.blocks[layer], "attn", None), "original_component", None)
        own = getattr(inner, "sliding_window", size)
        if getattr(inner, "is_sliding", True) is False:  # EXAONE: every layer has the number
            own = None
        if own != size:
            faults.append(f"the attention of layer {layer} has a window of {own}, not {size}")
    return faults


def _by_checkpoint(model: Any, sizes: list[int | None]) -> list[str]:
    """Windows of the checkpoint, shorter than the context, that the model does not have."""
    config = config_of_origin(model)
    if config is None:
        return []
    longest = n_ctx(model)
    faults = []
    for layer, size in enumerate(sizes):
        stored = window_of_config(config, layer)
        if min(stored or longest, longest) != min(size or longest, longest):
            faults.append(f"layer {layer} has a window of {stored} in the checkpoint, {size} here")
    return faults
