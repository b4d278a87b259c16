"""What a model must do for the analyses to mean anything, each as one measurement on the model.

Every probe runs the model on a few random tokens and returns a number with the threshold that it is
held to. Differences between logits are in units of the standard deviation of the clean logits,
so that thresholds depend on the data type and not on the model.
"""

from step_saliency.models.probes.edits import (
    edit_effects,
    head_edits,
    residual_edits,
    score_edits,
)
from step_saliency.models.probes.gradients import gradients, local_gradients, value_gradients
from step_saliency.models.probes.logits import cached_decoding, transformers_logits
from step_saliency.models.probes.measure import Measurement, probe_tokens
from step_saliency.models.probes.patterns import pattern_rows, score_softmax

__all__ = [
    "Measurement",
    "cached_decoding",
    "edit_effects",
    "gradients",
    "head_edits",
    "local_gradients",
    "pattern_rows",
    "probe_tokens",
    "residual_edits",
    "score_edits",
    "score_softmax",
    "transformers_logits",
    "value_gradients",
]
