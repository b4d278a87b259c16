"""transformers model -> TransformerBridge."""

from inspect import signature
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from step_saliency.models.convert.tokenizer import attach_tokenizer
from step_saliency.models.facts import backend_of, has_sinks
from step_saliency.models.shared import hollow, keep_shell


def bridge_from_transformers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    *,
    name: str = "custom",
    device: torch.device | None = None,
    process_weights: bool = False,
) -> nn.Module:
    """Wrap a transformers model in a TransformerBridge, with eager attention so that hooks live.

    The bridge takes the model over: its submodules are replaced in place.

    Args:
        model: A causal language model that TransformerLens has an adapter for.
        tokenizer: Its tokenizer, used as it is.
        name: ``cfg.model_name`` of the result.
        device: Device of the result; None for that of ``model``.
        process_weights: Switch compatibility mode on (folded norms, centred weights).

    Returns:
        A TransformerBridge in eval mode.

    Raises:
        ValueError: if TransformerLens has no adapter for the architecture, finds no row of blocks
            in it, or processes its weights into those of another model.
    """
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    architecture = type(model).__name__
    model.set_attn_implementation("eager")
    if device is not None:
        model.to(device)
    own, shell = dict(model.named_parameters(remove_duplicate=False)), hollow(model)
    try:
        bridge = build_bridge_from_module(
            model.eval(), architecture, hf_config=model.config, model_name=name
        )
    except (KeyError, NotImplementedError) as error:
        raise ValueError(f"TransformerBridge has no adapter for {architecture!r}") from error
    except (RuntimeError, TypeError, AttributeError) as error:
        raise ValueError(
            f"TransformerBridge cannot be built of this {architecture!r}; TransformerLens says: "
            f"{error}"
        ) from error
    backend_of(bridge)  # refuses what has no row of blocks
    attach_tokenizer(bridge, tokenizer)
    if process_weights:
        _process_weights(bridge)
    else:
        keep_shell(bridge, shell, own, dict(bridge.named_parameters(remove_duplicate=False)))
    return bridge.eval()


def _process_weights(bridge: Any) -> None:
    """Switch compatibility mode on.

    The constant that a folded value bias stands for needs rows that sum to one, as those of heads
    with sinks do not.
    """
    if not has_sinks(bridge):
        bridge.enable_compatibility_mode()
        return
    if "fold_value_biases" not in signature(bridge.enable_compatibility_mode).parameters:
        raise ValueError(
            "this TransformerLens folds value biases where it processes weights, which changes a "
            "model with attention sinks; leave process_weights out or install a later one"
        )
    bridge.enable_compatibility_mode(fold_value_biases=False)
