"""What a model must do for the analyses to mean anything, each as one measurement on the model.

A probe takes an `Examination`, whose passes over a few random tokens all probes share, and returns
a number with the threshold that it is held to. Differences between logits are in units of the
standard deviation of the clean logits, so that thresholds depend on the data type and not on the
model.
"""

from step_saliency.models.probes.attention import (
    finite_activations,
    live_attention,
    transformers_attention,
    windows,
)
from step_saliency.models.probes.edits import head_edits, residual_edits, score_edits
from step_saliency.models.probes.examination import Examination
from step_saliency.models.probes.gradients import (
    gradients,
    local_gradients,
    score_products,
    value_gradients,
)
from step_saliency.models.probes.logits import cached_decoding, transformers_logits
from step_saliency.models.probes.measure import Measurement
from step_saliency.models.probes.patterns import head_outputs, pattern_rows, score_softmax
from step_saliency.models.probes.tokenizer import chat_template, own_tokenizer
from step_saliency.models.probes.weights import finite_weights, trained_weights

__all__ = [
    "Examination",
    "Measurement",
    "cached_decoding",
    "chat_template",
    "finite_activations",
    "finite_weights",
    "gradients",
    "head_edits",
    "head_outputs",
    "live_attention",
    "local_gradients",
    "own_tokenizer",
    "pattern_rows",
    "residual_edits",
    "score_edits",
    "score_products",
    "score_softmax",
    "trained_weights",
    "transformers_attention",
    "transformers_logits",
    "value_gradients",
    "windows",
]
