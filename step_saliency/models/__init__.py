"""Loading models and knowing what differs between them."""

from step_saliency.models.facts import backend_of, check_hook_names, hook_names
from step_saliency.models.identity import model_identity
from step_saliency.models.load import load_model

__all__ = ["backend_of", "check_hook_names", "hook_names", "load_model", "model_identity"]
