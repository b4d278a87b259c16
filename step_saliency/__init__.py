"""Step-to-step attribution maps, diagnosis and causal tests for reasoning traces, on
TransformerLens.

Names are imported when they are first used, so that the command line answers at once.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from step_saliency import segment as segment
    from step_saliency import tasks as tasks
    from step_saliency.calibration import Calibration as Calibration
    from step_saliency.calibration import calibrate as calibrate
    from step_saliency.decoding.generate import generate as generate
    from step_saliency.decoding.vote import vote as vote
    from step_saliency.diagnosis import Diagnosis as Diagnosis
    from step_saliency.diagnosis import compare as compare
    from step_saliency.diagnosis import diagnose as diagnose
    from step_saliency.intervene import Edit as Edit
    from step_saliency.intervene import EditGroup as EditGroup
    from step_saliency.intervene import HeadMean as HeadMean
    from step_saliency.intervene import HeadRedirect as HeadRedirect
    from step_saliency.intervene import HeadScale as HeadScale
    from step_saliency.intervene import OddsEqualBridge as OddsEqualBridge
    from step_saliency.intervene import StepFlow as StepFlow
    from step_saliency.intervene import StepMomentumInjection as StepMomentumInjection
    from step_saliency.intervene import ValueProjection as ValueProjection
    from step_saliency.intervene import mean_head_outputs as mean_head_outputs
    from step_saliency.intervene import momentum_bank as momentum_bank
    from step_saliency.intervene import random_layers as random_layers
    from step_saliency.models import doctor as doctor
    from step_saliency.models import load_model as load_model
    from step_saliency.saliency.api import step_saliency as step_saliency
    from step_saliency.saliency.api import token_map as token_map
    from step_saliency.saliency.estimate import estimate as estimate
    from step_saliency.saliency.objectives import AnswerLoss as AnswerLoss
    from step_saliency.saliency.objectives import LogitDiff as LogitDiff
    from step_saliency.saliency.result import StepSaliency as StepSaliency
    from step_saliency.storage.traces import load_jsonl as load_jsonl
    from step_saliency.storage.traces import save_jsonl as save_jsonl
    from step_saliency.trace import Region as Region
    from step_saliency.trace import Step as Step
    from step_saliency.trace import Trace as Trace

_HOME = {
    "AnswerLoss": "saliency.objectives",
    "Calibration": "calibration",
    "Diagnosis": "diagnosis",
    "Edit": "intervene",
    "EditGroup": "intervene",
    "HeadMean": "intervene",
    "HeadRedirect": "intervene",
    "HeadScale": "intervene",
    "LogitDiff": "saliency.objectives",
    "OddsEqualBridge": "intervene",
    "Region": "trace",
    "Step": "trace",
    "StepFlow": "intervene",
    "StepMomentumInjection": "intervene",
    "StepSaliency": "saliency.result",
    "Trace": "trace",
    "ValueProjection": "intervene",
    "calibrate": "calibration",
    "compare": "diagnosis",
    "diagnose": "diagnosis",
    "doctor": "models",
    "estimate": "saliency.estimate",
    "generate": "decoding.generate",
    "load_jsonl": "storage.traces",
    "load_model": "models",
    "mean_head_outputs": "intervene",
    "momentum_bank": "intervene",
    "random_layers": "intervene",
    "save_jsonl": "storage.traces",
    "step_saliency": "saliency.api",
    "token_map": "saliency.api",
    "vote": "decoding.vote",
}
_MODULES = ("segment", "tasks")

__all__ = [*_HOME, *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
