"""Are attention patterns what the scores say, and do their rows sum to what they should?"""

import torch
from jaxtyping import Float
from torch import Tensor

from step_saliency.models.facts import sink_logits
from step_saliency.models.probes.examination import Examination
from step_saliency.models.probes.measure import (
    ROUNDING,
    Measurement,
    at_most,
    precision_of,
    worse,
)

PATTERN, SCORES = "attn.hook_pattern", "attn.hook_attn_scores"


def pattern_rows(examination: Examination) -> Measurement:
    """Do pattern rows sum to one, or to one minus what the sink takes?"""
    worst = 0.0
    for layer, (pattern, scores) in enumerate(_patterns_and_scores(examination)):
        expected = _row_sums(examination, layer, scores)
        worst = worse(worst, (pattern.double().sum(-1) - expected).abs())
    sinks = sink_logits(examination.model, 0) is not None
    note = f"largest distance of a row's sum from one{' minus the sink' if sinks else ''}"
    return at_most(worst, ROUNDING[precision_of(examination.model)], note)


def score_softmax(examination: Examination) -> Measurement:
    """Is the pattern the softmax of the scores that the hook shows (with the sink, if any)?"""
    worst = 0.0
    for layer, (pattern, scores) in enumerate(_patterns_and_scores(examination)):
        sums = _row_sums(examination, layer, scores)
        expected = scores.double().softmax(-1) * sums[..., None]
        worst = worse(worst, (pattern - expected).abs())
    note = "largest difference between the pattern and the softmax of the scores"
    return at_most(worst, ROUNDING[precision_of(examination.model)], note)


def _patterns_and_scores(examination: Examination) -> list[tuple[Tensor, Tensor]]:
    patterns, scores = examination.activations(PATTERN), examination.activations(SCORES)
    return list(zip(patterns, scores, strict=True))


def _row_sums(
    examination: Examination, layer: int, scores: Float[Tensor, "batch head query key"]
) -> Float[Tensor, "batch head query"]:
    mass = scores.double().logsumexp(-1)
    sinks = sink_logits(examination.model, layer)
    if sinks is None:
        return torch.ones_like(mass)
    return torch.sigmoid(mass - sinks.double()[None, :, None])
