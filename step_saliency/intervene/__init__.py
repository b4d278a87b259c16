"""Interventions: bridges and momentum between steps, single heads, values, and placebos of each.

`StepFlow` is the source's method; `Edit` is what a variant of one's own is a subclass of.
"""

from step_saliency.intervene.edit import Edit, EditContext, EditGroup
from step_saliency.intervene.effects import Effects
from step_saliency.intervene.labels import KeyGroup, StepLabels
from step_saliency.intervene.oeb import OddsEqualBridge
from step_saliency.intervene.session import Session
from step_saliency.intervene.smi import StepMomentumInjection
from step_saliency.intervene.stepflow import StepFlow

__all__ = [
    "Edit",
    "EditContext",
    "EditGroup",
    "Effects",
    "KeyGroup",
    "OddsEqualBridge",
    "Session",
    "StepFlow",
    "StepLabels",
    "StepMomentumInjection",
]
