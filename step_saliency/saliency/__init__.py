"""Objective -> token influence -> pooling -> `StepSaliency`; what a map means is said elsewhere."""

from step_saliency.saliency.api import step_saliency, token_map
from step_saliency.saliency.objectives import (
    AnswerLoss,
    Custom,
    LogitDiff,
    LogOdds,
    NextToken,
    Objective,
    SequenceLoss,
)
from step_saliency.saliency.pooling import StepLayout, step_layout
from step_saliency.saliency.result import StepSaliency

__all__ = [
    "AnswerLoss",
    "Custom",
    "LogOdds",
    "LogitDiff",
    "NextToken",
    "Objective",
    "SequenceLoss",
    "StepLayout",
    "StepSaliency",
    "step_layout",
    "step_saliency",
    "token_map",
]
