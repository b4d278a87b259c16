"""Interventions: bridges and momentum between steps, single heads, values, and placebos of each.

`StepFlow` is the source's method; `Edit` is what a variant of one's own is a subclass of.
"""

from step_saliency.intervene.edit import Edit, EditContext, EditGroup
from step_saliency.intervene.effects import Effects
from step_saliency.intervene.heads import (
    HeadMean,
    HeadMeans,
    HeadRedirect,
    HeadScale,
    mean_head_outputs,
)
from step_saliency.intervene.labels import KeyGroup, StepLabels
from step_saliency.intervene.oeb import OddsEqualBridge
from step_saliency.intervene.placebos import (
    PLACEBOS,
    MomentumBank,
    momentum_bank,
    random_layers,
)
from step_saliency.intervene.session import Session
from step_saliency.intervene.smi import StepMomentumInjection
from step_saliency.intervene.stepflow import StepFlow
from step_saliency.intervene.values import ValueProjection

__all__ = [
    "PLACEBOS",
    "Edit",
    "EditContext",
    "EditGroup",
    "Effects",
    "HeadMean",
    "HeadMeans",
    "HeadRedirect",
    "HeadScale",
    "KeyGroup",
    "MomentumBank",
    "OddsEqualBridge",
    "Session",
    "StepFlow",
    "StepLabels",
    "StepMomentumInjection",
    "ValueProjection",
    "mean_head_outputs",
    "momentum_bank",
    "random_layers",
]
