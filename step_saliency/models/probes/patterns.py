"""Are attention patterns what the scores say, and do their rows sum to what they should?"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from step_saliency.models.facts import n_layers, sink_logits
from step_saliency.models.probes.measure import (
    ROUNDING,
    Measurement,
    at_most,
    capture,
    precision_of,
    worse,
)


def pattern_rows(model: Any, tokens: Int[Tensor, "1 pos"]) -> Measurement:
    """Do pattern rows sum to one, or to one minus what the sink takes?"""
    activations = capture(model, tokens, "attn.hook_pattern", "attn.hook_attn_scores")
    worst = 0.0
    for layer in range(n_layers(model)):
        rows = activations[f"blocks.{layer}.attn.hook_pattern"].double().sum(-1)
        expected = _row_sums(model, layer, activations[f"blocks.{layer}.attn.hook_attn_scores"])
        worst = worse(worst, (rows - expected).abs())
    sinks = sink_logits(model, 0) is not None
    note = f"largest distance of a row's sum from one{' minus the sink' if sinks else ''}"
    return at_most(worst, ROUNDING[precision_of(model)], note)


def _row_sums(
    model: Any, layer: int, scores: Float[Tensor, "batch head query key"]
) -> Float[Tensor, "batch head query"]:
    mass = scores.double().logsumexp(-1)
    sinks = sink_logits(model, layer)
    if sinks is None:
        return torch.ones_like(mass)
    return torch.sigmoid(mass - sinks.double()[None, :, None])


def score_softmax(model: Any, tokens: Int[Tensor, "1 pos"]) -> Measurement:
    """Is the pattern the softmax of the scores that the hook shows (with the sink, if any)?"""
    activations = capture(model, tokens, "attn.hook_pattern", "attn.hook_attn_scores")
    worst = 0.0
    for layer in range(n_layers(model)):
        scores = activations[f"blocks.{layer}.attn.hook_attn_scores"]
        expected = scores.double().softmax(-1) * _row_sums(model, layer, scores)[..., None]
        worst = worse(worst, (activations[f"blocks.{layer}.attn.hook_pattern"] - expected).abs())
    note = "largest difference between the pattern and the softmax of the scores"
    return at_most(worst, ROUNDING[precision_of(model)], note)
