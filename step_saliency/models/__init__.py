"""Loading models, what differs between their classes, and checks that they can be measured.

No text, trace, map or edit is known here.
"""

from step_saliency.models.checks import CHECKS
from step_saliency.models.doctor import accept, doctor, require_capabilities
from step_saliency.models.facts import backend_of, check_hook_names, hook_names
from step_saliency.models.findings import DoctorReport
from step_saliency.models.identity import model_identity
from step_saliency.models.load import load_model

__all__ = [
    "CHECKS",
    "DoctorReport",
    "accept",
    "backend_of",
    "check_hook_names",
    "doctor",
    "hook_names",
    "load_model",
    "model_identity",
    "require_capabilities",
]
