"""A model of any class run layer by layer, with step attention in place of its own.

`layerwise_model` picks the class for a model; what is computed with it does not live here.
"""

from step_saliency.saliency.layerwise.base import LayerwiseModel
from step_saliency.saliency.layerwise.choice import (
    check_layerwise,
    layerwise_model,
    mismatch,
    refusal,
)
from step_saliency.saliency.layerwise.run import AttentionRun

__all__ = [
    "AttentionRun",
    "LayerwiseModel",
    "check_layerwise",
    "layerwise_model",
    "mismatch",
    "refusal",
]
