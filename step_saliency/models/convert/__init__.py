"""transformers model -> TransformerLens object, without touching the weights' meaning.

``hooked_from_transformers`` builds a HookedTransformer from a config read off the checkpoint and
TransformerLens' own weight converters, for any checkpoint of the architectures in
``HOOKED_ARCHITECTURES``, whether or not TransformerLens' name list has it. No weight is folded or
centred unless ``process_weights`` asks for it. ``bridge_from_transformers`` wraps the same model in
a TransformerBridge.

Both keep the checkpoint's own tokenizer. TransformerLens would load it again by name with
``add_bos_token=True`` and give it special tokens that it lacks; then strings would become other
token ids than those that the model was trained on. ``cfg.default_prepend_bos`` therefore follows
what the tokenizer does by itself.

What a HookedTransformer cannot express (a rope variant, a bias that the converter drops) is an
error here, never a slightly different model.
"""

from step_saliency.models.convert.architectures import HOOKED_ARCHITECTURES, hooked_config_fields
from step_saliency.models.convert.backends import from_transformers
from step_saliency.models.convert.bridge import bridge_from_transformers
from step_saliency.models.convert.hooked import (
    HookedUnavailableError,
    has_hooked,
    hooked_from_transformers,
    hooked_transformer_class,
)
from step_saliency.models.convert.tokenizer import attach_tokenizer

__all__ = [
    "HOOKED_ARCHITECTURES",
    "HookedUnavailableError",
    "attach_tokenizer",
    "bridge_from_transformers",
    "from_transformers",
    "has_hooked",
    "hooked_config_fields",
    "hooked_from_transformers",
    "hooked_transformer_class",
]
