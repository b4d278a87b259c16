"""transformers model -> HookedTransformer, with TransformerLens' own weight converters."""

import re
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from step_saliency.models.convert.architectures import (
    HOOKED_ARCHITECTURES,
    HookedRecipe,
    hooked_config_fields,
)
from step_saliency.models.convert.rope import refuse
from step_saliency.models.convert.tokenizer import attach_tokenizer
from step_saliency.models.shared import hollow, keep_shell


class HookedUnavailableError(ValueError):
    """transformer-lens 4 has no HookedTransformer."""


def hooked_transformer_class() -> Any:
    """The HookedTransformer class of the installed TransformerLens.

    Raises:
        HookedUnavailableError: with transformer-lens 4, which dropped the class.
    """
    try:
        from transformer_lens import HookedTransformer
    except ImportError as error:
        raise HookedUnavailableError(
            "backend='hooked' needs transformer-lens 3; the installed version has no "
            "HookedTransformer. Use backend='bridge' or install 'transformer-lens<4'."
        ) from error
    return HookedTransformer


def has_hooked() -> bool:
    """Whether the installed TransformerLens offers HookedTransformer."""
    try:
        hooked_transformer_class()
    except HookedUnavailableError:
        return False
    return True


def _check_biases(model: PreTrainedModel, recipe: HookedRecipe) -> None:
    dropped = [
        name
        for name, _ in model.named_parameters()
        if name.endswith("bias") and not re.fullmatch(recipe.biases, name)
    ]
    if dropped:
        refuse(model.config, f"the {len(dropped)} biases like {dropped[0]!r}")


def _check_unquantized(model: PreTrainedModel) -> None:
    plain = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
    packed = [name for name, weight in model.named_parameters() if weight.dtype not in plain]
    if packed:
        raise ValueError(
            f"weights like {packed[0]!r} are stored quantised; HookedTransformer needs plain "
            "ones: load a dequantised checkpoint or use backend='bridge'"
        )


def hooked_from_transformers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    *,
    name: str = "custom",
    device: torch.device | None = None,
    process_weights: bool = False,
    consume: bool = False,
) -> nn.Module:
    """Build a HookedTransformer with the weights and dtype of a transformers model.

    Args:
        model: A causal language model of one of ``HOOKED_ARCHITECTURES``.
        tokenizer: Its tokenizer, used as it is.
        name: ``cfg.model_name`` of the result.
        device: Device of the result; None for that of ``model``.
        process_weights: Fold norms and centre weights as ``HookedTransformer.from_pretrained``
            does by default. Log probabilities stay; activations become others.
        consume: Empty ``model`` on the way, so that the weights are in memory once, not twice.

    Returns:
        A HookedTransformer in eval mode.

    Raises:
        ValueError: for what a HookedTransformer cannot express.
    """
    hooked_class = hooked_transformer_class()
    from transformer_lens import HookedTransformerConfig
    from transformer_lens.pretrained import weight_conversions

    fields = hooked_config_fields(model.config, architecture=type(model).__name__)
    recipe = HOOKED_ARCHITECTURES[type(model).__name__]
    _check_biases(model, recipe)
    _check_unquantized(model)
    config = HookedTransformerConfig(
        **fields, model_name=name, dtype=model.dtype, device=str(device or model.device)
    )
    hooked = hooked_class(config)
    with torch.no_grad():
        weights = getattr(weight_conversions, recipe.converter)(model, config)
    if consume:
        if not process_weights:
            own = dict(model.named_parameters(remove_duplicate=False))
            keep_shell(hooked, hollow(model), own, weights)
            del own
        for module in model.modules():
            module._parameters.clear()
    weights = {name: weight.to(hooked.cfg.device) for name, weight in weights.items()}
    if process_weights:
        _process_weights(hooked, weights)
    else:
        _take_weights(hooked, weights, copy=not consume)
    attach_tokenizer(hooked, tokenizer)
    return hooked.eval()


def _process_weights(hooked: Any, weights: dict[str, Any]) -> None:
    hooked.load_and_process_state_dict(
        weights,
        fold_ln=True,
        center_writing_weights=hooked.cfg.normalization_type == "LN",
        center_unembed=hooked.cfg.output_logits_soft_cap <= 0,
        # The constant that a folded value bias stands for needs rows that sum to one.
        fold_value_biases=not hooked.cfg.use_attention_sinks,
    )


def _take_weights(hooked: Any, weights: dict[str, Tensor], *, copy: bool) -> None:
    """Make the converted weights the model's own, in the layout of the checkpoint.

    TransformerLens lays every matrix out that way again each time that it multiplies with it; of
    weights that lie so already, nothing has to be copied. Two weights that are one tensor in the
    checkpoint (tied embeddings) become two, as a HookedTransformer has them.
    """
    seen: set[int] = set()
    parameters = dict(hooked.named_parameters())
    taken: dict[str, Tensor] = {}
    for name, weight in hooked.fill_missing_keys(weights).items():
        own = weight.detach().to(parameters[name].dtype if name in parameters else weight.dtype)
        is_shared = own.data_ptr() in seen
        seen.add(own.data_ptr())
        is_dense = torch.empty_like(own, device="meta").stride() == own.stride()
        if copy or is_shared or not is_dense:
            own = own.clone(memory_format=torch.preserve_format)
        taken[name] = own
    hooked.load_state_dict(taken, strict=False, assign=True)
