"""Interventions: edits of scores, head outputs and residuals, their placebos, and attaching them.

`StepFlow` is the source's method; `Edit` is what a variant of one's own is a subclass of. Maps and
their diagnosis are not here, nor the loops that decode.
"""

from step_saliency.intervene.bound import BoundEdit, BoundGroup
from step_saliency.intervene.choices import PLACEBOS
from step_saliency.intervene.context import EditContext
from step_saliency.intervene.edit import Edit, EditGroup
from step_saliency.intervene.effects import Effects
from step_saliency.intervene.expected import ExpectedRows
from step_saliency.intervene.groups import KeyGroup
from step_saliency.intervene.heads import (
    HeadMean,
    HeadMeans,
    HeadRedirect,
    HeadScale,
    mean_head_outputs,
)
from step_saliency.intervene.labels import StepLabels
from step_saliency.intervene.matching import doses
from step_saliency.intervene.oeb import OddsEqualBridge
from step_saliency.intervene.placebos import (
    MomentumBank,
    momentum_bank,
    random_layers,
)
from step_saliency.intervene.session import Session
from step_saliency.intervene.smi import StepMomentumInjection
from step_saliency.intervene.stepflow import BoundFlow, StepFlow
from step_saliency.intervene.values import ValueProjection

__all__ = [
    "PLACEBOS",
    "BoundEdit",
    "BoundFlow",
    "BoundGroup",
    "Edit",
    "EditContext",
    "EditGroup",
    "Effects",
    "ExpectedRows",
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
    "doses",
    "mean_head_outputs",
    "momentum_bank",
    "random_layers",
]
