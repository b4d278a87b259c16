"""Are attention patterns what the scores say, and are they what values are weighed by?"""

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from step_saliency.models.facts import attended_values, sink_logits
from step_saliency.models.probes.examination import Examination
from step_saliency.models.probes.gradients import ungrouped
from step_saliency.models.probes.measure import (
    AGREEMENT,
    ROUNDING,
    Measurement,
    at_most,
    precision_of,
    worse,
)

PATTERN, SCORES = "attn.hook_pattern", "attn.hook_attn_scores"
VALUES, HEAD_OUTPUT = "attn.hook_v", "attn.hook_z"


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


def head_outputs(examination: Examination) -> Measurement:
    """Are head outputs the values that hooks show, weighed by the pattern?

    Not where a norm or a gate stands before ``hook_z`` (BitNet), or with axes in another order.
    """
    worst = 0.0
    activations = (examination.activations(hook) for hook in (PATTERN, VALUES, HEAD_OUTPUT))
    for pattern, values, z in zip(*activations, strict=True):
        n_heads = pattern.shape[1]
        if values.ndim != 4 or n_heads % values.shape[2] or z.shape[2] != n_heads:
            raise ValueError(
                f"{VALUES} shows {list(values.shape)} and {HEAD_OUTPUT} {list(z.shape)}, which are "
                f"no values and outputs of {n_heads} heads"
            )
        weighed = einsum(
            pattern.double(),
            ungrouped(attended_values(examination.model, values), n_heads).double(),
            "batch head query key, batch key head d -> batch query head d",
        )
        worst = worse(worst, (z - weighed).abs() / weighed.abs().max())
    note = "largest difference between head outputs and the values times the pattern, as a share"
    return at_most(worst, AGREEMENT[precision_of(examination.model)], note)


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
